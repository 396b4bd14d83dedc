"""Batches: preprocessing, and epochs that depend on nothing but the seed and their number."""

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets import pipeline

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    labels = (np.arange(23) % 10).astype(np.uint8)
    return datasets.ImageData(
        x_train=random.integers(0, 256, (23, 28, 28), dtype=np.uint8),
        y_train=labels,
        x_test=random.integers(0, 256, (7, 28, 28), dtype=np.uint8),
        y_test=labels[:7],
        num_classes=10,
        name="noise",
        source="generated",
    )


def batches(data, count, **kwargs):
    dataset = datasets.train_batches(data, 5, **kwargs)
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def test_test_set_loses_the_mean_of_the_training_set(data):
    x, y = datasets.test_arrays(data)
    expected = data.x_test / 255.0 - (data.x_train / 255.0).mean(axis=0)
    assert x.shape == (7, 28, 28, 1) and x.dtype == np.float32
    np.testing.assert_allclose(x[..., 0], expected, atol=1e-6)
    assert y.tolist() == data.y_test.tolist()


def test_training_batches_are_preprocessed_like_the_test_set(data):
    (x, y), *_ = batches(data, 1, seed=3)
    order = pipeline.epoch_order(23, seed=3, epoch=0)[:5]
    expected = data.x_train[order] / 255.0 - (data.x_train / 255.0).mean(axis=0)
    np.testing.assert_allclose(x[..., 0], expected, atol=1e-6)
    assert y.tolist() == data.y_train[order].tolist()


def test_batch_of_an_epoch_depends_on_seed_and_epoch_only(data):
    steps = datasets.steps_per_epoch(data, 5)
    assert steps == 4  # the incomplete batch is dropped
    for augment in pipeline.AUGMENTATIONS:
        through = batches(data, 3 * steps, seed=1, augment=augment)
        resumed = batches(data, steps, seed=1, first_epoch=2, augment=augment)
        for (x, y), (x_resumed, y_resumed) in zip(through[2 * steps :], resumed, strict=True):
            np.testing.assert_array_equal(x, x_resumed)
            np.testing.assert_array_equal(y, y_resumed)


def test_epochs_and_seeds_differ(data):
    orders = [pipeline.epoch_order(23, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(23)) for order in orders)


def test_shift_moves_whole_images_and_fills_with_zeros():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10, 5], image[0, 27, 0] = 200, 100
    moved = pipeline.shift_images(image, [[2, -1]])
    expected = np.zeros((1, 28, 28), np.uint8)
    expected[0, 12, 4] = 200  # the other pixel has left the image
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(pipeline.shift_images(image, [[0, 0]]), image)


def test_shift_draws_all_25_offsets_alike():
    images = np.zeros((2500, 28, 28), np.uint8)
    images[:, 14, 14] = 1
    data = datasets.ImageData(images, np.zeros(2500, np.uint8), images[:1], np.zeros(1, np.uint8), 10, "dots", "")
    moved, _ = pipeline.epoch_images(data, seed=0, epoch=0, augment="shift")
    where = np.argwhere(moved)[:, 1:] - 14
    assert len(where) == 2500 and where.min() == -2 and where.max() == 2
    counts = np.unique(where, axis=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.min() > 50 and counts.max() < 150


def test_too_large_shift_is_refused():
    with pytest.raises(ValueError, match="within"):
        pipeline.shift_images(np.zeros((1, 28, 28), np.uint8), [[3, 0]])


@pytest.mark.parametrize("batch_size", [0, 24, 2.5])
def test_unusable_batch_size_is_refused(data, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be an integer from 1 to the 23"):
        datasets.train_batches(data, batch_size)


def test_unknown_augmentation_is_refused(data):
    with pytest.raises(ValueError, match="'none', 'shift'"):
        datasets.train_batches(data, 5, augment="flip")
