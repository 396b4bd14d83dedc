"""Random crops, shifts and flips of the images of small data sets (CIFAR, MNIST), for a whole batch at once.

Two ideas live here. The first: numpy draws all random numbers of an epoch (order, crops, flips) from `(seed, epoch)`
before the epoch begins, so every batch is a pure function of `(seed, epoch, batch)`. The second: a crop of a padded
image, mirrored or not, is a choice of pixels. One gather makes all crops of a batch, without a padded copy and without
a loop over images. (`imagenet_crops` has the crops of ImageNet.)

Sources: the CIFAR recipes of sparse training (Dettmers & Zettlemoyer, arXiv 1907.04840; Mostafa & Wang,
arXiv 1902.05967; Evci et al., arXiv 1911.11134).
"""

import numpy as np

from sparsity_tf.datasets.batches import epoch_order

AUGMENTATIONS = ("none", "shift", "flip", "crop_flip")


def draw_epoch(num_examples, seed, epoch, augment="none", pixels=0):
    """Draws all random numbers of one epoch.

    Args:
        num_examples: Number of training examples.
        seed: Non-negative integer.
        epoch: Epoch, counted from 0.
        augment: One of `AUGMENTATIONS`.
        pixels: Largest shift (`"shift"`), or width of the border (`"crop_flip"`).

    Returns:
        `(order, offsets, flips)`. `order`: int32 `(n,)`, a permutation. `offsets`: int32 `(n, 2)`, within +-`pixels`:
        output pixel (r, c) shows input pixel (r + first, c + second). `flips`: bool `(n,)`, whether the image is
        mirrored. `offsets[k]` and `flips[k]` belong to position k in the epoch, not to image k.
    """
    order = epoch_order(num_examples, seed, epoch).astype(np.int32)
    offsets, flips = np.zeros((num_examples, 2), np.int32), np.zeros(num_examples, bool)
    if augment in ("shift", "crop_flip"):
        # The seed has a third number here, so that shifts and flips are independent of the order.
        offsets = np.random.default_rng([seed, epoch, 1]).integers(-pixels, pixels + 1, (num_examples, 2))
        offsets = offsets.astype(np.int32)
        if augment == "shift":
            # The numbers drawn for a shift say how far the image moves; an offset says where a pixel comes from.
            offsets = -offsets
    if augment in ("flip", "crop_flip"):
        flips = np.random.default_rng([seed, epoch, 2]).random(num_examples) < 0.5
    return order, offsets, flips


def crop_and_flip(images, offsets, flips, border="reflect", chosen=None):
    """Takes images out of an array and moves and mirrors each of them, all in one gather.

    The result equals padding by a border, cropping at an offset and flipping, but no padded copy is made.

    Args:
        images: Array `(N, height, width, channels)` of any type.
        offsets: Integer array `(n, 2)`: output row r shows input row r + offset.
        flips: Bool array `(n,)`: whether the result is mirrored left to right.
        border: The pixels outside the image: `"reflect"`, the image mirrored at its outermost pixels, or `"zeros"`.
        chosen: Integer array `(n,)`, the indices of the images to take, in order. Default: all images.

    Returns:
        Array `(n, height, width, channels)` of the type of `images`.
    """
    if chosen is None:
        chosen = np.arange(len(images))
    height, width, channels = images.shape[1:]
    columns = np.arange(width)[np.newaxis]
    columns = np.where(flips[:, np.newaxis], width - 1 - columns, columns) + offsets[:, 1:]
    rows = np.arange(height)[np.newaxis] + offsets[:, :1]
    inside = [(i >= 0) & (i < size) for i, size in ((rows, height), (columns, width))]
    if border == "reflect":
        rows, columns = (size - 1 - np.abs(size - 1 - np.abs(i)) for i, size in ((rows, height), (columns, width)))
    else:
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    # Indexing with one number a pixel is four times as fast as indexing with three.
    pixels = (chosen.astype(np.int64)[:, np.newaxis, np.newaxis] * height + rows[:, :, np.newaxis]) * width
    moved = np.take(images.reshape(-1, channels), pixels + columns[:, np.newaxis], axis=0)
    if border == "zeros":
        moved *= (inside[0][:, :, np.newaxis] & inside[1][:, np.newaxis])[..., np.newaxis]
    return moved
