"""A character model from flags to the last line: bits per character, exact continuation, errors before any work."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags
from keras import ops

from sparsity_tf import layers
from sparsity_tf.datasets import CharacterBatches, character_corpus
from sparsity_tf.train import run_folder as state
from sparsity_tf.train import setting_texts, trainer
from sparsity_tf.train import sparsity_settings as algorithms
from sparsity_tf.train.language_model import __main__ as language_model
from sparsity_tf.train.language_model import presets
from sparsity_tf.train.language_model import recipe as language_recipe
from sparsity_tf.train.language_model.task import LanguageModelTask

pytestmark = pytest.mark.tensorflow

TASK = LanguageModelTask()

LAST_LINE = (
    r"bits per character \d\.\d{4} \(validation\), \d\.\d{4} \(test\), sparsity \d+\.\d\d %, compression \d+\.\dx"
)
SMALL = (
    "--cell=gru",
    "--hidden_size=12",
    "--depth=1",
    "--window=8",
    "--batch_size=8",
    "--epoch_steps=6",
    "--epochs=2",
    "--frequency=3",
    "--eval_characters=403",
    "--jit_compile=false",
)


def run(*arguments):
    """Runs the program in this process; returns its exit status."""
    values = flags.FlagValues()
    language_model.define_flags(values)
    return language_model.main(values(["language_model", *map(str, arguments)])[:1], values)


def weights_of(folder):
    model = keras.saving.load_model(os.path.join(folder, "checkpoint.keras"))
    return [ops.convert_to_numpy(variable) for variable in [*model.variables, *model.optimizer.variables]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished run with DSR."""
    folder = tmp_path_factory.mktemp("finished")
    assert run("--config=small_char_rnn_dsr", f"--output_dir={folder}", *SMALL) == 0
    return folder


def test_a_run_leaves_its_figures_and_is_as_sparse_as_asked(finished):
    names = {"checkpoint.keras", "metrics.csv", "model.keras", "recipe.json", "results.json", "sparsity.csv"}
    assert names <= set(os.listdir(finished))
    results = json.loads((finished / "results.json").read_text())
    assert results["epochs"] == 2 and results["collapsed"] is None
    assert "Shakespeare's sonnets" in results["data"]
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["6", "12"]
    assert float(rows[-1]["val_bits_per_character"]) == pytest.approx(results["bits_per_character"]["validation"])
    # `DSModel`'s sparsity is of all parameters; the share of the masked ones is higher.
    model = keras.saving.load_model(finished / "model.keras")
    masked = layers.get_sparse_weights(model)
    closed = sum(weight.size - np.count_nonzero(weight.mask()) for weight in masked)
    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert closed / parameters == pytest.approx(0.9, abs=1e-3)
    assert results["sparsity"] >= closed / sum(weight.size for weight in masked)


def test_bits_are_the_mean_cross_entropy_over_the_text(finished):
    results = json.loads((finished / "results.json").read_text())
    model = keras.saving.load_model(finished / "model.keras")
    ids, total = character_corpus(None, 128).test, 0.0
    for start in range(0, 403, 8):
        length = min(8, 403 - start)
        logits = ops.convert_to_numpy(model(ids[np.newaxis, start : start + length]))[0].astype("float64")
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total -= log_probabilities[np.arange(length), ids[start + 1 : start + length + 1]].sum()
    assert results["bits_per_character"]["test"] == pytest.approx(total / 403 / np.log(2), rel=1e-5)


@pytest.mark.compiled
def test_repeats_keep_the_best_by_validation_and_are_summarized(tmp_path, capsys):
    command = ("--config=small_char_rnn_static", f"--output_dir={tmp_path}", *SMALL[:-2], "--eval_characters=103")
    command = [flag for flag in command if "frequency" not in flag]
    one_step = ("--jit_compile=false", "--steps_per_execution=1")  # The graph of several takes longer to trace.
    assert run(*command, *one_step, "--epochs=1", "--keep_best", "--repeats=2", "--seed=5") == 0
    output = capsys.readouterr().out
    values = [json.loads((tmp_path / f"seed-{s}" / "results.json").read_text())["bits_per_character"] for s in (5, 6)]
    assert values[0] != values[1] and all((tmp_path / f"seed-{s}" / "best.keras").exists() for s in (5, 6))
    [line] = [line for line in output.splitlines() if "validation bits per character" in line]
    assert f" {np.mean([v['validation'] for v in values]):.3f} " in line and " 2 " in line
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert any(row.startswith("static,bits_per_character.test,2,") for row in rows)


def test_a_continued_run_is_the_uninterrupted_one(finished, tmp_path, monkeypatch, capsys):
    command = ("--config=small_char_rnn_dsr", *SMALL, f"--output_dir={tmp_path}")
    save = state.Checkpoint.on_epoch_end

    class Killed(Exception):
        pass

    def save_and_die(self, epoch, logs=None):
        save(self, epoch, logs)
        raise Killed

    monkeypatch.setattr(state.Checkpoint, "on_epoch_end", save_and_die)
    with pytest.raises(Killed):
        run(*command)
    monkeypatch.setattr(state.Checkpoint, "on_epoch_end", save)
    assert run(*command, "--resume") == 0
    assert re.fullmatch(LAST_LINE, capsys.readouterr().out.splitlines()[-1])
    for whole, parts in zip(weights_of(finished), weights_of(tmp_path), strict=True):
        np.testing.assert_array_equal(whole, parts)
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (finished, tmp_path)]
    assert len(rows[0]) == len(rows[1]) == 3


def test_resume_needs_the_text_of_the_run(tmp_path, capsys):
    text, run_folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("to be or not to be, that is the question. " * 50)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().translate(str.maketrans("be", "xy")))  # as many characters
    recipe = small_recipe(data_dir=str(text))
    trainer.prepare(TASK, recipe, str(run_folder))
    before = (run_folder / state.RECIPE).read_bytes()
    for data_dir in (None, str(text)):
        again = dataclasses.replace(recipe, data_dir=data_dir)
        prepared = trainer.prepare(TASK, again, str(run_folder), resume=True)
        assert prepared.recipe.data_dir == str(text)
    with pytest.raises(ValueError, match="`resume` must be used with the data of the run in .*checksum"):
        trainer.prepare(TASK, small_recipe(data_dir=str(other)), str(run_folder), resume=True)
    assert (run_folder / state.RECIPE).read_bytes() == before


def small_recipe(**settings):
    sizes = {"cell": "gru", "hidden_size": 4, "depth": 1, "window": 8, "batch_size": 8}
    return language_recipe.LanguageRecipe(**sizes, **settings)


def test_an_earlier_run_is_never_overwritten_unasked(tmp_path, capsys):
    (tmp_path / "model.keras").write_text("precious")
    arguments = ("--config=small_char_rnn_dense", f"--output_dir={tmp_path}", *SMALL[:-3])
    assert run(*arguments) == 2
    assert "holds an earlier run (model.keras)" in capsys.readouterr().err
    assert (tmp_path / "model.keras").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--config=gpt",), "`config` must be one of char_rnn_dense,"),
        (("--cell=elman",), "`cell` must be one of rnn, lstm, gru. Received: cell=elman"),
        (("--vocabulary_size=1",), "`vocabulary_size` must be 0 or at least 2"),
        (("--data_dir=/nowhere.txt",), "`data_dir` must be a text file or a folder"),
        (("--config=small_char_rnn_dense", "--final_sparsity=0.5"), "`final_sparsity` is not used by technique none"),
        (("--config=small_char_rnn_narang", '--technique_options={"q": 1}'), "`technique_options` of narang may hold"),
        (("--window=100000",), "The training text must hold at least"),
        (("--technique=vd", "--penalty_begin_epoch=1"), "`penalty_end_epoch` must not come before"),
        (("--frequency=often",), "`frequency` must be an integer"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(arguments, message, tmp_path, capsys):
    assert run(f"--output_dir={tmp_path / 'run'}", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_empty_text_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    assert run(f"--data_dir={tmp_path / 'empty.txt'}", f"--output_dir={tmp_path / 'run'}") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'empty.txt'} is empty.\n"


def test_diverged_and_collapsed_networks_are_called_so(tmp_path, capsys):
    broken = (*SMALL, "--config=small_char_rnn_dsr", "--optimizer=rmsprop", "--clip_norm=0", "--learning_rate=1e30")
    assert run(*broken, f"--output_dir={tmp_path / 'diverged'}") == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("diverged: ")
    dead = ("--config=small_char_rnn_narang", *SMALL, '--technique_options={"target_magnitude": 1000.0}')
    assert run(*dead, "--begin_step=1", "--end_step=9", f"--output_dir={tmp_path / 'collapsed'}") == 1
    assert "collapsed: the network predicts the same whatever the text; no sparsity" in capsys.readouterr().out
    assert not (tmp_path / "collapsed" / "model.keras").exists()


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_can_be_prepared(name):
    recipe = presets.get_preset(name)
    corpus = character_corpus(None, recipe.vocabulary_size or None)
    batches = CharacterBatches(corpus, recipe.batch_size, recipe.window)
    model = TASK.make_model(recipe, batches)
    masked = recipe.technique in algorithms.ALGORITHMS
    expected = {"masked"} if masked else {recipe.technique} - {"none"}
    assert {weight.technique.name for weight in layers.get_sparse_weights(model)} == expected
    algorithm = trainer.make_algorithm(TASK, recipe, batches)
    assert (algorithm is None) == (not masked)


def test_published_presets_have_the_published_numbers():
    recipe = presets.get_preset("char_rnn_dsr")
    assert (recipe.cell, recipe.hidden_size, recipe.depth) == ("rnn", 1024, 2)
    assert (recipe.window, recipe.batch_size) == (50, 128)
    assert (recipe.optimizer, recipe.learning_rate, recipe.kernel_l2, recipe.epochs) == (
        "rmsprop",
        2e-3,
        pytest.approx(1e-7),
        50,
    )
    bayesian = presets.get_preset("char_rnn_bayesian")
    assert (bayesian.cell, bayesian.hidden_size, bayesian.depth) == ("lstm", 1000, 1)
    assert (bayesian.window, bayesian.batch_size, bayesian.clip_norm, bayesian.epochs) == (100, 64, 1.0, 250)
    assert (bayesian.optimizer, bayesian.learning_rate, bayesian.kernel_l2) == ("adam", 2e-3, 0.0)
    assert (bayesian.penalty_weight, bayesian.penalty_end_epoch) == (1.0, 0.0)
    frequency = setting_texts.parse_frequency(recipe.frequency, 10)
    assert [frequency(step) for step in (0, 99, 101, 201, 301)] == [100, 100, 200, 400, 800]
    assert frequency(401) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["vd", "gvd", "l0", "str", "dnw", "magnitude"])
def test_every_technique_trains_the_recurrent_layers(technique, tmp_path, capsys):
    arguments = [argument for argument in SMALL if "frequency" not in argument and "epochs" not in argument]
    arguments += ["--frequency=3"] if technique == "magnitude" else []
    arguments += ["--final_sparsity=0.5"] if technique in ("magnitude", "dnw") else []
    recipe = ("--config=small_char_rnn_dense", f"--technique={technique}", "--epochs=1")
    assert run(*recipe, *arguments, f"--output_dir={tmp_path}") == 0
    assert re.fullmatch(LAST_LINE, capsys.readouterr().out.splitlines()[-1])


def test_every_field_has_a_flag_with_help():
    values = flags.FlagValues()
    language_model.define_flags(values)
    for name in language_recipe.LanguageRecipe.__dataclass_fields__:
        assert values[name].help.strip()


@pytest.mark.slow
def test_the_program_runs_by_its_module_name(tmp_path):
    command = [sys.executable, "-m", "sparsity_tf.train.language_model", "--config=small_char_rnn_narang", *SMALL]
    command.append("--begin_step=2")  # by default after an epoch, which of two is too late
    done = subprocess.run([*command, f"--output_dir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LAST_LINE, done.stdout.splitlines()[-1])
