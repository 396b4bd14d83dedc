"""Crops, shifts and flips, against plain numpy."""

import numpy as np

from sparsity_tf.datasets.batches import epoch_order
from sparsity_tf.datasets.images import augmentation


def test_crop_and_flip_is_pad_crop_flip():
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (64, 8, 10, 3), dtype=np.uint8)
    offsets = random.integers(-4, 5, (64, 2)).astype(np.int32)
    flips = random.random(64) < 0.5
    for border, mode in (("reflect", "reflect"), ("zeros", "constant")):
        padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode=mode)
        expected = [image[4 + r : 12 + r, 4 + c : 14 + c] for image, (r, c) in zip(padded, offsets, strict=True)]
        expected = np.array([image[:, ::-1] if flip else image for image, flip in zip(expected, flips, strict=True)])
        np.testing.assert_array_equal(augmentation.crop_and_flip(images, offsets, flips, border), expected)


def test_every_image_has_crop_and_flip_of_its_own():
    _, offsets, flips = augmentation.draw_epoch(8100, 0, 0, "crop_flip", 4)
    counts = np.unique(offsets, axis=0, return_counts=True)[1]
    assert len(counts) == 81 and counts.min() > 60 and counts.max() < 145  # 100 expected, sd 10
    assert 3850 < flips.sum() < 4250  # 4,050 expected, sd 45
    assert abs(np.corrcoef(flips, offsets[:, 1])[0, 1]) < 0.05


def test_shift_moves_whole_images_and_fills_with_zeros():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 10, 5], image[0, 27, 0] = 200, 100
    moved = augmentation.crop_and_flip(image, np.array([[-2, 1]]), np.array([False]), border="zeros")
    expected = np.zeros((1, 28, 28, 1), np.uint8)
    expected[0, 12, 4] = 200  # the other pixel has left the image
    np.testing.assert_array_equal(moved, expected)


def test_shift_draws_all_25_offsets_alike():
    _, offsets, flips = augmentation.draw_epoch(2500, seed=0, epoch=0, augment="shift", pixels=2)
    assert not flips.any() and offsets.min() == -2 and offsets.max() == 2
    counts = np.unique(offsets, axis=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.min() > 50 and counts.max() < 150


def test_numbers_of_a_shift_say_how_far_the_image_moves():
    drawn = np.random.default_rng([3, 5, 1]).integers(-2, 3, (40, 2))
    _, offsets, _ = augmentation.draw_epoch(40, seed=3, epoch=5, augment="shift", pixels=2)
    np.testing.assert_array_equal(offsets, -drawn)


def test_orders_of_epochs_and_seeds_differ():
    orders = [epoch_order(23, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(23)) for order in orders)
