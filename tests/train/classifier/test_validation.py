"""Held-out training images: they choose `best.keras`, are logged, and leave the test set for the end."""

import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from sparsity_tf.datasets.batches import first_of
from sparsity_tf.tools import evaluate
from sparsity_tf.train import log, run_folder
from sparsity_tf.train.classifier import data, pictures, presets, task
from sparsity_tf.train.classifier.evaluation import Evaluation
from sparsity_tf.train.classifier.recipe import from_settings
from tests.train.runs import classify, recipe_of, weights_of, write_digits

pytestmark = pytest.mark.tensorflow

SPLIT = ("--validation_split=0.25", "--keep_best")


class Killed(Exception):
    pass


class Silent:
    """In the place of `capsys`, for runs of fixtures."""

    def readouterr(self):
        return type("Output", (), {"out": "", "err": ""})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def command(digits, folder, *more):
    small = ("--batch_size=16", "--epochs=3", "--jit_compile=false", "--frequency=2", "--train_examples=0")
    return ["--config=lenet300_rigl", f"--data_dir={digits}", f"--output_dir={folder}", *small, *more]


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A run with held-out images: its folder, and which images were measured, in order."""
    folder, measured, run = tmp_path_factory.mktemp("whole"), [], Evaluation.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw", lambda model, folder: [])
        patch.setattr(
            Evaluation, "run", lambda self, *split: (measured.extend(split or [self.split]), run(self, *split))[1]
        )
        assert classify(command(digits, folder, *SPLIT), Silent())[0] == 0
    return folder, measured


def kill_after_an_epoch(monkeypatch):
    save = run_folder.Checkpoint.on_epoch_end

    def save_or_die(self, epoch, logs=None):
        if epoch == 1:
            raise Killed
        save(self, epoch, logs)

    monkeypatch.setattr(run_folder.Checkpoint, "on_epoch_end", save_or_die)


def rows_without_seconds(folder):
    return [{name: row[name] for name in row if name != "seconds"} for row in log.read_metrics(folder)]


def arrays_of(path):
    return [keras.ops.convert_to_numpy(v) for v in keras.saving.load_model(path, compile=False).variables]


def test_the_test_set_is_measured_once_at_the_end(whole):
    folder, measured = whole
    # After each epoch; then the last network, and the best one.
    assert measured[:3] == ["validation"] * 3
    assert sorted(measured[3:]) == ["test", "test", "validation", "validation"]
    rows = log.read_metrics(folder)
    assert {"val_loss", "val_accuracy", "val_error", "val_top5_error"} <= set(rows[0])
    assert not [name for name in rows[0] if "test" in name]
    results = json.loads((folder / run_folder.RESULTS).read_text())
    assert results["val_error"] == pytest.approx(float(rows[-1]["val_error"]))
    assert set(results) >= {"test_error", "test_top5_error", "val_top5_error"}


def test_the_best_network_is_that_of_the_lowest_validation_error(whole):
    folder, _ = whole
    errors = [float(row["val_error"]) for row in log.read_metrics(folder)]
    best = json.loads((folder / run_folder.RESULTS).read_text())["best"]
    assert best["val_error"] == min(errors) and best["epoch"] == 1 + errors.index(min(errors))
    assert 0 <= best["test_error"] <= 1 and best["sparsity"] == pytest.approx(0.95, abs=1e-3)


def test_a_continued_run_ends_bit_identical(whole, digits, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after_an_epoch(patch)
        with pytest.raises(Killed):
            classify(command(digits, tmp_path, *SPLIT), capsys)
    status, lines, error = classify(command(digits, tmp_path, *SPLIT, "--resume"), capsys)
    assert (status, error) == (0, "") and "resuming after epoch 1" in lines
    assert any(line.startswith("48 training, 16 validation and 32 test images;") for line in lines)
    assert sum("validation error" in line for line in lines if line.startswith("epoch ")) == 2
    [said] = [line for line in lines if line.startswith("best.keras: epoch ")]
    assert "validation error" in said and "test error" in said
    for one, other in zip(weights_of(tmp_path), weights_of(whole[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(*(arrays_of(f / run_folder.BEST) for f in (tmp_path, whole[0])), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rows_without_seconds(tmp_path) == rows_without_seconds(whole[0])


def test_another_split_is_another_run(whole, digits, capsys):
    for change in ("--validation_split=0.5", "--validation_seed=1", "--valid_split=0"):
        status, _, error = classify(command(digits, whole[0], *SPLIT, change, "--resume"), capsys)
        assert status == 2 and f"{change[2:].split('=')[0].replace('valid_', 'validation_')}: " in error


def test_the_last_examples_can_be_held_out_as_sparse_momentums_program_does(digits):
    drawn, last = (recipe_of(*command(digits, "", *SPLIT, f"--validation_seed={seed}")) for seed in (0, -1))
    first = dataclasses.replace(last, validation_split=0.0, validation_seed=0, train_examples=48)
    drawn, last, first = (data.make_batches(one, data.load_data(one)) for one in (drawn, last, first))
    (x_drawn, _), (x_last, y_last), (x_first, y_first) = (first_of(one.train()) for one in (drawn, last, first))
    np.testing.assert_array_equal(x_last, x_first)
    np.testing.assert_array_equal(y_last, y_first)
    assert not np.array_equal(x_drawn, x_first)
    # The training images lie in the order of their classes, 0 to 9 again and again: number 48 is of class 8.
    assert first_of(last.validation())[1].tolist() == [number % 10 for number in range(48, 64)]
    assert len(set(first_of(drawn.validation())[1].tolist())) > 4


def test_evaluate_preprocesses_as_the_run_did(whole, capsys):
    assert evaluate.main(["evaluate", f"--checkpoint={whole[0] / 'model.keras'}", "--format=json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["error"] == json.loads((whole[0] / run_folder.RESULTS).read_text())["test_error"]


def test_without_held_out_images_the_best_network_is_the_last(digits, tmp_path, capsys):
    status, lines, error = classify(command(digits, tmp_path, "--keep_best", "--epochs=2"), capsys)
    assert (status, error) == (0, "")
    [said] = [line for line in lines if line.startswith("best.keras ")]
    assert said.startswith("best.keras will be the network of the last epoch: nothing is held out")
    for one, other in zip(*(arrays_of(tmp_path / name) for name in (run_folder.BEST, run_folder.MODEL)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {"test_error"} <= set(log.read_metrics(tmp_path)[0])
    assert "val_error" not in json.loads((tmp_path / run_folder.RESULTS).read_text())


def test_the_line_of_best_keras_says_what_is_missing():
    best = {"epoch": 3, "val_error": 0.25, "test_error": 0.5, "sparsity": 0.9}
    line = "best.keras: epoch 3, validation error 25.00 %, test error 50.00 %, sparsity 90.00 %"
    assert task._line_of_best(best) == line
    line = "best.keras: validation error 25.00 %, test error is not finite, sparsity 90.00 %"
    assert task._line_of_best({**best, "epoch": None, "test_error": None}) == line


def test_settings_of_a_wrong_kind_are_named():
    for settings in ({"lr_boundaries": 5}, {"epochs": "many"}, {"epochs": 0}):
        with pytest.raises(ValueError, match=r"a/recipe\.json is damaged: "):
            from_settings(settings, "a/recipe.json")


def test_best_without_a_choice_is_the_latest_with_a_finite_loss(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    best = run_folder.Best(str(tmp_path), None, from_epoch=2)
    best.set_model(model)
    kernels = []
    for epoch, loss in enumerate((1.0, 2.0, 3.0, float("nan"))):
        model.layers[0].kernel.assign(np.full((2, 1), float(epoch)))
        best.on_epoch_end(epoch, {"loss": loss})
        file = tmp_path / run_folder.BEST
        kernels.append(float(arrays_of(file)[0][0, 0]) if file.exists() else None)
    assert kernels == [None, 1.0, 2.0, 2.0]


@pytest.fixture(scope="module")
def old_run(digits, tmp_path_factory):
    """Folder of a run that was killed after an epoch, whose recipe lacks the settings that came later."""
    folder = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        kill_after_an_epoch(patch)
        with pytest.raises(Killed):
            classify(command(digits, folder), Silent())
    settings = json.loads((folder / run_folder.RECIPE).read_text())
    for name in (*run_folder.ADDED, "bench", "features"):
        del settings[name]
    (folder / run_folder.RECIPE).write_text(json.dumps(settings))
    return folder


def test_a_run_of_an_earlier_version_goes_on_although_its_preset_holds_images_out_now(
    old_run, digits, tmp_path, capsys, monkeypatch
):
    folder = shutil.copytree(old_run, tmp_path / "run")
    changed = dataclasses.replace(presets.PRESETS["lenet300_rigl"], validation_split=0.5, learning_rate=0.5)
    monkeypatch.setitem(presets.PRESETS, "lenet300_rigl", changed)
    status, lines, error = classify(command(digits, folder, "--resume"), capsys)
    assert (status, error) == (0, "") and "resuming after epoch 1" in lines
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])
    assert classify(command(digits, tmp_path / "whole"), capsys)[0] == 0
    for one, other in zip(weights_of(folder), weights_of(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rows_without_seconds(folder) == rows_without_seconds(tmp_path / "whole")


def test_a_run_of_an_earlier_version_is_known_by_its_flags_too(tmp_path):
    def recipe(*flags):
        return recipe_of(*flags, "--resume", f"--output_dir={tmp_path}")

    other = recipe_of("--config=wrn-16-8_snfs", "--technique=set", "--validation_split=0", "--batch_size=50")
    settings = run_folder.as_plain(other)
    for name in run_folder.ADDED:
        del settings[name]
    (tmp_path / run_folder.RECIPE).write_text(json.dumps(settings))
    assert recipe("--config=wrn-16-8_snfs", "--technique=set", "--batch_size=50") == other
    # The preset of another network is not taken for that run.
    assert recipe("--config=wrn-28-2_snfs", "--technique=set").model_options["depth"] == 28


def test_a_run_that_lacks_only_the_newest_settings_goes_on_with_its_own(tmp_path):
    """`lenet300_sbp` had other settings before it had a `technique_rate`."""
    old = recipe_of("--config=lenet300_sbp", "--where=dense_[12]", "--epochs=200", "--technique_rate=1")
    settings = run_folder.as_plain(old)
    del settings["technique_rate"]
    (tmp_path / run_folder.RECIPE).write_text(json.dumps(settings))
    assert recipe_of("--config=lenet300_sbp", "--resume", f"--output_dir={tmp_path}") == old


@pytest.mark.parametrize("more", [["--validation_split=0.25"], ["--config=lenet300_set"], ["--learning_rate=0.5"]])
def test_a_run_of_an_earlier_version_is_not_continued_as_another(old_run, digits, capsys, more):
    status, _, error = classify(command(digits, old_run, "--resume", *more), capsys)
    assert status == 2 and "`resume` must be used with the settings of the run in" in error and error.count("\n") == 1


def test_no_preset_chooses_on_the_test_set():
    keeping = {name: recipe for name, recipe in presets.PRESETS.items() if recipe.keep_best}
    assert keeping and all(recipe.validation_split > 0 for recipe in keeping.values())
    momentum = presets.PRESETS["wrn-16-8_snfs"]
    assert (momentum.validation_split, momentum.batch_size) == (0.1, 128)
    assert [round(epoch * (45_000 // 128)) for epoch in momentum.lr_boundaries] == [30_000, 60_000, 90_000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--validation_split=1"], "`validation_split` must be a number at least 0 and below 1"),
        (["--validation_seed=1"], "`validation_seed` needs a `validation_split` above 0"),
        (["--validation_split=0.9"], "`batch_size` must be an integer from 1 to the 6 training images"),
        (["--validation_split=0.99"], "`validation_split` must be a fraction below 1 or a number of images below 64"),
        (["--bench"], "`bench` needs a convolution, and lenet_300_100 has none"),
        (["--features"], "`features` needs a ReLU whose output has positions and channels"),
    ],
)
def test_what_cannot_be_is_refused_before_training(digits, tmp_path, capsys, arguments, message):
    status, _, error = classify(command(digits, tmp_path / "run", *arguments), capsys)
    assert status == 2 and error.startswith(f"error: {message}") and error.count("\n") == 1


def test_a_preset_with_a_split_takes_none():
    recipe = recipe_of("--config=wrn-16-8_snfs", "--validation_split=0")
    assert (recipe.validation_split, recipe.validation_seed) == (0.0, 0)
    assert recipe_of("--config=wrn-16-8_snfs", "--validation_seed=3").validation_seed == 3


def test_the_spelling_of_sparse_momentums_program_is_taken():
    assert recipe_of("--valid_split=0.1").validation_split == 0.1


@pytest.mark.usefixtures("uncompiled")
def test_speedup_and_features_are_written_at_the_end_and_later(digits, tmp_path, capsys):
    from sparsity_tf.inspection import FeatureTable

    arguments = ["--config=lenet5_dense", "--technique=static", "--final_sparsity=0.5", f"--data_dir={digits}"]
    arguments += [f"--output_dir={tmp_path}", "--epochs=1", "--batch_size=16", "--jit_compile=false"]
    status, lines, _ = classify([*arguments, "--bench"], capsys)
    assert status in (0, 1)
    if status == 1:
        pytest.skip("the net has collapsed after an epoch")
    with open(tmp_path / run_folder.SPEEDUP, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["conv_1", "conv_2", "total"] and int(rows[0]["calls"]) == 2
    for row in rows[:2]:
        assert float(row["dense/sparse"]) > 1.9  # half of the weights, and not more than all inputs
    assert not (tmp_path / run_folder.FEATURES).exists()
    status, lines, _ = classify([*arguments, "--resume", "--save-features"], capsys)
    assert status == 0 and any("mean class specialization" in line for line in lines)
    table = FeatureTable.load(tmp_path / run_folder.FEATURES)
    with open(tmp_path / run_folder.FEATURES_TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.name for row in table] == [row["layer"] for row in rows] and len(rows) == 2
    assert float(rows[0]["mean_specialization"]) == pytest.approx(table.rows[0].specialization.mean())
    assert table.rows[0].contributions.shape == (20, 10)
    assert {"speedup.csv", "features.csv"} <= {path.name for path in tmp_path.iterdir()}
    run_folder.claim_folder(str(tmp_path), presets.Recipe(), resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [run_folder.RECIPE]
