"""Turns an `ImageData` into `Batches`: preprocessing of the small data sets, vectorised over the batch.

Two ideas live here. The first: numpy draws all random numbers of an epoch (order, crops, flips) from `(seed, epoch)`
before the epoch begins, so every batch is a pure function of `(seed, epoch, batch)`. The second: a crop of a padded
image, mirrored or not, is a choice of pixels. One gather makes all crops of a batch, without a padded copy and without
a loop over images.

Sources: the CIFAR recipes of sparse training (Dettmers & Zettlemoyer, arXiv 1907.04840; Mostafa & Wang,
arXiv 1902.05967; Evci et al., arXiv 1911.11134), SparseVD's mean image and ZCA (Molchanov et al., ICML 2017).
"""

import functools

import numpy as np

from sparsity_tf.checks import check_choice, check_instance, check_integer
from sparsity_tf.datasets import pipeline
from sparsity_tf.datasets.batches import Batches
from sparsity_tf.datasets.images import zca
from sparsity_tf.datasets.images.held_out import held_out_count, held_out_numbers
from sparsity_tf.datasets.images.image_data import ImageData
from sparsity_tf.datasets.numbered import numbered_batches

AUGMENTATIONS = ("none", "shift", "flip", "crop_flip")
NORMALIZATIONS = ("none", "mean_image", "standardize", "standardize_dsr", "per_image", "zca")

# Mean and standard deviation of pixels / 255, by channel.
_SPARSE_MOMENTUM_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_DSR_CIFAR = tuple(np.array([125.3, 123.0, 113.9]) / 255), tuple(np.array([63.0, 62.1, 66.7]) / 255)


def channel_statistics(images):
    """Mean and standard deviation of each channel of pixels / 255: two float64 arrays `(channels,)`."""
    channels = images if images.ndim == 4 else images[..., np.newaxis]
    mean = channels.mean(axis=(0, 1, 2), dtype=np.float64)
    # The squares are summed 1,000 images at a time, because a float64 copy of CIFAR would take 1.2 GB.
    square = sum(
        (channels[k : k + 1000].astype(np.float64) ** 2).sum(axis=(0, 1, 2)) for k in range(0, len(channels), 1000)
    ) / (channels.size / channels.shape[-1])
    return mean / 255, np.sqrt(square - mean**2) / 255


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
    order = pipeline.epoch_order(num_examples, seed, epoch).astype(np.int32)
    offsets, flips = np.zeros((num_examples, 2), np.int32), np.zeros(num_examples, bool)
    if augment in ("shift", "crop_flip"):
        # The seed has a third number here, so that shifts and flips are independent of the order.
        offsets = np.random.default_rng([seed, epoch, 1]).integers(-pixels, pixels + 1, (num_examples, 2))
        offsets = offsets.astype(np.int32)
        if augment == "shift":
            offsets = -offsets  # `pipeline.shift_images` counts how far an image moves
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


def _normalizer(data, train, normalize):
    """Makes the function that normalizes a batch of images with channels, float32 from 0 to 255, for the network.

    Args:
        data: The `ImageData`.
        train: The training images that are not held out, on which statistics are measured.
        normalize: One of `NORMALIZATIONS`.
    """
    if normalize == "mean_image":
        mean = pipeline.mean_image(train).reshape(data.image_shape)
        return lambda images: images / 255.0 - mean
    if normalize == "per_image":
        return _standardize_each
    if normalize == "none":
        return lambda images: images / 255.0
    if normalize == "standardize_dsr":
        mean, stddev = _DSR_CIFAR
    elif data.name == "cifar10":
        mean, stddev = _SPARSE_MOMENTUM_CIFAR10
    else:
        mean, stddev = channel_statistics(train)
    # The means are spread over all pixels: numpy's broadcast over three channels is slower than the arithmetic itself.
    mean, stddev = (np.full(data.image_shape, values, np.float32) for values in (mean, stddev))

    def standardize(images):
        images = images / 255.0
        images -= mean  # in place, to save memory
        images /= stddev
        return images

    return standardize


def _standardize_each(images):
    """Subtracts each image's mean and divides by its standard deviation, or by 1 / sqrt(its size) if that is larger."""
    mean, deviation = (take(images, axis=(1, 2, 3), keepdims=True) for take in (np.mean, np.std))
    return (images - mean) / np.maximum(deviation, np.float32(1.0 / np.sqrt(np.prod(images.shape[1:]))))


class ArrayBatches(Batches):
    """`Batches` of arrays in memory; `array_batches` makes it and documents the arguments."""

    def __init__(self, data, normalize, augment, pixels, validation_split, validation_seed, **kwargs):
        check_instance("data", data, ImageData)
        total = len(data.x_train)
        held = held_out_count(total, validation_split)
        super().__init__(
            num_examples=total - held,
            num_validation=held,
            num_test=len(data.x_test),
            num_classes=data.num_classes,
            image_shape=data.image_shape,
            name=data.name,
            source=data.source,
            **kwargs,
        )
        check_choice("augment", augment, AUGMENTATIONS)
        check_choice("normalize", normalize, NORMALIZATIONS)
        most = min(data.image_shape[:2]) - 1  # a mirrored border can't be wider than this
        check_integer("pixels", pixels, 1, most)
        if normalize == "standardize_dsr" and data.image_shape[-1] != 3:
            raise ValueError(f"normalize=standardize_dsr is for colour images. Received: {data.name}")
        self.augment, self.pixels = augment, pixels
        self.normalize = normalize
        train, validation = held_out_numbers(total, held, validation_seed)
        images = {"train": data.x_train[train], "validation": data.x_train[validation], "test": data.x_test}
        labels = {"train": data.y_train[train], "validation": data.y_train[validation], "test": data.y_test}
        if normalize == "zca":
            whitening = zca.fit_zca(images["train"])
            images = {split: zca.apply_zca(x, *whitening) for split, x in images.items()}
            self._normalizer = lambda images: images
        else:
            self._normalizer = _normalizer(data, images["train"], normalize)
        shape = (-1, *data.image_shape)
        self._arrays = {split: (np.ascontiguousarray(x.reshape(shape)), labels[split]) for split, x in images.items()}
        self._border = "zeros" if augment == "shift" else "reflect"

    def _finish(self, images):
        return self._normalizer(images.astype(np.float32)).astype(self.dtype)

    @functools.lru_cache(maxsize=2)  # noqa: B019  (one object a run)
    def _draws(self, epoch):
        return draw_epoch(self.num_examples, self.seed, epoch, self.augment, self.pixels)

    def _batch(self, number, part):
        """The training batch with a number, as arrays. Each optimizer step has one batch for each replica of `part`."""
        step, replica = divmod(int(number), part.replicas)
        epoch, index = divmod(step, self.steps_per_epoch)
        first = index * self.batch_size + (part.index * part.replicas + replica) * part.batch_size
        order, offsets, flips = (values[first : first + part.batch_size] for values in self._draws(epoch))
        images, labels = self._arrays["train"]
        if self.augment == "none":
            images = images[order]
        else:
            images = crop_and_flip(images, offsets, flips, self._border, order)
        return self._finish(images), labels[order].astype(np.int32)

    def _like(self, size):
        return [((size, *self.image_shape), self.dtype), ((size,), "int32")]

    def _train(self, epoch, step, part):
        first = (epoch * self.steps_per_epoch + step) * part.replicas
        return numbered_batches(lambda number: self._batch(number, part), self._like(part.batch_size), first)

    def _evaluation(self, split, part):
        images, labels = self._arrays[split]
        own = np.arange(part.index, len(labels), part.pipelines)

        def batch(number):
            chosen = own[number * part.batch_size : (number + 1) * part.batch_size]
            return self._finish(images[chosen]), labels[chosen].astype(np.int32)

        return numbered_batches(batch, self._like(None), end=-(-len(own) // part.batch_size))


def array_batches(
    data: ImageData,
    batch_size: int,
    normalize: str = "standardize",
    augment: str = "none",
    pixels: int = 4,
    validation_split: float | int = 0.0,
    eval_batch_size: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    validation_seed: int | None = None,
) -> Batches:
    """Batches of a data set in memory: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100.

    Args:
        data: An `ImageData`.
        batch_size: Examples a step, over all replicas.
        normalize: How pixels are normalized. Statistics are measured on the training images that are not held out.
            - `"standardize"`: (pixels / 255 - mean) / sd of each channel. For CIFAR-10, mean and sd are taken from the
              sparse momentum code (mean .4914 .4822 .4465, sd .2023 .1994 .2010); for other data they are measured.
            - `"standardize_dsr"`: the same with the numbers of DSR and `dst` for CIFAR-10 and CIFAR-100, for pixels
              from 0 to 255: mean 125.3 123.0 113.9, sd 63.0 62.1 66.7.
            - `"mean_image"`: pixels / 255 less the mean image (SparseVD on MNIST).
            - `"per_image"`: each image less its mean, divided by its standard deviation (RigL on CIFAR).
            - `"zca"`: whitening, see `zca` (SparseVD on CIFAR; 20 seconds on two cores and 1.5 GB).
            - `"none"`: pixels / 255.
        augment: How training images are changed at random, drawn anew for each image and epoch.
            - `"crop_flip"`: the image gets a mirrored border of `pixels`, is cropped to its old size, and is flipped
              with probability 1/2 (every published CIFAR recipe).
            - `"shift"`: the image is moved by up to `pixels` down and across; zeros fill the gap.
            - `"flip"`: the image is flipped with probability 1/2.
            - `"none"`: the image stays as it is.
        pixels: Width of the border (`"crop_flip"`) or largest shift (`"shift"`).
        validation_split: How many training images to hold out for validation, as a fraction or a number. Of n images
            a fraction f holds out f n, rounded up (0.1 of MNIST holds out 6,000 and leaves 54,000 for training). They
            are never augmented. (The sparse momentum code augments them, by mistake.)
        eval_batch_size: Examples a batch in evaluation. Defaults to `batch_size`.
        seed: Non-negative integer.
        dtype: Element type of the images: `"float32"`, `"bfloat16"` or `"float16"`.
        validation_seed: Which images are held out. `None` (default): the last ones, as in Keras and in the sparse
            momentum code. A non-negative integer: a random choice without replacement, which depends on this number,
            on n and on the count only, not on `seed`. (Of data that are sorted by class, as `mnist_demo` is, the last
            images are those of the last class: such data need a seed.)

    Returns:
        `Batches`. With `normalize="mean_image"` and `augment="none"` or `"shift"` they equal those of `train_batches`.

    Raises:
        ValueError: An argument is not as described.

    Example:

    >>> batches = array_batches(mnist_demo(), 128, normalize="standardize", augment="shift", pixels=2)
    >>> images, labels = next(iter(batches.train()))
    >>> tuple(images.shape), batches.steps_per_epoch
    ((128, 28, 28, 1), 31)
    """
    return ArrayBatches(
        data,
        normalize,
        augment,
        pixels,
        validation_split,
        validation_seed,
        batch_size=batch_size,
        eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
        seed=seed,
        dtype=dtype,
    )
