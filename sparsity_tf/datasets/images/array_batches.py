"""Turns an `ImageData` (MNIST, CIFAR) into `Batches`: every batch is normalized and augmented when its step comes.

`augmentation` has the crops, shifts and flips, `normalization` the arithmetic on pixels.
"""

import functools

import numpy as np

from sparsity_tf.checks import check_bool, check_choice, check_instance, check_integer
from sparsity_tf.datasets.batches import Batches
from sparsity_tf.datasets.images import zca
from sparsity_tf.datasets.images.augmentation import AUGMENTATIONS, crop_and_flip, draw_epoch
from sparsity_tf.datasets.images.held_out import held_out_count, held_out_numbers
from sparsity_tf.datasets.images.image_data import ImageData
from sparsity_tf.datasets.images.normalization import NORMALIZATIONS, normalizer
from sparsity_tf.datasets.numbered import numbered_batches


class MemoryBatches(Batches):
    """`Batches` of arrays in memory. A subclass calls `_hold` with them when it is made."""

    def _hold(self, arrays, finish, augment="none", pixels=1):
        """Takes the data.

        Args:
            arrays: Dict from "train", "validation" and "test" to (examples, labels).
            finish: Function that turns examples of a batch into float32 inputs of a network.
            augment, pixels: See `array_batches`; only for images.
        """
        self._arrays, self._normalizer = arrays, finish
        self.augment, self.pixels = augment, pixels
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


class ArrayBatches(MemoryBatches):
    """`Batches` of arrays in memory; `array_batches` makes it and documents the arguments."""

    def __init__(
        self, data, normalize, augment, pixels, validation_split, validation_seed, validation_stratified, **kwargs
    ):
        check_instance("data", data, ImageData)
        check_bool("validation_stratified", validation_stratified)
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
            raise ValueError(
                "`normalize` can be standardize_dsr only for colour images. Received: normalize=standardize_dsr "
                f"with the data set {data.name}"
            )
        self.normalize = normalize
        train, validation = held_out_numbers(
            total, held, validation_seed, data.y_train if validation_stratified else None
        )
        images = {"train": data.x_train[train], "validation": data.x_train[validation], "test": data.x_test}
        labels = {"train": data.y_train[train], "validation": data.y_train[validation], "test": data.y_test}
        if normalize == "zca":
            whitening = zca.fit_zca(images["train"])
            images = {split: zca.apply_zca(x, *whitening) for split, x in images.items()}
            finish = _unchanged
        else:
            finish = normalizer(data, images["train"], normalize)
        shape = (-1, *data.image_shape)
        arrays = {split: (np.ascontiguousarray(x.reshape(shape)), labels[split]) for split, x in images.items()}
        self._hold(arrays, finish, augment, pixels)


def _unchanged(images):
    return images


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
    validation_stratified: bool = False,
) -> Batches:
    """Batches of images in memory: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, TinyImageNet.

    Args:
        data: An `ImageData`.
        batch_size: Examples a step, over all replicas.
        normalize: How pixels are normalized. Statistics are measured on the training images that are not held out.
            - `"standardize"`: (pixels / 255 - mean) / sd of each channel. For CIFAR-10, mean and sd are taken from the
              sparse momentum code (mean .4914 .4822 .4465, sd .2023 .1994 .2010). For TinyImageNet they are those of
              ImageNet, as in STR's program. For other data they are measured.
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
        validation_stratified: Whether every class gives the same share of its images: exactly, or one image more where
            the shares are not whole numbers. No class gives its only image.

    Returns:
        `Batches`.

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
        validation_stratified,
        batch_size=batch_size,
        eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
        seed=seed,
        dtype=dtype,
    )
