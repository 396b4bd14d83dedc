"""Turns an `ImageData` into batches without a loop over images.

Two ideas live here. The first is the preprocessing of the SparseVD experiments (pixels / 255 minus
the mean image of the training set; Molchanov et al., ICML 2017). The second: an epoch is a pure
function of `(seed, epoch)`, so that a resumed run sees exactly the batches of an uninterrupted one.
The whole set stays in memory as uint8. numpy draws the order of an epoch (and, with `augment`, shifts
its images) once, so that a batch takes only one gather and one subtraction.
"""

import numpy as np

from sparsity_tf.checks import check_choice, check_instance, check_integer, is_integer
from sparsity_tf.datasets.images.image_data import ImageData
from sparsity_tf.extras import import_optional
from sparsity_tf.type_names import Dataset

AUGMENTATIONS = ("none", "shift")


def mean_image(images):
    """The per-pixel mean of `images / 255`: float32, of the shape of one image."""
    return (images.mean(axis=0, dtype=np.float64) / 255.0).astype(np.float32)


def normalize(images, mean):
    """`images / 255 - mean` as float32, with a channel axis of size 1 added at the end."""
    return (images.astype(np.float32) / np.float32(255.0) - mean)[..., np.newaxis]


def test_arrays(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    """The preprocessed test set.

    Args:
        data: An `ImageData`.

    Returns:
        `(x, y)`: float32 `(n_test, height, width, 1)`, from which the mean of the *training* images is
        subtracted, and int32 `(n_test,)`.

    Example:

    >>> x_test, y_test = test_arrays(mnist_demo())
    >>> x_test.shape, y_test.shape
    ((1000, 28, 28, 1), (1000,))
    """
    check_instance("data", data, ImageData)
    return normalize(data.x_test, mean_image(data.x_train)), data.y_test.astype(np.int32)


test_arrays.__test__ = False  # tells pytest that this function is not a test, in spite of its name


def epoch_order(num_examples, seed, epoch):
    """The order of the examples in one epoch: an int64 permutation that depends on the arguments only.

    Example:
        >>> a, b = epoch_order(10, seed=0, epoch=3), epoch_order(10, seed=0, epoch=3)
        >>> bool((a == b).all()), sorted(a.tolist()) == list(range(10))
        (True, True)
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def shift_images(images, offsets, limit=2):
    """Moves each image by whole pixels, filling with zeros.

    Args:
        images: Array `(n, height, width)`.
        offsets: Integer array `(n, 2)`, rows down and columns to the right, within +-`limit`.
        limit: Largest offset in pixels.

    Returns:
        Array of the shape and dtype of `images`.

    Raises:
        ValueError: An offset exceeds `limit`.
    """
    offsets = np.asarray(offsets)
    if offsets.size and np.abs(offsets).max() > limit:
        raise ValueError(f"`offsets` must lie within +-{limit}. Received: up to {np.abs(offsets).max()}")
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (limit, limit), (limit, limit)))
    shifted = np.empty_like(images)
    # Copying one slice for each of the few possible offsets is much faster than indexing each pixel.
    for down in range(-limit, limit + 1):
        for right in range(-limit, limit + 1):
            chosen = np.flatnonzero((offsets[:, 0] == down) & (offsets[:, 1] == right))
            top, left = limit - down, limit - right
            shifted[chosen] = padded[chosen, top : top + height, left : left + width]
    return shifted


def epoch_images(data, seed, epoch, augment="none", shift_pixels=2):
    """The training images of one epoch, in order.

    Args:
        data: An `ImageData`.
        seed: Non-negative integer.
        epoch: Epoch, counted from 0.
        augment: `"none"`, or `"shift"`: each image is moved by -`shift_pixels`..`shift_pixels` pixels
            down and across. Both numbers are drawn uniformly, anew for each epoch.
        shift_pixels: Positive integer.

    Returns:
        `(x, y)`: uint8 `(n_train, height, width)` and `(n_train,)`.

    Raises:
        ValueError: `augment` is unknown.
    """
    check_choice("augment", augment, AUGMENTATIONS)
    order = epoch_order(len(data.x_train), seed, epoch)
    images = data.x_train[order]
    if augment == "shift":
        # The seed has a third number here, so that the shifts are independent of the order.
        offsets = np.random.default_rng([seed, epoch, 1]).integers(-shift_pixels, shift_pixels + 1, (len(images), 2))
        images = shift_images(images, offsets, shift_pixels)
    return images, data.y_train[order]


def steps_per_epoch(data: ImageData, batch_size: int) -> int:
    """Number of whole batches in an epoch; an incomplete last batch is dropped.

    Raises:
        ValueError: `batch_size` is not a positive integer, or larger than the training set.

    Example:

    >>> steps_per_epoch(mnist_demo(), batch_size=128)
    31
    """
    check_instance("data", data, ImageData)
    if not is_integer(batch_size) or not 1 <= batch_size <= len(data.x_train):
        raise ValueError(
            f"`batch_size` must be an integer from 1 to the {len(data.x_train)} training images. "
            f"Received: batch_size={batch_size!r}"
        )
    return len(data.x_train) // batch_size


def train_batches(
    data: ImageData, batch_size: int, seed: int = 0, first_epoch: int = 0, augment: str = "none", shift_pixels: int = 2
) -> Dataset:
    """An endless `tf.data.Dataset` of training batches, epoch after epoch.

    Give it to `fit` with `steps_per_epoch=steps_per_epoch(data, batch_size)`.

    Args:
        data: An `ImageData`.
        batch_size: Examples a batch; the incomplete last batch of an epoch is dropped.
        seed: Non-negative integer. Batch b of epoch e depends on `(seed, e, b)` only.
        first_epoch: Epoch (from 0) to begin with. A resumed run passes the number of epochs already done.
        augment: As for `epoch_images`.
        shift_pixels: As for `epoch_images`.

    Returns:
        A dataset of `(x, y)`: float32 `(batch_size, height, width, 1)`, preprocessed as in
        `normalize`, and int32 `(batch_size,)`.

    Raises:
        ValueError: As `steps_per_epoch` and `epoch_images`.

    Example:

    >>> images, labels = next(iter(train_batches(mnist_demo(), 128)))
    >>> tuple(images.shape), tuple(labels.shape)
    ((128, 28, 28, 1), (128,))
    """
    tf = import_optional("tensorflow")

    check_choice("augment", augment, AUGMENTATIONS)
    steps = steps_per_epoch(data, batch_size)
    check_integer("seed", seed, 0)
    check_integer("first_epoch", first_epoch, 0)
    check_integer("shift_pixels", shift_pixels, 1)
    shape = data.x_train.shape[1:]

    def one_epoch(epoch):
        def draw(epoch):
            images, labels = epoch_images(data, seed, int(epoch), augment, shift_pixels)
            images = images[: steps * batch_size].reshape(steps, batch_size, *shape)
            return images, labels[: steps * batch_size].reshape(steps, batch_size)

        images, labels = tf.numpy_function(draw, [epoch], (tf.uint8, tf.uint8), stateful=False)
        images.set_shape((steps, batch_size, *shape))
        labels.set_shape((steps, batch_size))
        return tf.data.Dataset.from_tensor_slices((images, labels))

    mean = tf.constant(mean_image(data.x_train))

    def prepare(images, labels):
        images = tf.cast(images, tf.float32) / 255.0 - mean
        return images[..., tf.newaxis], tf.cast(labels, tf.int32)

    epochs = tf.data.Dataset.range(first_epoch, 2**31)
    return epochs.flat_map(one_epoch).map(prepare).prefetch(tf.data.AUTOTUNE)
