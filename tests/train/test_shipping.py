"""From `--structure=channel` to a file of another runtime, by the commands: trained, shrunk, exported."""

import json

import keras
import pytest

from sparsity_tf import deploy
from sparsity_tf.tools import convert
from sparsity_tf.train.classifier import pictures
from tests.train.runs import classify, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


def arguments(digits, folder, *more):
    small = ("--batch_size=16", "--epochs=2", "--train_examples=0", "--jit_compile=false", "--technique=magnitude")
    model = ("--config=lenet300_dense", "--begin_step=0", "--end_step=6", "--frequency=2")
    return [*model, *small, f"--data_dir={digits}", f"--output_dir={folder}", *more]


def test_channels_from_training_to_litert(digits, tmp_path, capsys):
    status, lines, error = classify(arguments(digits, tmp_path, "--structure=channel", "--final_sparsity=0.5"), capsys)
    assert (status, error) == (0, "")
    # 784 - 300 - 100 - 10 with biases, and half of both hidden layers.
    [line] = [line for line in lines if line.startswith("shipping: ")]
    assert line.startswith("shipping: shrunk to 125,810 of 266,610 parameters (2.12 times fewer), 2.12 times fewer")
    assert lines[-1].startswith("test error ")
    network, small = tmp_path / "model.keras", tmp_path / "small.keras"
    assert convert.main(["convert", f"--checkpoint={network}", f"--output={small}", "--shrink"]) == 0
    assert "shrunk: 266,610 -> 125,810 parameters" in capsys.readouterr().out
    assert keras.saving.load_model(small).count_params() == 125_810


@pytest.mark.tensorflow
def test_channels_from_training_to_an_int8_sized_file(digits, tmp_path, capsys):
    classify(arguments(digits, tmp_path, "--structure=channel", "--final_sparsity=0.9"), capsys)
    small = tmp_path / "small.tflite"
    flags = [f"--checkpoint={tmp_path / 'model.keras'}", f"--output={small}", "--shrink", "--format=litert"]
    assert convert.main(["convert", *flags]) == 0
    # 784 * 30 + 30 * 10 + 10 * 10 weights of four bytes, and what LiteRT writes around them.
    assert 4 * 23_920 < small.stat().st_size < 4 * 23_920 + 8_000


def test_single_zeros_are_said_to_gain_no_speed(digits, tmp_path, capsys):
    _, lines, _ = classify(arguments(digits, tmp_path, "--final_sparsity=0.5"), capsys)
    [line] = [line for line in lines if line.startswith("shipping: ")]
    assert "no runtime gets faster: structure='channel'" in line


def test_a_line_that_fails_does_not_end_the_run(digits, tmp_path, capsys, monkeypatch):
    def fail(model):
        raise TypeError("a layer of the user's own\nand more")

    monkeypatch.setattr(deploy, "shipping_gain", fail)
    status, lines, _ = classify(arguments(digits, tmp_path, "--final_sparsity=0.5"), capsys)
    assert status == 0 and lines[-1].startswith("test error ")
    assert any(line.startswith("shipping: not known: a layer of the user's own") for line in lines)
    assert json.loads((tmp_path / "results.json").read_text())["sparsity"] > 0
