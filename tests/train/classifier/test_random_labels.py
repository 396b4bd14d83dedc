"""Runs on random labels: the labels of the recipe, and a network without a weight that is no failure there."""

import json

import numpy as np
import pytest

from sparsity_tf.train import run_folder, summary
from sparsity_tf.train.classifier import data, pictures
from tests.train.runs import classify, recipe_of, write_digits

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("kind", ["uniform", "permuted"])
def test_training_labels_of_a_recipe_are_random_and_test_labels_are_not(digits, kind):
    where = ("--config=lenet300_dense", f"--data_dir={digits}", "--train_examples=50")
    true = data.load_data(recipe_of(*where))
    drawn = data.load_data(recipe_of(*where, f"--random_labels={kind}"))
    assert len(drawn.y_train) == 50 and (drawn.y_train != true.y_train).mean() > 0.5
    assert (drawn.y_test == true.y_test).all() and (drawn.x_train == true.x_train).all()
    if kind == "permuted":  # only the labels of the images that are used change places
        assert (np.bincount(drawn.y_train) == np.bincount(true.y_train)).all()
    again, other = (
        data.load_data(recipe_of(*where, f"--random_labels={kind}", *more)) for more in ([], ["--label_seed=1"])
    )
    assert (again.y_train == drawn.y_train).all() and (other.y_train != drawn.y_train).any()
    # A run is continued on the same labels only.
    assert data.describe(true)["checksum"] != data.describe(drawn)["checksum"] != data.describe(other)["checksum"]


def test_sequences_have_random_labels_too(tmp_path):
    rows = np.zeros((40, 1 + 128 * 9))
    rows[:, 0] = np.arange(40) % 2
    for part in ("train", "test"):
        np.save(tmp_path / f"{part}.npy", rows)
    where = ("--config=har2_fastgrnn_dense", f"--data_dir={tmp_path}", "--random_labels=uniform")
    found = data.load_data(recipe_of(*where))
    assert (found.y_train != rows[:, 0]).any() and (found.y_test == rows[:, 0]).all()


def test_imagenet_has_no_random_labels(tmp_path):
    recipe = recipe_of("--config=resnet50_dense", f"--data_dir={tmp_path}", "--random_labels=uniform")
    with pytest.raises(ValueError, match="`random_labels` must be none with dataset=imagenet"):
        data.load_data(recipe)


def test_a_network_without_a_weight_is_no_failure_on_random_labels_only(digits, tmp_path, capsys, monkeypatch):
    """SparseVD's network on random labels: nothing is left but the biases, which predict one class."""
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])
    dead = '--technique_options={"log_sigma2_initializer": 9.0}'
    arguments = ["--config=lenet300_vd", f"--data_dir={digits}", dead, "--epochs=1", "--batch_size=16"]
    arguments += ["--penalty_begin_epoch=0", "--penalty_end_epoch=0", "--jit_compile=false"]
    status, lines, _ = classify([*arguments, f"--output_dir={tmp_path}/true"], capsys)
    assert status == 1 and lines[-1].startswith("collapsed: the network predicts class")
    status, lines, error = classify([*arguments, f"--output_dir={tmp_path}/random", "--random_labels=uniform"], capsys)
    assert (status, error) == (0, "")
    assert any(line.endswith("The training labels are random (uniform, seed 0).") for line in lines)
    assert lines[-1].endswith("sparsity 100.00 %, no weight is left")
    text = (tmp_path / "random" / run_folder.RESULTS).read_text()
    results = json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity
    assert (results["collapsed"], results["sparsity"], results["compression"]) == (None, 1.0, None)
    assert results["recipe"]["random_labels"] == "uniform"
    found = summary.summarize([tmp_path / "random"])
    assert len(found.runs) == 1 and "compression" not in {row["figure"] for row in found.rows()}
