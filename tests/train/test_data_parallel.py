"""`--strategy=data_parallel` on JAX: each device has a part of every batch, and the network comes out as on one."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sparsity_tf.train import strategy
from tests.campaigns.study_kills import arrays_of
from tests.train.runs import write_digits

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


def run(program, devices, *arguments):
    """Runs a program on JAX with virtual devices of the CPU: the lines of its output."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    finished = subprocess.run(
        [sys.executable, "-m", f"sparsity_tf.train.{program}", *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout.splitlines()


def figures_of(folder):
    with open(folder / "metrics.csv") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def check_close(ours, others):
    for row, other in zip(figures_of(ours), figures_of(others), strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == pytest.approx(other[name], rel=1e-3, abs=1e-4), name


@pytest.mark.slow
@needs_jax
def test_two_devices_train_the_classifier_as_one_does(tmp_path):
    (tmp_path / "digits").mkdir()
    # 21 of the 64 images are held out, in batches that two devices can't share evenly.
    shared = f"--data_dir={write_digits(tmp_path / 'digits')} --config=lenet300_rigl --frequency=2 --epochs=2".split()
    shared += "--train_examples=0 --batch_size=16 --validation_split=0.32 --final_sparsity=0.75".split()
    one, two = tmp_path / "one", tmp_path / "two"
    run("classifier", 1, *shared, f"--output_dir={one}")
    lines = run("classifier", 2, *shared, f"--output_dir={two}", "--strategy=data_parallel")
    assert any("2 replicas" in line for line in lines)
    check_close(two, one)
    ours, others = arrays_of(tmp_path / "two"), arrays_of(tmp_path / "one")
    assert ours.keys() == others.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array == 0, others[name] == 0, name)
        np.testing.assert_allclose(array, others[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
@needs_jax
def test_a_stopped_run_on_two_devices_continues_to_the_bit(tmp_path):
    (tmp_path / "digits").mkdir()
    shared = (
        f"--data_dir={write_digits(tmp_path / 'digits')} --config=lenet300_set --frequency=2 --batch_size=16".split()
    )
    shared += ["--train_examples=0", "--strategy=data_parallel", "--lr_schedule=constant"]
    run("classifier", 2, *shared, "--epochs=3", f"--output_dir={tmp_path / 'through' / 'run'}")
    folder = tmp_path / "stopped" / "run"
    run("classifier", 2, *shared, "--epochs=2", f"--output_dir={folder}")
    # The run is now as if it had been stopped after two of three epochs.
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "epochs": 3}))
    (folder / "results.json").unlink()
    run("classifier", 2, *shared, "--epochs=3", f"--output_dir={folder}", "--resume")
    ours, others = arrays_of(tmp_path / "stopped"), arrays_of(tmp_path / "through")
    for name, array in ours.items():
        np.testing.assert_array_equal(array, others[name], name)


@pytest.mark.slow
@needs_jax
def test_two_devices_train_the_language_model(tmp_path):
    sizes = "--hidden_size=12 --window=8 --batch_size=8 --epoch_steps=6 --epochs=2 --frequency=3 --eval_characters=403"
    shared = ["--config=small_char_rnn_dsr", *sizes.split()]
    run("language_model", 1, *shared, f"--output_dir={tmp_path / 'one'}")
    run("language_model", 2, *shared, f"--output_dir={tmp_path / 'two'}", "--strategy=data_parallel")
    check_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@needs_jax
def test_two_devices_train_the_translator(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    words = "the small large file model layer weight is was sparse dense fast slow".split()
    for split, count in (("train", 240), ("valid", 7), ("test", 8)):
        pairs = [" ".join(words[(k * j) % len(words)] for j in range(1, 2 + k % 7)) for k in range(count)]
        (corpus / f"{split}.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in pairs))
    shared = f"--config=tiny_magnitude --data_dir={corpus} --num_layers=1 --hidden_size=16 --filter_size=32".split()
    shared += "--num_heads=2 --vocabulary_size=320 --batch_tokens=160 --max_length=32 --eval_max_length=64".split()
    shared += "--train_steps=6 --eval_every=3 --begin_step=1 --end_step=5 --frequency=1".split()
    # Sequences that are packed to one length: both runs have the same batches.
    shared += ["--packed", "--batch_tokens=128"]
    run("translator", 1, *shared, f"--output_dir={tmp_path / 'one'}")
    run("translator", 2, *shared, f"--output_dir={tmp_path / 'two'}", "--strategy=data_parallel")
    check_close(tmp_path / "two", tmp_path / "one")
    rows = figures_of(tmp_path / "two")
    assert [row["step"] for row in rows] == [3, 6] and rows[-1]["loss"] < rows[0]["loss"]


def write_reviews(path):
    """120 texts, in which one word says the class; 12 are held out, in batches that two devices can't share evenly."""
    words = "the film was very long and loud".split()
    lines = [
        f"{('bad', 'good')[n % 2]}\t{words[n % 7]} {('dull', 'superb')[n % 2]} {words[n % 5]} w{n % 10}\n"
        for n in range(120)
    ]
    path.write_text("".join(lines))
    return path


@pytest.mark.slow
@needs_jax
@pytest.mark.parametrize(
    "technique",
    ["--config=reviews_groups", "--config=reviews_dense --technique=rigl --frequency=2 --final_sparsity=0.5"],
)
def test_two_devices_train_the_text_classifier(tmp_path, technique):
    data = write_reviews(tmp_path / "texts.tsv")
    shared = f"{technique} --data_dir={data} --length=4 --embedding_size=8 --hidden_size=8 --batch_size=10".split()
    shared += "--eval_batch_size=5 --epochs=5 --learning_rate=0.03 --min_count=1 --steps_per_execution=1".split()
    run("text_classifier", 1, *shared, f"--output_dir={tmp_path / 'one'}")
    lines = run("text_classifier", 2, *shared, f"--output_dir={tmp_path / 'two'}", "--strategy=data_parallel")
    assert any("2 replicas" in line for line in lines)
    check_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.tensorflow
def test_other_backends_say_what_to_use_instead():
    with pytest.raises(
        ValueError, match="`strategy=data_parallel` needs Keras's jax backend; on TensorFlow use mirror"
    ):
        strategy.get_strategy("data_parallel")
