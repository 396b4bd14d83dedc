"""A text classifier from flags to the last line: figures, the small network with its words, errors before any work."""

import csv
import dataclasses
import json
import os
import re

import keras
import numpy as np
import pytest
from absl import flags
from keras import ops

from sparsity_tf import layers
from sparsity_tf.datasets import LabelledBatches, WordVocabulary, labelled_text
from sparsity_tf.train import run_folder as state
from sparsity_tf.train import trainer
from sparsity_tf.train.text_classifier import __main__ as text_classifier
from sparsity_tf.train.text_classifier import presets
from sparsity_tf.train.text_classifier import recipe as text_recipe
from sparsity_tf.train.text_classifier.task import TextClassifierTask

# Compiled: `finished` takes hundreds of steps, whichever test asks for it first.
pytestmark = [pytest.mark.tensorflow, pytest.mark.compiled]

TASK = TextClassifierTask()
# The threshold is so low that words without a meaning are dead after a hundred steps.
OPTIONS = {"log_sigma2_initializer": -10.0, "group_log_sigma2_initializer": -8.0, "log_alpha_threshold": -3.0}
SMALL = (
    "--config=reviews_groups",
    "--length=4",
    "--embedding_size=5",
    "--hidden_size=4",
    "--batch_size=5",
    "--epochs=8",
    "--learning_rate=0.03",
    "--penalty_weight=0.05",
    "--penalty_begin_epoch=3",
    "--penalty_end_epoch=5",
    "--jit_compile=false",
    "--steps_per_execution=1",  # The graph of several steps takes several times as long to trace.
    f"--technique_options={json.dumps(OPTIONS)}",
)


def run(*arguments):
    """Runs the program in this process; returns its exit status."""
    values = flags.FlagValues()
    text_classifier.define_flags(values)
    return text_classifier.main(values(["text_classifier", *map(str, arguments)])[:1], values)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 120 ratings, in which one word says the class."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "texts.txt"
    lines = []
    for number in range(120):
        good = number % 2
        words = [
            f"w{rng.integers(12)}",
            ("superb", "fine")[number % 4 // 2] if good else "dull",
            f"w{rng.integers(12)}",
        ]
        lines.append(f"{number}\t{1.5 if good else -1.5}\t{' '.join(words)} w{number % 10}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """Folder of a finished run with group variables."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(*SMALL, f"--data_dir={data}", f"--output_dir={folder}", "--keep_best", "--save_every=4") == 0
    return folder


def predictions(model, batches):
    return np.concatenate([ops.convert_to_numpy(model(np.asarray(words))) for words, _ in batches.test()])


def test_a_run_leaves_its_figures(finished, data):
    names = {"best.keras", "checkpoint.keras", "metrics.csv", "model.keras", "recipe.json", "results.json"}
    assert {*names, "small.keras", "small_words.tsv", "sparsity.csv", "words.tsv"} <= set(os.listdir(finished))
    assert sorted(os.listdir(finished / "checkpoints")) == ["epoch_4.keras", "epoch_8.keras"]
    results = json.loads((finished / "results.json").read_text())
    assert results["classes"] == ["negative", "positive"] and results["collapsed"] is None
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_error"]) == pytest.approx(results["val_error"], abs=1e-6)
    assert float(rows[-1]["penalty_weight"]) == pytest.approx(0.05)
    assert (
        results["best"]["val_error"]
        == min(float(row["val_error"]) for row in rows)
        == pytest.approx(results["best"]["val_error"], abs=1e-6)
    )
    model = keras.saving.load_model(finished / "model.keras")
    text = labelled_text(data, min_count=3)
    batches = LabelledBatches(text, 10, 4)
    wrong = np.mean(predictions(model, batches).argmax(axis=1) != text.test[1])
    assert results["test_error"] == pytest.approx(wrong, abs=1e-9)


def test_the_small_network_with_its_words_is_the_trained_one(finished, data):
    small = keras.saving.load_model(finished / "small.keras")
    assert not layers.get_sparse_weights(small)
    model = keras.saving.load_model(finished / "model.keras")
    words, small_words = (WordVocabulary.load(finished / name) for name in ("words.tsv", "small_words.tsv"))
    results = json.loads((finished / "results.json").read_text())
    assert small_words.size == small.get_layer("embedding").input_dim < words.size
    texts = ["superb w1", "dull w3 w5", "nothing known here", "fine"]
    for text in texts:
        found, expected = (
            ops.convert_to_numpy(net(np.array([vocabulary.encode(text)])))
            for net, vocabulary in ((small, small_words), (model, words))
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
    table = ops.convert_to_numpy(small.get_layer("embedding").embeddings)
    live = {word for word, number in small_words.ids.items() if table[number].any()} - {"<padding>", "<unknown>"}
    assert results["small"]["words"] == len(live) < words.size - 2
    assert results["small"]["units"] == small.get_layer("lstm").units
    kernels = [variable for variable in small.trainable_variables if "bias" not in variable.path]
    assert results["small"]["weights"] == sum(np.count_nonzero(ops.convert_to_numpy(v)) for v in kernels)
    total = words.size * 5 + 16 * (5 + 4) + 4 * 2
    assert results["small"]["compression"] == pytest.approx(total / results["small"]["weights"])


def test_what_cannot_be_used_is_said_before_anything_is_written(tmp_path, capsys, data):
    for arguments, message in (
        (("--config=bert",), "`config` must be one of imdb_dense,"),
        ((), "`data_dir` must be a file or folder of labelled texts"),
        (("--data_dir=/nowhere",), "`data_dir` must be a file or a folder"),
        (("--vocabulary_size=2",), "`vocabulary_size` must be 0 or at least 3"),
        ((f"--data_dir={data}", "--batch_size=1000"), "`batch_size` must be at most the 9"),
        (
            (f"--data_dir={data}", "--batch_size=9", '--technique_options={"groups": ["rows"]}'),
            "`groups` must be a list or tuple",
        ),
        ((f"--data_dir={data}", "--keep_checkpoint_max=2"), "`keep_checkpoint_max` needs a `save_every` above 0"),
        ((f"--data_dir={data}", "--penalty_begin_epoch=9"), "`penalty_end_epoch` must not come before"),
    ):
        assert run(f"--output_dir={tmp_path / 'run'}", *arguments) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_published_presets_have_the_published_numbers():
    imdb, agnews = (presets.get_preset(name) for name in ("imdb_groups", "agnews_words"))
    for recipe, numbers in ((imdb, (200, 128, 800, 0.15)), (agnews, (100, 512, 150, 0.05))):
        assert (recipe.length, recipe.hidden_size, recipe.epochs, recipe.held_out) == numbers
        assert (recipe.embedding_size, recipe.learning_rate, recipe.batch_size) == (300, 5e-4, 128)
        assert (recipe.vocabulary_size, recipe.penalty_weight, recipe.penalty_end_epoch) == (20_002, 1.0, 0.0)
    assert imdb.technique_options["groups"] == ["word", "input", "unit", "gate"]
    assert agnews.technique_options["groups"] == ["word"]


def test_every_preset_makes_its_network(data):
    batches = LabelledBatches(labelled_text(data), 2, 4)
    for name, recipe in presets.PRESETS.items():
        recipe = dataclasses.replace(recipe, embedding_size=3, hidden_size=2)
        model = TASK.make_model(recipe, batches)
        techniques = {repr(list(weight.technique.groups)) for weight in layers.get_sparse_weights(model)}
        assert techniques == (set() if name.endswith("dense") else {repr(recipe.technique_options["groups"])})


def test_every_field_has_a_flag_with_help():
    values = flags.FlagValues()
    text_classifier.define_flags(values)
    for name in text_recipe.TextRecipe.__dataclass_fields__:
        assert values[name].help.strip()


@pytest.mark.slow
def test_a_continued_run_is_the_uninterrupted_one(finished, tmp_path, monkeypatch, capsys, data):
    command = (*SMALL, f"--data_dir={data}", f"--output_dir={tmp_path}", "--keep_best")
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
    # A continued run knows its texts.
    assert run(*(flag for flag in command if "data_dir" not in flag), "--resume") == 0
    pattern = r"test error \d+\.\d\d %, \d+ of \d+ words, \d+ of 4 units, sparsity \d+\.\d\d %, compression \d+\.\dx"
    assert re.fullmatch(pattern, capsys.readouterr().out.splitlines()[-1])
    whole, parts = (keras.saving.load_model(folder / "checkpoint.keras") for folder in (finished, tmp_path))
    for one, two in zip(whole.variables, parts.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two))
    other = tmp_path / "other.txt"
    other.write_text(data.read_text().replace("w1", "x1"))
    with pytest.raises(ValueError, match="`resume` must be used with the data of the run in .*checksum"):
        recipe = text_classifier.recipe_from_flags
        values = flags.FlagValues()
        text_classifier.define_flags(values)
        values(["text_classifier", *SMALL, f"--data_dir={other}", "--keep_best"])
        trainer.prepare(TASK, recipe(values), str(tmp_path), resume=True)


@pytest.mark.slow
def test_a_broken_network_is_called_so(tmp_path, capsys, data):
    command = [argument for argument in SMALL if "learning_rate" not in argument]
    assert run(*command, f"--data_dir={data}", "--learning_rate=1e30", f"--output_dir={tmp_path}") == 1
    assert re.match("diverged|collapsed", capsys.readouterr().out.splitlines()[-1])
    assert not (tmp_path / "model.keras").exists()
