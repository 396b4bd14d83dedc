"""A recipe becomes the batches that it states."""

import dataclasses

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.batches import epoch_order, first_of
from sparsity_tf.datasets.images.augmentation import draw_epoch
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier.data import load_data, make_batches

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def noise():
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    return datasets.ImageData(images, labels, images, labels, 10, "noise", "generated")


@pytest.mark.parametrize("normalize", ["mean_image", "standardize"])
def test_training_and_test_images_are_normalized_alike(noise, normalize):
    recipe = presets.Recipe(normalize=normalize, batch_size=20)
    batches = make_batches(recipe, noise)
    x, y = next(batches.test().as_numpy_iterator())
    batch, labels = first_of(batches.train())
    order = epoch_order(len(x), recipe.seed, 0)
    np.testing.assert_allclose(batch, x[order], atol=1e-6)
    np.testing.assert_array_equal(labels, y[order])
    if normalize == "standardize":
        pixels = noise.x_train.astype(float)
        np.testing.assert_allclose(x[..., 0], (pixels - pixels.mean()) / pixels.std(), atol=1e-5)
    else:
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)


def test_images_are_shifted_by_as_many_pixels_as_the_recipe_says(noise):
    recipe = presets.Recipe(augment="shift", shift_pixels=7, batch_size=20, seed=3)
    batch = first_of(make_batches(recipe, noise).train())[0]
    order, offsets, _ = draw_epoch(20, 3, 0, "shift", 7)
    assert np.abs(offsets).max() == 7
    padded = np.pad(noise.x_train[order], ((0, 0), (7, 7), (7, 7)))
    images = np.array([image[7 + r : 35 + r, 7 + c : 35 + c] for image, (r, c) in zip(padded, offsets, strict=True)])
    np.testing.assert_allclose(batch[..., 0], images / 255 - (noise.x_train / 255).mean(axis=0), atol=1e-6)


def test_first_training_examples_are_used(noise, monkeypatch):
    monkeypatch.setattr(datasets, "mnist", lambda folder: noise)
    few = load_data(presets.Recipe(train_examples=12))
    np.testing.assert_array_equal(few.x_train, noise.x_train[:12])
    np.testing.assert_array_equal(few.y_train, noise.y_train[:12])
    assert few.x_test is noise.x_test
    assert load_data(presets.Recipe()) is noise
    with pytest.raises(ValueError, match="`train_examples` must be at most 20.*train_examples=21"):
        load_data(presets.Recipe(train_examples=21))


def test_imagenet_is_used_whole():
    with pytest.raises(ValueError, match="`train_examples` must be 0 with dataset=imagenet"):
        load_data(dataclasses.replace(presets.Recipe(), dataset="imagenet", train_examples=3))
