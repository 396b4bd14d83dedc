"""The whole way on record shards in ImageNet's original layout: train, stop, resume, evaluate, convert, evaluate."""

import json
import shutil

import pytest

from sparsity_tf.tools import convert, evaluate
from sparsity_tf.train import log, run_folder
from sparsity_tf.train.classifier import pictures
from tests.datasets.images.imagenet_writer import write_records
from tests.train.runs import classify, weights_of

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    write_records(folder, train=16, test=7)
    return folder


def run(records, folder, name, capsys, *more):
    """A preset on images of 32 pixels: two steps an epoch."""
    flags = [
        f"--config={name}",
        f"--data_dir={records}",
        f"--output_dir={folder}",
        "--image_size=32",
        "--batch_size=8",
        "--epochs=2",
        *more,
    ]
    status, lines, error = classify(flags, capsys)
    assert status in (0, 1), error  # one step may leave a network that names one class
    return lines


def measured(path, records, capsys, *more):
    capsys.readouterr()
    arguments = [f"--checkpoint={path}", f"--data_dir={records}", "--format=json", *more]
    assert evaluate.main(["evaluate", *arguments]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "network",
    [
        (
            "mobilenetv1_str",
            "--model=wide_resnet",
            '--model_options={"depth": 10, "width": 0.25, "dropout": 0}',
        ),  # few layers
        pytest.param(("mobilenetv1_str", '--model_options={"width": 0.125}'), marks=pytest.mark.slow),
        pytest.param(("resnet50_str", '--model_options={"width": 0.125}'), marks=pytest.mark.slow),
    ],
    ids=["wide_resnet", "mobilenet", "resnet50"],
)
def test_train_resume_evaluate_convert_evaluate(records, network, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])
    folder = tmp_path / "through"
    # What the presets set for 100 epochs is nothing in four steps: the rate would stay near 0, the thresholds, too.
    flags = (*network, "--keep_best", "--lr_warmup_epochs=1", '--technique_options={"threshold_initializer": -5}')
    save = run_folder.Checkpoint.on_epoch_end

    def save_and_copy(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 0:
            shutil.copytree(folder, tmp_path / "killed")

    monkeypatch.setattr(run_folder.Checkpoint, "on_epoch_end", save_and_copy)
    lines = run(records, folder, flags[0], capsys, *flags[1:])
    assert any("16 training and 7 test images" in line for line in lines)
    assert (folder / run_folder.INITIAL).exists() and (folder / run_folder.BEST).exists()

    run(records, tmp_path / "killed", flags[0], capsys, *flags[1:], "--resume")
    for a, b in zip(weights_of(folder), weights_of(tmp_path / "killed"), strict=True):
        assert (a == b).all()

    (sparse,) = measured(folder / run_folder.CHECKPOINT, records, capsys)
    last = log.read_metrics(folder)[-1]
    assert sparse["error"] == pytest.approx(float(last["test_error"]))
    assert sparse["top5_error"] == pytest.approx(float(last["test_top5_error"]))
    dense_path = folder / "dense.keras"
    arguments = [f"--checkpoint={folder / run_folder.CHECKPOINT}", f"--output={dense_path}"]
    assert convert.main(["convert", *arguments]) == 0
    (dense,) = measured(dense_path, records, capsys)
    for name in ("error", "top5_error", "sparsity"):
        assert dense[name] == sparse[name]
    assert dense["loss"] == pytest.approx(sparse["loss"], rel=1e-5) and 0 < sparse["sparsity"] < 1
