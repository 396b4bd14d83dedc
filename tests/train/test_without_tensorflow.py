"""The training programs on the JAX backend, on a machine on which TensorFlow can't be imported."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.train.runs import write_digits

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


def run(program, *arguments):
    """Runs a program in a process without TensorFlow: the lines of its output."""
    code = f"import sys, runpy; sys.modules['tensorflow'] = None; sys.argv[0] = {program!r}; "
    code += f"runpy.run_module('sparsity_tf.train.{program}', run_name='__main__')"
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout.splitlines()


@pytest.mark.parametrize(
    "more",
    (
        ("--config=lenet300_vd", "--penalty_begin_epoch=0", "--penalty_end_epoch=1"),
        ("--config=lenet300_rigl", "--frequency=2", "--train_examples=0"),
        ("--config=lenet300_set", "--frequency=2", "--train_examples=0", "--validation_split=0.5", "--keep_best"),
    ),
)
def test_classifier_trains_and_its_checkpoint_loads(tmp_path, more):
    digits = tmp_path / "digits"
    digits.mkdir()
    arguments = f"--data_dir={write_digits(digits)}", f"--output_dir={tmp_path / 'run'}", "--batch_size=16", *more
    lines = run("classifier", *arguments, "--epochs=2")
    assert any(line.startswith("epoch 2/2") for line in lines) and lines[-1].startswith("test error")
    again = run("classifier", *arguments, "--epochs=2", "--resume")
    assert "resuming after epoch 2" in again and again[-1] == lines[-1]
    table = run("evaluate", f"--checkpoint={tmp_path / 'run' / 'model.keras'}", arguments[0])
    assert lines[-1].split(" %")[0].removeprefix("test error ") in table[-1]


def test_language_model_trains(tmp_path):
    sizes = "--hidden_size=12", "--window=8", "--batch_size=8", "--epoch_steps=6", "--epochs=2", "--frequency=3"
    lines = run(
        "language_model",
        "--config=small_char_rnn_dsr",
        f"--output_dir={tmp_path / 'run'}",
        *sizes,
        "--eval_characters=403",
    )
    assert lines[-1].startswith("bits per character")


def test_translator_trains_and_translates(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    words = "the small large file model layer weight is was sparse dense fast slow".split()
    for split, count in (("train", 240), ("valid", 8), ("test", 8)):
        pairs = [" ".join(words[(k * j) % len(words)] for j in range(1, 2 + k % 7)) for k in range(count)]
        (corpus / f"{split}.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in pairs))
    sizes = "--num_layers=1", "--hidden_size=16", "--filter_size=32", "--num_heads=2", "--vocabulary_size=320"
    steps = "--batch_tokens=160", "--max_length=32", "--eval_max_length=64", "--train_steps=6", "--eval_every=3"
    lines = run(
        "translator",
        "--config=tiny_magnitude",
        f"--data_dir={corpus}",
        f"--output_dir={tmp_path / 'run'}",
        *sizes,
        *steps,
        "--packed",
        "--begin_step=1",
        "--end_step=5",
        "--frequency=1",
        "--warmup_steps=2",
        "--beam_size=2",
        "--extra_length=4",
    )
    assert lines[-1].startswith("BLEU")
