"""One command measures a published checkpoint and says whether it reaches its published score."""

import dataclasses
import json
import tarfile

import keras
import numpy as np
import pytest

from sparsity_tf import inspection, models
from sparsity_tf.checkpoints import published
from sparsity_tf.datasets.text import subwords
from sparsity_tf.tools import check_published
from tests.checkpoints.test_state_of_sparsity import (
    randomize,
    resnet_tensors,
    save,
    transformer_tensors,
)

pytestmark = pytest.mark.tensorflow
VD = "variational_dropout_0.5_cubic_400000_100000_2.22E-08_0.1_0.1_2.5"
L0 = "l0_regularization_0.9_cubic_200000_100000_0.000002222_0.1_0.1"
RESNET = "standard_threshold_0.5_40000_100000_2000_0.1"
SENTENCES = ["the cat sat on the mat", "a dog saw the cat", "the dog sat"]


def packed(folder, name, tensors):
    """A checkpoint with a published name, as the authors packed it."""
    save(folder / "model.ckpt-5", tensors)
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        for file in sorted(folder.glob("model.ckpt-5.*")):
            archive.add(file, f"{name}/{file.name}")
    return str(folder / f"{name}.tar")


def run(capsys, *arguments):
    capsys.readouterr()
    status = check_published.main(["check_published", *map(str, arguments)])
    return status, *capsys.readouterr()


def claims(monkeypatch, name, score, sparsity):
    """Lets the authors claim other figures than they did."""
    catalogue = tuple(
        dataclasses.replace(one, score=score, sparsity=sparsity) if one.name == name else one
        for one in published.published_checkpoints()
    )
    for module in (published, check_published):
        monkeypatch.setattr(module, "published_checkpoints", lambda: catalogue)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Flags of a text to translate into itself."""
    folder = tmp_path_factory.mktemp("text")
    vocabulary = str(folder / "vocabulary.model")
    subwords.train(SENTENCES * 20, vocabulary, 45, byte_fallback=False)
    (folder / "source").write_text("".join(line + "\n" for line in SENTENCES), encoding="utf-8")
    flags = [f"--vocabulary={vocabulary}", f"--input={folder / 'source'}", f"--references={folder / 'source'}"]
    return [*flags, "--greedy", "--extra_length=3", "--num_heads=2", "--format=json"], subwords.load(vocabulary).size


def transformer(technique, size):
    keras.utils.set_random_seed(3)
    model = models.Transformer(size, 1, 8, 12, 2, dropout=0.0, technique=technique)
    randomize(model)
    return model


def test_a_translator_of_variational_dropout_is_measured_at_several_thresholds(text, tmp_path, capsys, monkeypatch):
    flags, size = text
    path = packed(tmp_path, VD, transformer_tensors(transformer("vd", size), "vd"))
    status, out, error = run(capsys, f"--checkpoint={path}", *flags, "--log_alpha_threshold=1,-3,2.5")
    rows = json.loads(out)
    assert [row["log_alpha_threshold"] for row in rows] == [-3.0, 1.0, 2.5]
    sparsities = [row["sparsity"] for row in rows]
    assert sparsities == sorted(sparsities, reverse=True) and len(set(sparsities)) == 3
    assert status == 1 and "failed: " in error and "different: score by more than 0.2, sparsity" in error
    claims(monkeypatch, VD, round(rows[-1]["score"] + 0.15, 2), round(sparsities[-1], 2))
    status, out, error = run(capsys, f"--checkpoint={path}", *flags)
    assert status == 0 and [row["log_alpha_threshold"] for row in json.loads(out)] == [2.5]
    assert f"passed: {VD}: " in error
    status, _, error = run(capsys, f"--checkpoint={path}", *flags, "--tolerance=0.1")
    assert status == 1 and "different: score by more than 0.1" in error
    claims(monkeypatch, VD, rows[-1]["score"], 0.1)
    status, _, error = run(capsys, f"--checkpoint={path}", *flags)
    assert status == 1 and "different: sparsity by more than 0.02" in error


def test_other_translators_have_one_row(text, tmp_path, capsys, monkeypatch):
    flags, size = text
    path = packed(tmp_path, L0, transformer_tensors(transformer("l0", size), "l0"))
    status, out, _ = run(capsys, f"--checkpoint={path}", *flags, "--measure_only")
    [row] = json.loads(out)
    assert status == 0 and row["log_alpha_threshold"] is None and 0 < row["sparsity"] < 1
    claims(monkeypatch, L0, row["score"], row["sparsity"])
    assert run(capsys, f"--checkpoint={path}", *flags)[0] == 0
    status, out, _ = run(capsys, f"--checkpoint={path}", *flags, "--format=table")
    assert status == 0 and "passed: " in out and "sacrebleu" in out
    status, _, error = run(capsys, f"--checkpoint={path}", *flags, "--log_alpha_threshold=1")
    assert status == 2 and "variational dropout only, not of L0 Regularization" in error


def test_a_resnet_is_measured_on_its_test_set(tmp_path, capsys, monkeypatch):
    model = models.resnet(50, (32, 32, 3), 10, width=0.0625, technique="masked")
    randomize(model)
    path = packed(tmp_path, RESNET, resnet_tensors(model, "masked", False, "bottleneck", (3, 4, 6, 3)))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    data = tmp_path / "cifar10.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    flags = [f"--checkpoint={path}", f"--data_dir={data}", "--config=wrn-28-2_dense", "--format=csv"]
    status, out, error = run(capsys, *flags)
    header, figures = out.splitlines()
    assert header == "log_alpha_threshold,sparsity,score,top5_accuracy"
    _, sparsity, score, _ = figures.split(",")
    assert float(sparsity) == inspection.sparsity_table(model).sparsity
    assert status == 1 and "failed: " in error and error.count("\n") == 1
    claims(monkeypatch, RESNET, float(score), float(sparsity))
    status, out, error = run(capsys, *flags)
    assert status == 0 and f"passed: {RESNET}" in error


def test_the_catalogue_is_shown(capsys):
    status, out, _ = run(capsys, "--list")
    assert status == 0 and len(out.splitlines()) == 51 and "23.26" in out


def test_wrong_use_is_one_line(tmp_path, capsys):
    for flags, status, message in [
        ([], 2, "Flag --checkpoint is required"),
        ([f"--checkpoint={tmp_path}/model.ckpt"], 2, "Flag --name must say which published checkpoint this is"),
        ([f"--checkpoint={tmp_path}/a", "--name=b"], 2, "Flag --name must be in the catalogue"),
        ([f"--checkpoint={tmp_path}/{VD}.tar"], 2, "Flag --vocabulary is required for a Transformer"),
        ([f"--checkpoint={tmp_path}/{VD}.tar", "--log_alpha_threshold=a"], 2, "finite numbers separated by commas"),
        ([f"--checkpoint={tmp_path}/{RESNET}.tar", f"--data_dir={tmp_path}/no"], 1, f"{tmp_path}/no"),
    ]:
        found, _, error = run(capsys, *flags)
        assert (found, error.count("\n")) == (status, 1) and message in error, flags
