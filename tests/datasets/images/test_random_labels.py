"""Random labels: which are drawn, that they say nothing, and that a network can memorise them all the same."""

import keras
import numpy as np
import pytest

from sparsity_tf import datasets


def made(count=4000, classes=10):
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
    labels = (np.arange(count) ** 2 % classes).astype(np.uint8)
    return datasets.ImageData(images, labels, images[:5], labels[:5], classes, "squares", "Made here.")


@pytest.mark.parametrize("kind", ["uniform", "permuted"])
def test_only_the_training_labels_change(kind):
    data = made()
    other = datasets.random_labels(data, kind)
    assert other.x_train is data.x_train and other.x_test is data.x_test and other.y_test is data.y_test
    assert other.y_train.dtype == np.uint8 and (other.y_train != data.y_train).mean() > 0.6
    assert (data.y_train == made().y_train).all()
    assert (other.name, other.num_classes) == (data.name, data.num_classes)
    assert other.source == f"Made here. The training labels are random ({kind}, seed 0)."


def test_permuted_labels_keep_the_number_of_images_of_each_class_and_uniform_ones_do_not():
    data = made()
    before = np.bincount(data.y_train, minlength=10)
    assert (np.bincount(datasets.random_labels(data, "permuted").y_train, minlength=10) == before).all()
    uniform = np.bincount(datasets.random_labels(data, "uniform").y_train, minlength=10)
    assert before.min() == 0  # a square ends in no 2
    assert (abs(uniform - 400) < 5 * np.sqrt(400)).all()


@pytest.mark.parametrize("kind", ["uniform", "permuted"])
def test_labels_depend_on_the_seed_alone_and_not_on_the_images_or_true_labels(kind):
    data = made()
    labels = [datasets.random_labels(data, kind, seed).y_train for seed in (0, 0, 1)]
    assert (labels[0] == labels[1]).all() and (labels[0] != labels[2]).mean() > 0.5
    for label in np.unique(data.y_train):
        # A class's new labels have the frequencies of all labels.
        share = np.bincount(labels[0][data.y_train == label], minlength=10) / (data.y_train == label).sum()
        assert abs(share - np.bincount(labels[0], minlength=10) / len(labels[0])).max() < 0.1


@pytest.mark.parametrize(
    "change,message",
    [({"kind": "shuffled"}, "`kind` must be one of"), ({"seed": -1}, "`seed` must be"), ({"data": 3}, "`data` must")],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        datasets.random_labels(**{"data": made(10), **change})


@pytest.mark.compiled
def test_a_network_memorises_random_labels():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 20, 20), dtype=np.uint8), np.zeros(60, np.uint8)
    data = datasets.random_labels(datasets.ImageData(images, labels, images, labels, 10, "noise", "Made here."))
    model = keras.Sequential([keras.Input((20, 20)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = data.x_train / 255 - 0.5
    model.fit(x, data.y_train, batch_size=60, epochs=25, verbose=0)
    assert model.evaluate(x, data.y_train, verbose=0)[1] == 1
    assert model.evaluate(x, data.y_test, verbose=0)[1] < 0.4
