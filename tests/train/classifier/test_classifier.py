"""A run from flags to the last line: files, exact continuation, and broken nets called broken."""

import csv
import dataclasses
import json
import math
import os
import re
import shutil
import warnings

import keras
import numpy as np
import pytest
from absl import flags

from sparsity_tf import datasets, inspection, layers
from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train import folder_lock, log, optimizers, run_folder, trainer
from sparsity_tf.train.classifier import __main__ as classifier
from sparsity_tf.train.classifier import data as batches
from sparsity_tf.train.classifier import pictures, presets, task
from sparsity_tf.train.classifier.evaluation import Evaluation, TestFigures
from sparsity_tf.train.language_model import __main__ as language_model
from sparsity_tf.train.translator import __main__ as translator
from tests import fresh_process
from tests.train.runs import classify, parsed, recipe_of, weights_of, write_digits

pytestmark = pytest.mark.tensorflow

UNFINISHED = "checkpoint.unfinished.keras"
LAST_LINE = r"test error \d+\.\d\d %, sparsity \d+\.\d\d %, compression \d+\.\dx"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def pictures_for_those_who_look(request, monkeypatch):
    """Drawing takes longer than training here; the run of `finished`, a process of its own, draws all the same."""
    if "film" not in request.node.name:
        monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


def command(digits, output_dir, *more):
    # Without XLA: these nets compile for longer than they train.
    return [
        "--config=lenet300_vd",
        f"--data_dir={digits}",
        f"--output_dir={output_dir}",
        "--batch_size=8",
        "--epochs=3",
        "--jit_compile=false",
        "--steps_per_execution=4",
        "--penalty_weight=0.1",
        "--penalty_begin_epoch=1",
        "--penalty_end_epoch=2",
        *more,
    ]


# Two steps an epoch in the place of eight, for runs of which the first steps show what is asked.
FEW_STEPS = ("--batch_size=32", "--steps_per_execution=2")


# `python -m sparsity_tf.train.classifier` which copies its folder when the second epoch is trained and not saved yet.
COPYING = """
import runpy, shutil
from sparsity_tf.train import run_folder

save = run_folder.Checkpoint.on_epoch_end

def on_epoch_end(self, epoch, logs=None):
    if epoch == 1:
        shutil.copytree(self.folder, self.folder + "-killed")
    save(self, epoch, logs)

run_folder.Checkpoint.on_epoch_end = on_epoch_end
runpy.run_module("sparsity_tf.train.classifier", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A finished run: its folder, its exit status and its output. A kill in its second epoch leaves `vd-killed`."""
    folder = tmp_path_factory.mktemp("runs") / "vd"
    done = fresh_process.run(COPYING, command(digits, folder))
    return folder, done.returncode, done.stdout.splitlines()


def test_last_line_and_exit_status_of_a_good_run(finished):
    _, status, lines = finished
    assert status == 0
    assert re.fullmatch(LAST_LINE, lines[-1])


def test_one_line_for_the_data_and_one_for_each_epoch(finished, digits):
    _, _, lines = finished
    assert lines[0] == f"data: mnist from the IDX files in {digits}."
    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert any("dense_1/kernel" in line for line in lines)
    assert any("multiply-accumulates" in line for line in lines)


def test_results_hold_what_the_last_line_says(finished):
    folder, _, lines = finished
    results = json.loads((folder / "results.json").read_text())
    said = re.findall(r"[\d.]+", lines[-1])
    assert said == [
        f"{100 * results['test_error']:.2f}",
        f"{100 * results['sparsity']:.2f}",
        f"{results['compression']:.1f}",
    ]
    assert results["collapsed"] is None and results["epochs"] == 3
    assert results["macs"]["dense"] == 266_200
    assert set(results["layers"]) == {f"dense_{i}/kernel" for i in (1, 2, 3)}


def test_saved_model_is_the_trained_one_without_its_optimizer(finished):
    folder = finished[0]
    model = keras.saving.load_model(folder / "model.keras")
    assert not model.compiled
    results = json.loads((folder / "results.json").read_text())
    assert inspection.sparsity_table(model).sparsity == results["sparsity"]


def test_a_network_is_saved_with_the_states_of_its_random_draws(tmp_path):
    net = [keras.layers.Input((4,)), layers.VDDense(3), layers.L0Dense(2)]
    model = keras.Sequential(net)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=4, verbose=0)
    run_folder.save_without_optimizer(model, str(tmp_path / "model.keras"))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert any("seed_generator" in variable.path for variable in model.variables)
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_pictures_are_pictures(finished):
    from PIL import Image

    folder = finished[0]
    for name in ("input_mask.png", "sparsity.png"):
        with Image.open(folder / name) as image:
            assert image.format == "PNG" and min(image.size) > 50
    with Image.open(folder / "training.gif") as film:
        assert film.n_frames == 4  # before training and after each of three epochs


def test_metrics_have_one_row_an_epoch_and_the_same_columns(finished):
    folder = finished[0]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["8", "16", "24"]
    assert all(None not in row and None not in row.values() for row in rows)
    for column in ("loss", "test_error", "sparsity", "sparsity/dense_1/kernel", "threshold/dense_1/kernel"):
        assert all(np.isfinite(float(row[column])) for row in rows)
    weights = [float(row["penalty_weight"]) for row in rows]
    # The first call of epoch 2 runs at 0, its second half way up the ramp.
    assert weights == pytest.approx([0.0, 0.05, 0.1])


def test_tensorboard_has_the_figures_of_the_metrics(finished):
    import tensorflow as tf

    folder = finished[0]
    scalars = {}
    for path in (folder / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                scalars[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for row in log.read_metrics(folder):
        for name in set(row) - {"epoch", "step"}:
            assert scalars[name, int(row["epoch"])] == pytest.approx(float(row[name]), rel=1e-6)


@pytest.mark.xla
def test_resumed_run_ends_bit_identical(finished, digits, capsys):
    folder = finished[0].with_name("vd-killed")
    assert len(log.read_metrics(folder)) == 2  # the row of the lost epoch was written
    status, lines, _ = classify(command(digits, folder, "--resume"), capsys)
    assert status == 0 and "resuming after epoch 1" in lines
    through, through_lines = finished[0], finished[2]
    assert lines[-1] == through_lines[-1]
    for a, b in zip(weights_of(folder), weights_of(through), strict=True):
        np.testing.assert_array_equal(a, b)
    rows, through_rows = log.read_metrics(folder), log.read_metrics(through)
    for row in rows + through_rows:
        del row["seconds"]
    assert rows == through_rows
    assert sorted(os.listdir(folder / "frames")) == sorted(os.listdir(through / "frames"))


@pytest.mark.xla
def test_resume_without_a_checkpoint_starts_anew(finished, digits, tmp_path, capsys):
    status, lines, _ = classify(command(digits, tmp_path / "new", "--resume"), capsys)
    assert status == 0 and "no checkpoint yet: starting anew" in lines
    assert lines[-1] == finished[2][-1]


def test_resume_of_a_finished_run_reports_again(finished, digits, capsys):
    folder, _, before = finished
    status, lines, _ = classify(command(digits, folder, "--resume"), capsys)
    assert status == 0 and lines[-1] == before[-1]
    assert not any(line.startswith("epoch ") for line in lines)


def test_resume_with_other_settings_is_refused(finished, digits, capsys):
    arguments = command(digits, finished[0], "--resume", "--learning_rate=0.1")
    status, _, error = classify(arguments, capsys)
    assert status == 2
    usual = presets.PRESETS["lenet300_vd"].learning_rate
    assert f"learning_rate: {usual} -> 0.1" in error
    assert error.count("\n") == 1


def test_resume_finds_the_data_of_the_run(finished, digits, capsys):
    folder, _, before = finished
    arguments = [argument for argument in command(digits, folder, "--resume") if "data_dir" not in argument]
    status, lines, _ = classify(arguments, capsys)
    assert status == 0 and (lines[0], lines[-1]) == (before[0], before[-1])


def test_resume_with_data_in_another_folder_goes_on(finished, digits, tmp_path, capsys):
    moved, folder = shutil.copytree(digits, tmp_path / "moved"), shutil.copytree(finished[0], tmp_path / "run")
    status, lines, _ = classify(command(moved, folder, "--resume"), capsys)
    assert status == 0 and lines[-1] == finished[2][-1]
    assert json.loads((folder / run_folder.RECIPE).read_text())["data_dir"] == str(moved)


def test_resume_with_other_data_is_refused(finished, digits, tmp_path, capsys):
    folder, before = finished[0], contents(finished[0])
    other = shutil.copytree(digits, tmp_path / "other")
    labels = other / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    status, _, error = classify(command(other, folder, "--resume"), capsys)
    assert status == 2 and error.startswith(f"error: `resume` must be used with the data of the run in {folder}.")
    assert "checksum: " in error and error.count("\n") == 1
    assert contents(folder) == before


def test_data_are_told_from_others(digits, tmp_path):
    data = datasets.mnist(str(digits))
    fewer = dataclasses.replace(data, x_train=data.x_train[:50], y_train=data.y_train[:50])
    assert batches.describe(fewer)["training_examples"] == 50
    assert batches.describe(fewer)["checksum"] != batches.describe(data)["checksum"]
    split = datasets.images.imagenet.Split(("/a/train-0",), None, 8)
    files = datasets.ImageFiles(split, split, 10, "imagenet", "")
    moved = dataclasses.replace(split, files=("/b/train-0",))
    assert batches.describe(files) == batches.describe(dataclasses.replace(files, train=moved))
    other = dataclasses.replace(split, files=("/a/train-1",))
    assert batches.describe(files) != batches.describe(dataclasses.replace(files, train=other))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_damaged_recipe_is_named(finished, digits, tmp_path, capsys, content):
    (tmp_path / run_folder.RECIPE).write_text(content)
    status, _, error = classify(command(digits, tmp_path, "--resume"), capsys)
    assert status == 2 and error.startswith(f"error: {tmp_path / run_folder.RECIPE} is damaged: ")


@pytest.mark.parametrize("size", [0, 1000])
def test_damaged_checkpoint_is_called_so(finished, tmp_path, size):
    (tmp_path / run_folder.CHECKPOINT).write_bytes((finished[0] / run_folder.CHECKPOINT).read_bytes()[:size])
    with pytest.raises(
        ValueError, match=f"{tmp_path / run_folder.CHECKPOINT} can't be loaded: it is damaged or truncated"
    ):
        run_folder.restore(str(tmp_path), 8)


def test_recipe_is_written_whole_and_only_when_it_changes(tmp_path):
    def claim(**settings):
        run_folder.claim_folder(str(tmp_path), presets.Recipe(**settings), True, False, {"name": "digits"})
        return os.stat(tmp_path / run_folder.RECIPE).st_ino

    first = claim()
    assert claim() == first
    assert claim(log_every=2) != first  # another file took the name
    assert os.listdir(tmp_path) == [run_folder.RECIPE]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        [run_folder.CHECKPOINT],
        [
            run_folder.CHECKPOINT,
            run_folder.MODEL,
            run_folder.RESULTS,
            run_folder.METRICS,
            "sparsity.png",
            "filters_conv_1.png",
        ],
        [run_folder.RESULTS, run_folder.METRICS],
        [os.path.join(run_folder.FRAMES, "0001.npz")],
    ],
    ids=["unfinished", "finished", "diverged", "frames"],
)
def test_earlier_run_is_removed_only_when_asked(files, tmp_path):
    folder = tmp_path / "run [1]"
    for name in [*files, "notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"hours of work")
    before, recipe = contents(folder), presets.Recipe()
    with pytest.raises(ValueError, match="holds an earlier run") as error:
        run_folder.claim_folder(str(folder), recipe, resume=False, overwrite=False)
    message = str(error.value)
    assert message.startswith(str(folder)) and "\n" not in message
    assert "--resume" in message and "--overwrite" in message
    assert contents(folder) == before
    run_folder.claim_folder(str(folder), recipe, resume=True, overwrite=False)
    assert contents(folder).items() >= before.items()
    run_folder.claim_folder(str(folder), recipe, resume=False, overwrite=True)
    assert sorted(os.listdir(folder)) == ["notes.txt", run_folder.RECIPE]


def test_finished_run_is_not_overwritten_by_accident(finished, digits, capsys):
    folder = finished[0]
    before = contents(folder)
    status, _, error = classify(command(digits, folder), capsys)
    assert status == 2 and error.startswith(f"error: {folder} holds an earlier run") and error.count("\n") == 1
    assert contents(folder) == before


def test_folder_of_a_run_that_never_began_is_free(tmp_path):
    for _ in range(2):
        run_folder.claim_folder(str(tmp_path), presets.Recipe(), resume=False, overwrite=False)


def test_kill_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    checkpoint = run_folder.Checkpoint(str(tmp_path))
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {"loss": 1.0})
    before = (tmp_path / run_folder.CHECKPOINT).read_bytes()

    def save(path):
        with open(path, "wb") as file:
            file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save", save)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.on_epoch_end(1, {"loss": 1.0})
    assert (tmp_path / run_folder.CHECKPOINT).read_bytes() == before


def test_net_whose_last_loss_is_not_finite_has_diverged(finished, digits, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    rows = log.read_metrics(folder)
    rows[-1]["loss"] = "inf"
    with open(folder / run_folder.METRICS, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    status, lines, _ = classify(command(digits, folder, "--resume"), capsys)
    assert status == 1
    assert lines[-1] == "diverged: a training loss that is not finite; no sparsity is reported"


def test_the_rate_in_the_metrics_is_that_of_their_step(finished):
    rate = optimizers.learning_rate(recipe_of(*command("", "")), 8)
    rows = log.read_metrics(finished[0])
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([float(rate(int(r["step"]))) for r in rows])
    assert len({row["learning_rate"] for row in rows}) == 3


def test_layers_left_dense_count_in_every_figure(digits, tmp_path, capsys):
    dnw = ("--technique=dnw", "--sparsity=0.5", "--where=dense_2", "--epochs=1")
    arguments = command(digits, tmp_path / "run", *dnw, *FEW_STEPS)
    status, lines, _ = classify(arguments, capsys)
    assert status == 0
    # 15,000 zeros among 266,200 weights.
    assert lines[-1].endswith("sparsity 5.63 %, compression 1.1x")
    assert any("sparsity 5.63 % (50.00 % of the sparse weights)" in line for line in lines if line.startswith("epoch "))
    assert any(re.fullmatch(r"sparse weights alone +30,000 +15,000 +50.00 %", line) for line in lines)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["sparsity"] == pytest.approx(15_000 / 266_200)
    assert results["sparsity_of_sparse_weights"] == 0.5
    assert results["layers"] == {"dense_1/kernel": 0.0, "dense_2/kernel": 0.5, "dense_3/kernel": 0.0}
    (row,) = log.read_metrics(tmp_path / "run")
    assert float(row["sparsity"]) == results["sparsity"] and float(row["sparsity_of_sparse_weights"]) == 0.5
    assert [float(row[f"sparsity/dense_{i}/kernel"]) for i in (1, 2, 3)] == [0.0, 0.5, 0.0]


def test_saved_model_is_the_one_reported_not_the_checkpoint(digits, tmp_path, capsys, monkeypatch):
    # As if the last epochs had not been saved: the checkpoint is the first epoch's.
    save = run_folder.Checkpoint.on_epoch_end
    monkeypatch.setattr(
        run_folder.Checkpoint,
        "on_epoch_end",
        lambda self, epoch, logs=None: save(self, epoch, logs) if epoch == 0 else None,
    )
    reported = []
    run = Evaluation.run
    monkeypatch.setattr(Evaluation, "run", lambda self: (reported.append(self.model), run(self))[1])
    status, _, _ = classify(command(digits, tmp_path / "run", "--epochs=2", *FEW_STEPS), capsys)
    assert status == 0
    saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
    checkpoint = keras.saving.load_model(tmp_path / "run" / run_folder.CHECKPOINT)
    kernels = [model.get_layer("dense_1").kernel.numpy() for model in (saved, reported[-1], checkpoint)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    images = np.random.default_rng(0).normal(size=(4, 28, 28, 1))
    np.testing.assert_array_equal(saved.predict_on_batch(images), reported[-1].predict_on_batch(images))


def test_collapsed_net_is_reported_as_such(digits, tmp_path, capsys):
    # So much noise from the start that every weight is over the threshold.
    options = '--technique_options={"log_sigma2_initializer": 8}'
    status, lines, _ = classify(command(digits, tmp_path / "run", options, *FEW_STEPS), capsys)
    assert status == 1
    assert re.fullmatch(
        r"collapsed: the network predicts class \d for every test image; no sparsity is reported",
        lines[-1],
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["collapsed"] == lines[-1] and "sparsity" not in results
    assert "compression" not in lines[-1] and not any("compression (" in line for line in lines)


@pytest.mark.usefixtures("uncompiled")
def test_diverged_net_stops_and_is_reported_as_such(digits, tmp_path, capsys):
    arguments = command(
        digits,
        tmp_path / "run",
        "--technique=str",
        "--optimizer=sgd",
        "--learning_rate=1e30",
        "--lr_schedule=constant",
    )
    status, lines, _ = classify(arguments, capsys)
    assert status == 1
    assert re.fullmatch(r"diverged: .*not finite.*; no sparsity is reported", lines[-1])
    assert sum(line.startswith("epoch ") for line in lines) == 1  # of three
    assert not (tmp_path / "run" / run_folder.CHECKPOINT).exists()


@pytest.mark.parametrize("technique", ["none", "l0", "str", "dnw"])
def test_every_technique_of_layers_trains(digits, tmp_path, capsys, technique):
    arguments = command(digits, tmp_path / "run", f"--technique={technique}", "--epochs=1", *FEW_STEPS)
    if technique == "dnw":
        arguments.append("--sparsity=0.5")
    status, lines, _ = classify(arguments, capsys)
    assert status == 0 and re.fullmatch(LAST_LINE, lines[-1])
    if technique == "dnw":
        assert lines[-1].endswith("sparsity 50.00 %, compression 2.0x")


@pytest.mark.usefixtures("uncompiled")
def test_convolutional_net_trains_and_is_filmed(digits, tmp_path, capsys):
    arguments = command(digits, tmp_path / "run", "--model=lenet_5_caffe", "--epochs=1", *FEW_STEPS)
    status, lines, _ = classify(arguments, capsys)
    assert re.fullmatch(LAST_LINE, lines[-1]) or status == 1
    if status == 0:
        for name in ("filters_conv_1.png", "filters_conv_2.png", "training.gif"):
            assert (tmp_path / "run" / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=lenet300_densee"], "`config` must be one of lenet300_dense"),
        (["--optimizer=lion"], "`optimizer` must be one of adam, adamw, sgd"),
        (["--data_dir=/nowhere", "--dataset=mnist"], "`data_dir` does not exist"),
        (["--batch_size=100000"], "`batch_size` must be an integer from 1 to the 64"),
        (["--penalty_end_epoch=0"], "`penalty_end_epoch` must not come before `penalty_begin_epoch`"),
        (["--model=mnist_mlp", '--model_options={"hidden": 5}'], "`hidden` must be a tuple of positive integers"),
    ],
)
def test_unusable_flags_give_one_line_and_status_2(digits, tmp_path, capsys, arguments, message):
    status, _, error = classify(command(digits, tmp_path / "run", *arguments), capsys)
    assert status == 2
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (tmp_path / "run" / run_folder.CHECKPOINT).exists()


@pytest.mark.parametrize(
    "error", [ValueError("image.JPEG is\n  broken."), OSError("disk full"), ImportError("no tfds")]
)
@pytest.mark.parametrize("place", ["prepare", "train"])
def test_errors_of_data_and_files_give_one_line_and_status_2(tmp_path, capsys, error, place):
    def fail(_):
        raise error

    prepare, train = (fail, None) if place == "prepare" else (lambda folder: None, fail)
    status = recipe_flags.run(["classifier"], parsed([f"--output_dir={tmp_path}"]), prepare, train)
    assert (status, capsys.readouterr().err) == (2, f"error: {' '.join(str(error).split())}\n")


@pytest.mark.parametrize(
    "name", [run_folder.SPARSITY, run_folder.RESULTS + ".unfinished", "unfinished_model.keras", UNFINISHED]
)
@pytest.mark.usefixtures("uncompiled")
def test_full_disk_names_the_path_and_says_how_to_go_on(digits, tmp_path, capsys, name):
    """Whatever is being written; afterwards the run goes on as if nothing had been."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    arguments = command(digits, tmp_path, "--technique=none", "--epochs=1", "--resume", *FEW_STEPS)
    os.symlink("/dev/full", tmp_path / name)
    status, _, error = classify(arguments, capsys)
    assert status == 2 and error.count("\n") == 1
    assert error.startswith("error: [Errno 28] No space left on device: ") and str(tmp_path) in error
    assert "the same command with --resume continues the run" in error
    os.remove(tmp_path / name)
    status, lines, _ = classify(arguments, capsys)
    assert status == 0 and len(log.read_metrics(tmp_path)) == 1


def test_row_that_a_full_disk_cut_off_is_none(tmp_path):
    log.write_rows(tmp_path / run_folder.METRICS, [{"epoch": 1, "loss": 0.5}])
    with open(tmp_path / run_folder.METRICS, "a") as file:
        file.write("1,0.")
    assert log.read_metrics(tmp_path) == [{"epoch": "1", "loss": "0.5"}]


def test_rows_of_before_outlive_a_kill_while_they_are_written_anew(tmp_path, monkeypatch):
    rows = [{"epoch": epoch, "loss": 0.5} for epoch in (1, 2)]
    log.write_rows(tmp_path / run_folder.METRICS, rows)

    def killed(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(csv.DictWriter, "writerows", killed)
    with pytest.raises(KeyboardInterrupt):
        log.write_rows(tmp_path / run_folder.METRICS, rows[:1])
    assert len(log.read_metrics(tmp_path)) == 2


def test_run_in_a_folder_that_another_process_uses_is_refused(digits, tmp_path, capsys, monkeypatch):
    def in_use(folder, wait_seconds):
        raise ValueError(f"{folder} is in use by process 5, waited {wait_seconds} s")

    monkeypatch.setattr(folder_lock, "FolderLock", in_use)
    for more, waited in (((), 0), (("--overwrite",), 0), (("--resume",), folder_lock.WAIT_SECONDS)):
        status, _, error = classify(command(digits, tmp_path / "run", *more), capsys)
        assert status == 2 and f"is in use by process 5, waited {waited} s" in error
        assert not os.listdir(tmp_path / "run")


def test_output_must_be_a_folder(digits, tmp_path, capsys):
    (tmp_path / "file").touch()
    status, _, error = classify(command(digits, tmp_path / "file"), capsys)
    assert (status, error) == (2, f"error: `output_dir` must be a folder. Received: output_dir={tmp_path / 'file'}\n")


@pytest.mark.parametrize(
    ("more", "said"), [([], "--resume"), (["--overwrite"], "--resume in the place of --overwrite")]
)
def test_interrupted_run_says_how_to_go_on(tmp_path, capsys, more, said):
    def interrupt(_):
        raise KeyboardInterrupt

    values = parsed(["--config=lenet300_vd", f"--output_dir={tmp_path}", *more])
    assert recipe_flags.run(["classifier"], values, lambda folder: None, interrupt) == 130
    assert f"the same command with {said} continues the run in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("program", [classifier, language_model, translator], ids=lambda module: module.__name__)
def test_help_lists_the_flags(program):
    values = flags.FlagValues()
    program.define_flags(values)
    shown = {flag.name for flag in values.get_key_flags_for_module(program.__name__)}
    assert {"config", "output_dir", "learning_rate", "technique"} <= shown


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as ended:
        recipe_flags.parse(["classifier", "--help"])
    assert ended.value.code == 0 and capsys.readouterr().out


def test_the_settings_of_a_preset_can_be_seen_without_a_run(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--config=lenet300_rigl", "--epochs=7", f"--output_dir={folder}", "--show_recipe"]
    status, lines, _ = classify(arguments, capsys)
    shown = json.loads("\n".join(lines))
    assert status == 0 and not folder.exists()
    assert (shown["technique"], shown["epochs"], shown["final_sparsity"]) == ("rigl", 7, 0.95)


def test_best_model_is_a_final_one(digits, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, *a, callbacks, **k: given.extend(callbacks))
    pruning = ["--config=lenet300_magnitude", "--train_examples=0", "--begin_step=2", "--end_step=13", "--frequency=1"]
    arguments = [*pruning, f"--data_dir={digits}", "--batch_size=8", "--epochs=3", "--keep_best"]
    trainer.fit(trainer.prepare(task.ClassifierTask(), recipe_of(*arguments), str(tmp_path)))
    (best,) = [callback for callback in given if isinstance(callback, run_folder.Best)]
    assert (best.from_epoch, best.lowest) == (2, math.inf)


def test_best_model_of_before_is_not_the_one_to_beat(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    best = run_folder.Best(str(tmp_path), "test_error", from_epoch=2)
    best.set_model(model)
    best.on_epoch_end(0, {"test_error": 0.1})
    assert not (tmp_path / run_folder.BEST).exists()
    rows = [{"epoch": epoch, "test_error": error} for epoch, error in ((1, 0.1), (2, 0.3), (3, 0.4), (4, "nan"))]
    log.write_rows(tmp_path / run_folder.METRICS, rows)
    assert log.lowest_error(tmp_path, "test_error", 2) == math.inf  # there is no file of that error
    best.on_epoch_end(1, {"test_error": 0.3})
    assert (tmp_path / run_folder.BEST).exists()
    assert log.lowest_error(tmp_path, "test_error", 2) == 0.3
    assert log.lowest_error(tmp_path, "test_error", 5) == math.inf


def test_schedule_that_the_run_is_too_short_for_is_said(digits, tmp_path, capsys):
    pruning = ["--config=lenet300_magnitude", "--train_examples=0", "--begin_step=2", "--end_step=40", "--frequency=2"]
    recipe = recipe_of(*pruning, f"--data_dir={digits}", "--batch_size=8", "--epochs=3")
    trainer.prepare(task.ClassifierTask(), recipe, str(tmp_path))
    error = capsys.readouterr().err
    assert error == (
        "warning: the run ends after 24 steps (epochs=3): the final sparsity of 0.95 is reached only at end_step=40\n"
    )


@pytest.mark.compiled
@pytest.mark.parametrize("structure", ["4:7", "filter"])
def test_each_warning_of_a_run_comes_once(digits, tmp_path, capsys, structure):
    pruning = ["--config=lenet300_magnitude", "--train_examples=0", "--begin_step=0", "--end_step=9", "--frequency=2"]
    pruning += [f"--structure={structure}", f"--final_sparsity={1 - 4 / 7}", "--steps_per_execution=1"]
    arguments = [*pruning, f"--data_dir={digits}", f"--output_dir={tmp_path}", "--batch_size=32", "--epochs=2"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, _, error = classify([*arguments, "--jit_compile=false"], capsys)
    assert status == 0 and error.count("the final sparsity of 0.428571 is reached only at end_step=9") == 1
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    once = {
        "4:7": "Some weights become less sparse than the structure says",
        "filter": "The weights ['dense_3/kernel'] of output layers",
    }
    assert len(said) == 2 and said[0].startswith(once[structure])
    assert said[1].startswith("MagnitudePruning ended at a sparsity of ")


def test_unknown_flag_gives_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        recipe_flags.parse(["classifier", "--epoch=3"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: Unknown command line flag 'epoch'") and error.count("\n") == 1


def test_verdict_is_none_only_for_a_sound_net():
    class Table:
        finite = True
        rows = ()

    sound, constant = TestFigures(0.1, 0.02, 0.0, None, True), TestFigures(2.3, 0.9, 0.5, 7, True)
    broken = TestFigures(float("nan"), float("nan"), float("nan"), None, False)
    assert task.verdict(Table, sound, 0.1) is None
    assert task.verdict(Table, constant, 0.1).startswith("collapsed: the network predicts class 7")
    assert task.verdict(Table, broken, 0.1).startswith("diverged: outputs")
    for loss in (float("nan"), float("inf")):
        assert task.verdict(Table, sound, loss).startswith("diverged: a training loss")
