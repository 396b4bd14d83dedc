"""The translator from flags to the last line: files, exact continuation, masks and weights taken over, errors."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from absl import flags

from sparsity_tf import inspection, layers
from sparsity_tf.datasets.text import subwords
from sparsity_tf.train import log, optimizers, run_folder, technique, trainer
from sparsity_tf.train.sparsity_settings import ALGORITHMS
from sparsity_tf.train.translator import __main__ as translator
from sparsity_tf.train.translator import presets as translation_presets
from sparsity_tf.train.translator.recipe import TranslationRecipe
from sparsity_tf.train.translator.task import VOCABULARY, TranslatorTask
from tests import compiled_parts
from tests.train.test_strategy import free_port

pytestmark = pytest.mark.tensorflow

TASK = TranslatorTask()
LAST_LINE = r"BLEU \d+\.\d\d \(validation\), perplexity \d+\.\d\d, sparsity \d+\.\d\d %, compression \d+\.\dx"
WORDS = "the a small large file model layer weight is was gets became sparse dense fast slow and or not".split()


def write_corpus(folder, counts=(120, 12, 12)):
    """Sentences of random words; the "translation" is the same words in capitals."""
    random = np.random.default_rng(0)
    for name, count in zip(("train", "valid", "test"), counts, strict=True):
        with open(folder / f"{name}.tsv", "w", encoding="utf-8") as file:
            for _ in range(count):
                words = " ".join(random.choice(WORDS, random.integers(1, 6)))
                file.write(f"{words}\t{words.upper()}\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def vocabulary(corpus, tmp_path_factory):
    texts = (corpus / "train.tsv").read_text().replace("\t", "\n").splitlines()
    return subwords.train(texts, tmp_path_factory.mktemp("vocabulary") / "words.model", 330).path


def batches_of(vocabulary_size):
    """What a network is made for: no data, but a number of subwords."""
    return types.SimpleNamespace(vocabulary=types.SimpleNamespace(size=vocabulary_size))


def parsed(arguments):
    flag_values = flags.FlagValues()
    translator.define_flags(flag_values)
    flag_values(["translator", *arguments])
    return flag_values


def recipe_of(*arguments):
    return translator.recipe_from_flags(parsed(arguments))


def run(arguments, capsys):
    """Runs the translator in this process: (exit status, lines of its output, its errors)."""
    capsys.readouterr()
    status = translator.main(["translator"], parsed(arguments))
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err


def command(corpus, vocabulary, output_dir, *more, config="tiny_magnitude"):
    pruning = ["--begin_step=0", "--end_step=4", "--frequency=2"] if config == "tiny_magnitude" else []
    return [
        f"--config={config}",
        f"--data_dir={corpus}",
        f"--vocabulary={vocabulary}",
        f"--output_dir={output_dir}",
        "--num_layers=1",
        "--hidden_size=16",
        "--filter_size=32",
        "--num_heads=2",
        "--batch_tokens=160",
        "--bucket_growth=8",
        "--train_steps=6",
        "--eval_every=2",
        "--warmup_steps=4",
        "--steps_per_execution=2",
        "--beam_size=1",
        "--extra_length=4",
        *pruning,
        *more,
    ]


def variables_of(folder):
    """All variables of a run's checkpoint, those of the optimizer too."""
    model = keras.saving.load_model(folder / run_folder.CHECKPOINT)
    return [keras.ops.convert_to_numpy(v) for v in model.variables + model.optimizer.variables]


def stop_after(monkeypatch, epochs):
    """Makes the run die, as if killed, before anything of the next epoch is saved."""

    class Killed(Exception):
        pass

    def die():
        raise Killed

    before_saving(monkeypatch, epochs, die)
    return Killed


def before_saving(monkeypatch, epochs, act):
    """Calls `act` after so many epochs are saved, when the next one has been trained and is not saved yet."""
    save = run_folder.Checkpoint.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        if epoch == epochs:
            act()
        save(self, epoch, logs)

    monkeypatch.setattr(run_folder.Checkpoint, "on_epoch_end", on_epoch_end)


@pytest.fixture(scope="module")
def finished(corpus, vocabulary, tmp_path_factory):
    """A finished run with dropout: (folder, status, lines). A kill in its second epoch leaves `killed`.

    Not compiled, and neither is the run that continues it. `test_scratch_and_lottery_runs_take_masks_and_weights_over`
    is compiled.
    """
    folder = tmp_path_factory.mktemp("runs") / "magnitude"
    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        compiled_parts.uncompiled_steps(),
        pytest.MonkeyPatch.context() as patch,
    ):
        before_saving(patch, 1, lambda: shutil.copytree(folder, folder.with_name("killed")))
        arguments = command(corpus, vocabulary, folder, "--dropout=0.1", "--keep_initial")
        status = translator.main(["translator"], parsed(arguments))
    return folder, status, output.getvalue().splitlines()


# Recipes


def test_every_preset_is_a_recipe_and_published_ones_have_the_published_numbers():
    presets = translation_presets.PRESETS
    names = ("dense", "magnitude", "random", "vd", "l0", "rigl", "str")
    assert {f"transformer_{name}" for name in names} <= set(presets)
    for recipe in presets.values():
        assert isinstance(recipe, TranslationRecipe)
    base = presets["transformer_dense"]
    assert (base.num_layers, base.hidden_size, base.filter_size, base.num_heads) == (6, 512, 2048, 8)
    assert (base.beta_1, base.beta_2, base.epsilon) == (0.9, 0.997, 1e-9)
    assert (base.train_steps, base.batch_tokens, base.packed, base.max_length) == (500_000, 16_384, True, 256)
    for name, end, frequency in (("magnitude", 400_000, "10000"), ("random", 100_000, "1000")):
        pruning = presets[f"transformer_{name}"]
        assert (pruning.begin_step, pruning.end_step, pruning.frequency) == (0, end, frequency)
        assert (pruning.dropout, pruning.label_smoothing, pruning.final_sparsity) == (0.0, 0.1, 0.9)
    for name, weight, begin, end, dropout in (
        ("vd", 8.89e-8, 0, 200_000, 0.0),
        ("l0", 2.222e-6, 200_000, 300_000, 0.1),
    ):
        recipe = presets[f"transformer_{name}"]
        assert recipe.penalty_weight / recipe.penalty_examples == pytest.approx(weight, rel=1e-3)
        assert (recipe.penalty_begin_step, recipe.penalty_end_step, recipe.penalty_schedule) == (begin, end, "cubic")
        assert (recipe.dropout, recipe.attention_dropout, recipe.relu_dropout) == (dropout,) * 3
        assert recipe.label_smoothing == 0.1


@pytest.mark.parametrize("name", list(translation_presets.PRESETS))
def test_every_preset_makes_a_network_its_algorithm_and_its_penalty(name):
    sizes = {"num_layers": 1, "hidden_size": 8, "filter_size": 8, "num_heads": 2}
    # The masks and weights of another run are not at hand.
    recipe = dataclasses.replace(translation_presets.PRESETS[name], load_masks=None, load_weights=None, **sizes)
    model = TASK.make_model(recipe, batches_of(20))
    weights = layers.get_sparse_weights(model)
    # Soft thresholds have no form for the embedding that is also the softmax.
    assert len(weights) == {"none": 0, "str": 4 + 8 + 2 * 2}.get(recipe.technique, 4 + 8 + 2 * 2 + 1)
    algorithm = trainer.make_algorithm(TASK, recipe, batches=None)
    assert (algorithm is None) == (recipe.technique not in ALGORITHMS)
    settled = technique.settled_from(recipe, algorithm, recipe.eval_every)
    assert settled == {"magnitude": recipe.end_step, "random": recipe.end_step, "vd": recipe.penalty_end_step}.get(
        recipe.technique, recipe.penalty_end_step if recipe.technique == "l0" else 0
    )


def test_the_learning_rate_is_that_of_tensor2tensor():
    rate = optimizers.learning_rate(translation_presets.PRESETS["transformer_dense"], 10_000)
    # The sheet's figures, computed in double precision.
    expected = {0: 0.0, 4000: 9.882e-4 / 2, 8000: 9.882e-4, 100_000: 2.795e-4, 500_000: 1.25e-4}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert float(again(8000)) == float(rate(8000))


def test_the_loss_is_the_mean_of_smoothed_tokens_and_padding_counts_nothing():
    vocabulary_size, share = 7, 0.1
    recipe = recipe_of(
        "--config=tiny_dense", "--vocabulary_size=300", "--num_layers=1", "--hidden_size=8", "--num_heads=2"
    )
    model = TASK.make_model(recipe, batches_of(vocabulary_size))
    trainer.compile_model(TASK, recipe, model, batches_of(vocabulary_size), 1)
    features = {"inputs": np.array([[2, 3, 1], [4, 1, 0]]), "targets": np.array([[5, 6, 1], [2, 1, 0]])}
    weights = (features["targets"] != 0).astype("float32")
    figures = model.evaluate(features, features["targets"], sample_weight=weights, verbose=0, return_dict=True)
    logits = model.predict(features, verbose=0).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    right = np.take_along_axis(log_p, features["targets"][..., None], axis=-1)[..., 0]
    # tensor2tensor: 1 - share for the right one, the rest evenly over the others.
    smoothed = -((1 - share) * right + share / (vocabulary_size - 1) * (log_p.sum(axis=-1) - right))
    count = weights.sum()
    assert figures["loss"] == pytest.approx((smoothed * weights).sum() / count, rel=1e-5)
    assert figures["cross_entropy"] == pytest.approx(-(right * weights).sum() / count, rel=1e-5)
    correct = (logits.argmax(axis=-1) == features["targets"]) * weights
    assert figures["accuracy"] == pytest.approx(correct.sum() / count)


def test_flags_change_a_preset_and_regularization_has_the_published_names():
    recipe = recipe_of("--config=transformer_vd", "--regularization=moredropout+label_smoothing", "--seed=3")
    assert (recipe.dropout, recipe.attention_dropout, recipe.label_smoothing, recipe.seed) == (0.3, 0.1, 0.1, 3)
    other = recipe_of("--config=tiny_magnitude", "--technique=rigl", "--density=0.2")
    assert (other.technique, other.final_sparsity, other.begin_step) == ("rigl", 0.8, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=transformer"], "`config` must be one of transformer_dense"),
        (["--regularization=more"], "`regularization` must be one of none, label_smoothing"),
        (["--num_heads=3"], "`num_heads` must divide `hidden_size`"),
        (["--train_steps=1001"], "`train_steps` must be a multiple of `eval_every`"),
        (["--batch_tokens=16"], "`batch_tokens` must be at least `max_length`"),
        (["--config=tiny_vd", "--penalty_end_step=1"], "`penalty_end_step` must not come before"),
        (["--config=tiny_dense", "--begin_step=1"], "`begin_step` is not used by technique none"),
        (["--bleu=train"], "`bleu` must be one of none, validation, test"),
        (
            ["--config=tiny_vd", "--vocabulary_size=400", '--technique_options={"gamma": 1}'],
            "`technique_options` of vd may hold",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_one_line_and_status_2(corpus, tmp_path, arguments, message, capsys):
    status, _, error = run([f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}", *arguments], capsys)
    assert status == 2
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not os.path.exists(tmp_path / "run" / run_folder.RECIPE)


# Runs


def test_the_last_line_says_what_the_run_came_to(finished):
    folder, status, lines = finished
    assert status == 0
    assert re.fullmatch(LAST_LINE, lines[-1])
    results = json.loads((folder / run_folder.RESULTS).read_text())
    said = re.findall(r"[\d.]+", lines[-1])
    assert said == [
        f"{results['bleu']:.2f}",
        f"{results['validation']['perplexity']:.2f}",
        f"{100 * results['sparsity']:.2f}",
        f"{results['compression']:.1f}",
    ]
    assert results["bleu_signature"].startswith("nrefs:1|case:mixed")
    assert results["steps"] == 6 and results["collapsed"] is None


def test_a_run_leaves_everything_that_translating_needs(finished, corpus, vocabulary):
    folder = finished[0]
    own = subwords.load(folder / VOCABULARY)
    with open(vocabulary, "rb") as file, open(own.path, "rb") as copy:
        assert file.read() == copy.read()
    model = keras.saving.load_model(folder / run_folder.MODEL)
    assert not model.compiled
    weights = layers.get_sparse_weights(model)
    assert len(weights) == 4 + 8 + 2 * 2 + 1
    assert all(weight.mask().shape == weight.shape for weight in weights)
    assert inspection.sparsity_table(model).sparsity == pytest.approx(0.9, abs=0.01)
    best = keras.saving.load_model(folder / run_folder.BEST)
    assert inspection.sparsity_table(best).sparsity == pytest.approx(0.9, abs=0.01)
    initial = keras.saving.load_model(folder / run_folder.INITIAL)
    assert inspection.sparsity_table(initial).sparsity == 0.0
    assert len((folder / "translations.txt").read_text().splitlines()) == 12


def test_metrics_have_a_row_an_evaluation_and_tensorboard_the_same_figures(finished):
    import tensorflow as tf

    folder = finished[0]
    rows = log.read_metrics(folder)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row in rows:
        assert float(row["val_perplexity"]) == pytest.approx(np.exp(float(row["val_cross_entropy"])))
    sparsities = [float(row["sparsity"]) for row in rows]
    assert 0 < sparsities[0] < sparsities[1] == sparsities[2]
    scalars = {}
    for path in (folder / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                scalars[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for row in rows:
        for name in set(row) - {"epoch", "step"}:
            assert scalars[name, int(row["step"])] == pytest.approx(float(row[name]), rel=1e-6)


@pytest.mark.usefixtures("uncompiled")
def test_a_resumed_run_ends_bit_identical(finished, corpus, vocabulary, capsys):
    folder = finished[0].with_name("killed")
    arguments = command(corpus, vocabulary, folder, "--dropout=0.1", "--keep_initial")
    assert len(log.read_metrics(folder)) == 2  # the row of the lost steps was written
    status, lines, _ = run([*arguments, "--resume"], capsys)
    assert status == 0 and "resuming after step 2" in lines
    assert lines[-1] == finished[2][-1]
    for a, b in zip(variables_of(folder), variables_of(finished[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    rows, through = log.read_metrics(folder), log.read_metrics(finished[0])
    for row in rows + through:
        del row["seconds"]
    assert rows == through


@pytest.mark.slow
def test_a_resumed_compiled_run_ends_bit_identical(corpus, vocabulary, tmp_path, capsys, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, through, _ = run(command(corpus, vocabulary, whole, "--dropout=0.1"), capsys)
    assert status == 0
    arguments = command(corpus, vocabulary, killed, "--dropout=0.1")
    with monkeypatch.context() as patch, pytest.raises(stop_after(patch, 1)):
        run(arguments, capsys)
    status, lines, _ = run([*arguments, "--resume"], capsys)
    assert status == 0 and "resuming after step 2" in lines and lines[-1] == through[-1]
    for a, b in zip(variables_of(killed), variables_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("uncompiled")
def test_an_earlier_run_is_protected(finished, corpus, vocabulary, capsys):
    arguments = command(corpus, vocabulary, finished[0], "--dropout=0.1", "--keep_initial")
    status, _, error = run(arguments, capsys)
    assert status == 2 and "holds an earlier run" in error
    status, _, error = run([*arguments, "--resume", "--learning_rate=1"], capsys)
    assert status == 2 and "learning_rate: 0.004 -> 1.0" in error


@pytest.mark.usefixtures("uncompiled")
def test_resume_needs_the_corpus_of_the_run(finished, corpus, vocabulary, tmp_path, capsys):
    folder, _, lines = finished
    arguments = command(corpus, vocabulary, folder, "--dropout=0.1", "--keep_initial", "--resume")
    # A finished run takes no step, and finds its corpus itself.
    status, again, _ = run([argument for argument in arguments if "data_dir" not in argument], capsys)
    assert status == 0 and again[-1] == lines[-1]
    assert not any(line.startswith("step ") for line in again)
    before = (folder / run_folder.RECIPE).read_bytes()
    other = shutil.copytree(corpus, tmp_path / "other")
    text = (other / "train.tsv").read_text()
    (other / "train.tsv").write_text(text[:-2] + "X\n")
    status, _, error = run([*arguments, f"--data_dir={other}"], capsys)
    assert status == 2 and "`resume` must be used with the data of the run" in error and "checksum" in error
    assert (folder / run_folder.RECIPE).read_bytes() == before


def test_pruning_that_never_begins_is_refused(corpus, vocabulary, tmp_path, capsys):
    arguments = command(corpus, vocabulary, tmp_path / "run", "--begin_step=20", "--end_step=80")
    status, _, error = run(arguments, capsys)
    assert status == 2 and "`begin_step` must come before the end of the run" in error
    assert "train_steps=6 makes 6 steps" in error and not (tmp_path / "run" / run_folder.RECIPE).exists()


@pytest.mark.compiled
def test_scratch_and_lottery_runs_take_masks_and_weights_over(finished, corpus, vocabulary, tmp_path, capsys):
    source = finished[0]
    masks = [f"--load_masks={source / run_folder.MODEL}", "--technique=masked", "--train_steps=2", "--bleu=none"]
    masks += ["--steps_per_execution=1"]  # The graph of several steps takes several times as long to trace.
    more = ["--keep_initial", f"--load_weights={source / run_folder.INITIAL}"]
    status, lines, _ = run(command(corpus, vocabulary, tmp_path / "ticket", *masks, *more, config="tiny_dense"), capsys)
    assert status == 0 and lines[-1].startswith("perplexity ")
    pruned = layers.get_sparse_weights(keras.saving.load_model(source / run_folder.MODEL))
    ticket = layers.get_sparse_weights(keras.saving.load_model(tmp_path / "ticket" / run_folder.MODEL))
    initial = layers.get_sparse_weights(keras.saving.load_model(source / run_folder.INITIAL))
    start = layers.get_sparse_weights(keras.saving.load_model(tmp_path / "ticket" / run_folder.INITIAL))
    for a, b, first, own in zip(pruned, ticket, initial, start, strict=True):
        mask = np.asarray(a.mask())
        np.testing.assert_array_equal(mask, b.mask())
        assert not np.asarray(b.value())[~mask].any()
        np.testing.assert_array_equal(np.asarray(own.value()), np.where(mask, first.value(), 0))
    scratch = command(corpus, vocabulary, "unused", *masks, "--reinitialize=augmented", "--seed=1", config="tiny_dense")
    drawn = layers.get_sparse_weights(TASK.make_model(recipe_of(*scratch), batches_of(330)))
    for own, first in zip(drawn, start, strict=True):
        np.testing.assert_array_equal(own.mask(), first.mask())
        assert not np.array_equal(own.value(), first.value())


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("config", ["tiny_l0", pytest.param("tiny_vd", marks=pytest.mark.slow)])
def test_penalties_rise_and_packed_rows_train(corpus, vocabulary, tmp_path, config, capsys):
    more = ["--packed", "--penalty_begin_step=0", "--penalty_end_step=4", "--train_steps=4", "--bleu=none"]
    more += ["--steps_per_execution=1"]  # The first call of a run has a weight of 0.
    status, lines, _ = run(command(corpus, vocabulary, tmp_path, *more, config=config), capsys)
    assert status == 0, lines
    rows = log.read_metrics(tmp_path)
    assert (
        0
        < float(rows[0]["penalty_weight"])
        < float(rows[1]["penalty_weight"])
        <= translation_presets.PRESETS[config].penalty_weight
    )
    assert not (tmp_path / "translations.txt").exists()


@pytest.mark.usefixtures("uncompiled")
def test_a_diverged_run_is_called_so(corpus, vocabulary, tmp_path, capsys):
    more = ["--learning_rate=1e30", "--lr_schedule=constant", "--warmup_steps=1", "--epsilon=1e-30"]
    status, lines, _ = run(command(corpus, vocabulary, tmp_path, *more, config="tiny_dense"), capsys)
    assert status == 1 and lines[-1].startswith("diverged: ")
    assert not (tmp_path / run_folder.MODEL).exists()


def test_errors_of_the_corpus_name_file_and_line_and_claim_nothing(vocabulary, tmp_path, capsys):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder)
    with open(folder / "valid.tsv", "a") as file:
        file.write("no tab here\n")
    status, _, error = run(command(folder, vocabulary, tmp_path / "run"), capsys)
    assert status == 2 and "valid.tsv:13: a line must be source, tab, target" in error
    status, _, error = run(command(folder, tmp_path / "none.model", tmp_path / "run"), capsys)
    assert status == 2 and "none.model" in error
    assert not (tmp_path / "run" / run_folder.RECIPE).exists()


@pytest.mark.slow
def test_a_small_network_learns_to_translate(corpus, vocabulary, tmp_path, capsys):
    # Capitals of known words: learnt in a few hundred steps, and far above copying.
    more = ["--train_steps=400", "--eval_every=200", "--warmup_steps=40", "--hidden_size=32", "--learning_rate=0.01"]
    status, lines, _ = run(command(corpus, vocabulary, tmp_path, *more, config="tiny_dense"), capsys)
    results = json.loads((tmp_path / run_folder.RESULTS).read_text())
    assert status == 0, lines
    assert results["bleu"] > 30 > results["bleu_of_copied_sources"]


def start(code, arguments, **environment):
    """A translator in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    code += "from sparsity_tf.train import translator; translator.run_main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_replicas_train_together(corpus, vocabulary, tmp_path):
    two_devices = (
        "import tensorflow as tf\n"
        "cpus = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)\n"
    )
    process = start(two_devices, command(corpus, vocabulary, tmp_path, "--strategy=mirrored", "--bleu=none"))
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert "2 replicas" in output
    assert inspection.sparsity_table(keras.saving.load_model(tmp_path / run_folder.MODEL)).sparsity > 0.89


@pytest.mark.slow
def test_two_workers_train_together(corpus, vocabulary, tmp_path):
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    arguments = command(corpus, vocabulary, tmp_path, "--strategy=multiworker", "--bleu=none")
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(start("", arguments, TF_CONFIG=json.dumps(task)))
    try:
        output = workers[0].communicate(timeout=500)[0]
        assert workers[0].returncode == 0, output
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert "2 replicas" in output
    assert [row["step"] for row in log.read_metrics(tmp_path)] == ["2", "4", "6"]
    assert inspection.sparsity_table(keras.saving.load_model(tmp_path / run_folder.MODEL)).sparsity > 0.89
