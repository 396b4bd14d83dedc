"""The command that translates a text: order, batches, options, and what it says when something is wrong."""

import io
import sys

import keras
import numpy as np
import pytest

from sparsity_tf import decoding, models, sparsify
from sparsity_tf.datasets.text import subwords
from sparsity_tf.tools import command, translate

pytestmark = pytest.mark.tensorflow
LINES = ["the cat sat on the mat", "", "a dog", "the dog saw the cat", "a cat"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder, vocabulary file, checkpoint)."""
    folder = tmp_path_factory.mktemp("translate")
    vocabulary = str(folder / "vocabulary.model")
    subwords.train(
        ["the cat sat on the mat", "a dog saw the cat", "the dog sat"] * 20, vocabulary, 45, byte_fallback=False
    )
    size = subwords.load(vocabulary).size
    keras.utils.set_random_seed(7)
    model = models.Transformer(size, 1, 8, 16, 2, technique="vd")
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "log_sigma2" not in variable.name:
            variable.assign_add(0.4 * rng.normal(size=variable.shape))
    checkpoint = str(folder / "model.keras")
    model.save(checkpoint)
    return folder, vocabulary, checkpoint


def run(files, *arguments, **replaced):
    _, vocabulary, checkpoint = files
    flags = {"vocabulary": vocabulary, "checkpoint": checkpoint, **replaced}
    given = [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
    return translate.main(["translate", *given, "--extra_length=3", *arguments])


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_file_is_translated_line_by_line(files, tmp_path, capsys):
    folder, vocabulary, checkpoint = files
    output = tmp_path / "out"
    source = write(tmp_path / "in", LINES)
    assert run(files, f"--input={source}", f"--output={output}", "--greedy", "--batch_size=2") == 0
    vocabulary = subwords.load(vocabulary)
    decoder = decoding.Decoder(keras.saving.load_model(checkpoint))
    lines = output.read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(LINES) + 1 and lines[1] == lines[-1] == ""
    for line, translated in zip(LINES, lines, strict=False):
        if line:
            ids = np.array([[*vocabulary.encode(line), 1] + [0] * 20])[:, :16]
            [[expected]] = decoder.greedy(ids, 3).sequences
            assert translated == " ".join(vocabulary.decode(expected).splitlines())
    assert "4 sentences in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_standard_input_and_output(files, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\r\nthe cat\n")))
    assert run(files, "--beam_size=2", "--log_alpha_threshold=30") == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_sentences_are_batched_by_length_and_come_back_in_order():
    batches = []

    def search(inputs, extra_length):
        batches.append(inputs)
        return decoding.Hypotheses(inputs[:, None] * (inputs[:, None] != 1) + (inputs[:, None] == 1), None, None)

    rng = np.random.default_rng(0)
    sentences = [rng.integers(2, 50, length).tolist() for length in (3, 40, 0, 9, 8, 3, 300, 1)]
    counted = []
    assert translate.translate(search, sentences, 5, 3, counted.append) == sentences
    assert counted == [3, 3, 1]
    assert [batch.shape for batch in batches] == [(3, 384), (3, 16), (3, 8)]
    assert translate.translate(search, [[], []], 5, 3) == [[], []]


def test_log_alpha_threshold_decides_what_is_zero():
    model = models.Transformer(20, 1, 8, 16, 2, technique="vd", log_sigma2_initializer=-3.0)
    before = decoding.network.inference_weights(model)["embedding"]
    translate.set_log_alpha_threshold(model, -1.0)
    after = decoding.network.inference_weights(model)["embedding"]
    zeros = [int((keras.ops.convert_to_numpy(weights) == 0).sum()) for weights in (before, after)]
    assert zeros[0] < zeros[1]
    for other in (models.Transformer(20, 1, 8, 16, 2), sparsify(models.Transformer(20, 1, 8, 16, 2), "masked")):
        with pytest.raises(command.CommandError, match="needs a model with variational dropout"):
            translate.set_log_alpha_threshold(other, 1.0)


def test_overlong_sentences_are_refused_or_cut(files, tmp_path, capsys):
    source = write(tmp_path / "in", [*LINES, "the cat " * 20])
    output = tmp_path / "out"
    assert run(files, f"--input={source}", f"--output={output}", "--max_length=30") == 1
    error = capsys.readouterr().err
    assert "at most 30 tokens" in error and "line 6 has" in error and "--truncate" in error
    assert not output.exists()
    vocabulary = subwords.load(files[1])
    sentences = translate.encode([*LINES, "the cat " * 20], vocabulary, 30, truncate=True)
    assert len(sentences[-1]) == 30
    assert "1 sentences were cut off" in capsys.readouterr().err


def test_a_search_that_is_too_large_is_one_line(files, tmp_path, capsys, monkeypatch):
    def exhausted(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")

    monkeypatch.setattr(translate, "translate", exhausted)
    assert run(files, f"--input={write(tmp_path / 'in', LINES)}") == 1
    error = capsys.readouterr().err
    assert "not enough memory: lower --beam_size or --batch_size" in error and error.count("\n") == 1


def test_a_vocabulary_of_another_model_is_an_error(files, tmp_path, capsys):
    other = str(tmp_path / "other.model")
    subwords.train(["the cat sat on the mat", "a dog saw the cat"] * 20, other, 38, byte_fallback=False)
    output = tmp_path / "out"
    source = write(tmp_path / "in", LINES)
    assert run(files, f"--input={source}", f"--output={output}", vocabulary=other) == 1
    error = capsys.readouterr().err
    assert "has 38 symbols" in error and "has 45" in error and "another vocabulary" in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"a\n\xff\n", "line 2 is not UTF-8"),
        ("a dog\nein Ä\n".encode(), "line 2: "),
    ],
)
def test_inputs_that_cannot_be_translated(files, tmp_path, capsys, content, message):
    source = tmp_path / "in"
    if content is not None:
        source.write_bytes(content)
    assert run(files, f"--input={source}", f"--output={tmp_path / 'out'}") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_checkpoints_and_outputs_that_cannot_be_used(files, tmp_path, capsys):
    source = write(tmp_path / "in", LINES)
    assert run(files, f"--input={source}", checkpoint=str(tmp_path / "no.keras")) == 1
    assert "no.keras does not exist" in capsys.readouterr().err
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "other.keras")
    assert run(files, f"--input={source}", checkpoint=str(tmp_path / "other.keras")) == 1
    assert "must be a model that `sparsity_tf.models.Transformer` built" in capsys.readouterr().err
    assert run(files, f"--input={source}", f"--output={tmp_path}/no/out") == 1
    assert "folder of --output does not exist" in capsys.readouterr().err
    # Before anything is loaded: there is no such checkpoint.
    assert run(files, f"--input={source}", "--output=/proc/out", checkpoint=str(tmp_path / "no.keras")) == 1
    assert "--output can't be written: /proc/out (" in capsys.readouterr().err
    assert run(files, f"--input={source}", f"--output={source}", "--overwrite") == 1
    assert "--output must not be the input itself" in capsys.readouterr().err
    assert run(files, f"--input={source}", f"--output={files[2]}", "--overwrite") == 1
    assert "--output must not be the checkpoint itself" in capsys.readouterr().err
    assert run(files, f"--input={source}", "--beam_size=1000") == 1
    assert "--beam_size must be at most the 45 symbols of the vocabulary" in capsys.readouterr().err
    assert run(files, checkpoint=None) == 2
    assert "--checkpoint is required" in capsys.readouterr().err
