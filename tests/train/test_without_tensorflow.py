"""The training programs on the JAX backend, on a machine on which TensorFlow can't be imported."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.train.runs import write_digits

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


CALLS = """
import importlib, sys
from absl import flags

sys.modules["tensorflow"] = None
for program, *arguments in {calls}:
    module = importlib.import_module("sparsity_tf.train." + program)
    if hasattr(module, "__path__"):
        module = importlib.import_module(module.__name__ + ".__main__")
        values = flags.FlagValues()
        module.define_flags(values)
        values([program, *arguments])
        status = module.main([program], values)
    else:
        status = module.main([program, *arguments])
    assert not status, program
"""


def run(*calls):
    """Runs programs one after another in a process without TensorFlow: the lines of their output.

    Args:
        calls: Lists of a program's name and its arguments.
    """
    code = CALLS.format(calls=[[program, *map(str, arguments)] for program, *arguments in calls])
    finished = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout.splitlines()


@pytest.mark.parametrize(
    "more",
    (
        pytest.param(
            ("--config=lenet300_vd", "--penalty_begin_epoch=0", "--penalty_end_epoch=1"), marks=pytest.mark.slow
        ),
        ("--config=lenet300_rigl", "--frequency=2", "--train_examples=0"),
        pytest.param(
            ("--config=lenet300_set", "--frequency=2", "--train_examples=0", "--validation_split=0.5", "--keep_best"),
            marks=pytest.mark.slow,
        ),
    ),
)
def test_classifier_trains_and_its_checkpoint_loads(tmp_path, more):
    digits = tmp_path / "digits"
    digits.mkdir()
    arguments = f"--data_dir={write_digits(digits)}", f"--output_dir={tmp_path / 'run'}", "--batch_size=16", *more
    lines = run(
        ["classifier", *arguments, "--epochs=2"],
        ["classifier", *arguments, "--epochs=2", "--resume"],
        ["evaluate", f"--checkpoint={tmp_path / 'run' / 'model.keras'}", arguments[0]],
    )
    assert any(line.startswith("epoch 2/2") for line in lines)
    trained, again = (line for line in lines if line.startswith("test error"))
    assert lines.index("resuming after epoch 2") > lines.index(trained) and again == trained
    assert trained.split(" %")[0].removeprefix("test error ") in lines[-1]


@pytest.mark.slow
def test_language_model_trains(tmp_path):
    sizes = "--hidden_size=12", "--window=8", "--batch_size=8", "--epoch_steps=6", "--epochs=2", "--frequency=3"
    folder = f"--output_dir={tmp_path / 'run'}"
    lines = run(["language_model", "--config=small_char_rnn_dsr", folder, *sizes, "--eval_characters=403"])
    assert lines[-1].startswith("bits per character")


@pytest.mark.slow
def test_translator_trains_and_translates(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    words = "the small large file model layer weight is was sparse dense fast slow".split()
    for split, count in (("train", 240), ("valid", 8), ("test", 8)):
        pairs = [" ".join(words[(k * j) % len(words)] for j in range(1, 2 + k % 7)) for k in range(count)]
        (corpus / f"{split}.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in pairs))
    sizes = "--num_layers=1", "--hidden_size=16", "--filter_size=32", "--num_heads=2", "--vocabulary_size=320"
    steps = "--batch_tokens=160", "--max_length=32", "--eval_max_length=64", "--train_steps=6", "--eval_every=3"
    options = "--packed", "--begin_step=1", "--end_step=5", "--frequency=1", "--warmup_steps=2", "--beam_size=2"
    files = f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}"
    lines = run(["translator", "--config=tiny_magnitude", *files, *sizes, *steps, *options, "--extra_length=4"])
    assert lines[-1].startswith("BLEU")
