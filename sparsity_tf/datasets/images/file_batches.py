"""From `ImageFiles` to `Batches`: read, cropped and decoded as training goes, in parallel and yet in a fixed order.

Two ideas live here. The stream of encoded examples of an epoch is a pure function of `(seed, epoch)`: the order of
the shards, the interleaving of those that are read together and the shuffle buffer all have seeds of their own. And
each example carries its number in that stream (from which its crop is drawn) and the name of its file (for errors), so
that decoding can happen on any number of threads.
"""

import contextlib

import numpy as np

from sparsity_tf.checks import check_choice, check_instance, check_integer
from sparsity_tf.datasets import pipeline
from sparsity_tf.datasets.batches import Batches
from sparsity_tf.datasets.images.imagenet import ImageFiles
from sparsity_tf.extras import import_optional

RECIPES = ("state_of_sparsity", "str")
# What TensorFlow's messages say when an image or record can't be read.
_READING = ("corrupted record", "truncated record", "JPEG", "PNG", "Decode", "decode", "Parse")
_MARK = "sparsity_tf input:"


class FileBatches(Batches):
    """`Batches` of `ImageFiles`; `file_batches` makes it and documents the arguments."""

    def __init__(self, files, recipe, image_size, shuffle_buffer, parallel_reads, **kwargs):
        check_instance("files", files, ImageFiles)
        check_choice("recipe", recipe, RECIPES)
        for argument, number in (
            ("image_size", image_size),
            ("shuffle_buffer", shuffle_buffer),
            ("parallel_reads", parallel_reads),
        ):
            check_integer(argument, number, 1)
        super().__init__(
            num_examples=files.train.num_examples,
            num_validation=0,
            num_test=files.test.num_examples,
            num_classes=files.num_classes,
            image_shape=(image_size, image_size, 3),
            name=files.name,
            source=files.source,
            **kwargs,
        )
        self.files, self.recipe = files, recipe
        self._size, self._shuffle_buffer, self._parallel_reads = image_size, shuffle_buffer, parallel_reads

    @contextlib.contextmanager
    def naming_errors(self):
        tf = import_optional("tensorflow")

        try:
            yield
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            if _MARK in error.message:
                # An assertion prints its parts in brackets: [mark] [file] [fault].
                parts = error.message.split(_MARK, 1)[1].split("\n")[0].strip("[] ").split("] [")
                raise ValueError(f"{parts[0]}: {' '.join(parts[1:])}.") from error
            if any(word in error.message for word in _READING):
                self.files.verify()  # raises the error that names the file
            raise
        except (
            # What a file system answers; UnknownError is TensorFlow's word for answers that it has no class for.
            *(tf.errors.NotFoundError, tf.errors.FailedPreconditionError, tf.errors.PermissionDeniedError),
            tf.errors.UnknownError,
        ):
            self.files.open_each()  # raises the error that names the file
            raise
        except UnicodeDecodeError:
            self.files.verify()  # TensorFlow's message quotes the bytes of a record that can't be parsed
            raise

    def _train(self, epoch, step, part):
        tf = import_optional("tensorflow")

        count = self.steps_per_epoch * part.replicas * part.batch_size
        sharded = self.files.train.labels is None
        stream = self._shard_epoch(part, count) if sharded else self._image_epoch(part)
        examples = tf.data.Dataset.range(epoch, 2**31).flat_map(stream).skip(step * part.replicas * part.batch_size)
        return self._batches(examples, part, training=True)

    def _evaluation(self, split, part):
        tf = import_optional("tensorflow")

        test = self.files.test
        if test.labels is None:
            examples = self._read_shards(list(test.files), part)
            examples = examples.map(lambda file, record: (tf.zeros([2], tf.int64), file, record))
        else:
            numbers = tf.data.Dataset.range(part.index, len(test.files), part.pipelines)
            paths, labels = tf.constant(test.files), tf.constant(test.labels)
            examples = numbers.map(
                lambda number: (tf.zeros([2], tf.int64), tf.gather(paths, number), tf.gather(labels, number))
            )
        return self._batches(examples, part, training=False)

    def _read_shards(self, paths, part):
        """Pairs (file, record) of the shards of one pipeline, a few shards at a time."""
        tf = import_optional("tensorflow")

        dataset = tf.data.Dataset.from_tensor_slices(paths)
        by_file = part.pipelines <= len(self.files.train.files) and part.pipelines <= len(self.files.test.files)
        if by_file:
            dataset = dataset.shard(part.pipelines, part.index)
        dataset = dataset.interleave(
            lambda path: tf.data.TFRecordDataset(path).map(lambda record: (path, record)),
            cycle_length=self._parallel_reads,
            num_parallel_calls=self._parallel_reads,
            deterministic=True,
        )
        return dataset if by_file else dataset.shard(part.pipelines, part.index)

    def _shard_epoch(self, part, count):
        """A function from an epoch to its (seed, file, record) for one pipeline: `count` of them."""
        tf = import_optional("tensorflow")

        paths = tf.constant(self.files.train.files)

        def one_epoch(epoch):
            # Sets the seed of this traced function only: without it the shuffle would depend on the program's. Not 0,
            # because (0, 0) means "no seed", and TensorFlow can't compare a tensor with it.
            tf.random.set_seed(self.seed + 1)
            seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(paths, seed)
            dataset = self._read_shards(order, part)
            dataset = dataset.shuffle(self._shuffle_buffer, epoch, reshuffle_each_iteration=False)
            # A worker whose shards hold less than its share begins them again: all must make the same steps.
            dataset = dataset.repeat().take(count).enumerate()
            return dataset.map(lambda number, read: (self._seed(epoch, number * part.pipelines + part.index), *read))

        return one_epoch

    def _image_epoch(self, part):
        """A function from an epoch to its (seed, path, label) for one pipeline, in batches' order."""
        tf = import_optional("tensorflow")

        steps, replicas = self.steps_per_epoch, part.replicas
        paths, labels = tf.constant(self.files.train.files), tf.constant(self.files.train.labels)
        count = steps * replicas * part.batch_size

        def draw(epoch):
            order = pipeline.epoch_order(self.num_examples, self.seed, int(epoch))[: steps * self.batch_size]
            numbers = np.stack([np.arange(len(order)), order], axis=1)
            numbers = numbers.reshape(steps, part.pipelines, -1, 2)[:, part.index]
            return numbers.reshape(count, 2)

        def one_epoch(epoch):
            numbers = tf.numpy_function(draw, [epoch], tf.int64, stateful=False)
            numbers = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(numbers, (count, 2)))
            return numbers.map(
                lambda pair: (self._seed(epoch, pair[0]), tf.gather(paths, pair[1]), tf.gather(labels, pair[1]))
            )

        return one_epoch

    def _seed(self, epoch, number):
        tf = import_optional("tensorflow")

        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        return tf.random.experimental.stateless_fold_in(seed, number)

    def _batches(self, examples, part, training):
        """Batches of (seed, file, record or label)."""
        tf = import_optional("tensorflow")

        from sparsity_tf.datasets.images import imagenet_crops as crops

        train, evaluate = crops.RECIPES[self.recipe]
        sharded = (self.files.train if training else self.files.test).labels is None

        def prepare(seed, file, content):
            encoded, label = self.files.parse(content) if sharded else (tf.io.read_file(file), content)
            checks = [self._assert_image(file, encoded, crops), self._assert_label(file, label)]
            with tf.control_dependencies(checks):
                encoded = tf.identity(encoded)
            image = train(encoded, seed, self._size) if training else evaluate(encoded, self._size)
            return image, label

        mean = tf.constant(255 * np.array(crops.MEAN, np.float32))
        stddev = tf.constant(255 * np.array(crops.STDDEV, np.float32))

        def finish(images, labels):
            return tf.cast((tf.cast(images, tf.float32) - mean) / stddev, self.dtype), labels

        images = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = images.batch(part.batch_size, training, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def _assert_image(self, file, encoded, crops):
        tf = import_optional("tensorflow")

        fault = "an example without an image that is JPEG or PNG"
        return tf.debugging.Assert(crops.looks_like_image(encoded), [_MARK, file, fault])

    def _assert_label(self, file, label):
        tf = import_optional("tensorflow")

        first = self.files.first_label if self.files.train.labels is None else 0
        fault = f"the field {self.files.label_key!r} must be {first} to {first + self.num_classes - 1}; it is"
        inside = (label >= 0) & (label < self.num_classes)
        return tf.debugging.Assert(inside, [_MARK, file, fault, label + first])


def file_batches(
    files: ImageFiles,
    batch_size: int,
    recipe: str = "state_of_sparsity",
    image_size: int = 224,
    eval_batch_size: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    shuffle_buffer: int = 1024,
    parallel_reads: int = 16,
) -> Batches:
    """Batches of a data set that is read as training goes: ImageNet.

    Pixels are (value / 255 - mean) / sd, mean .485 .456 .406 and sd .229 .224 .225, in both recipes.

    Args:
        files: `ImageFiles`, as `imagenet` gives them.
        batch_size: Examples a step, over all replicas.
        recipe: `"state_of_sparsity"`: Inception's distorted bounding box, bicubic, flip; evaluation on the central
            224 / 256 of the shorter side. `"str"`: torchvision's random resized crop, bilinear, flip; evaluation on
            the shorter side resized to 256 and a central crop.
        image_size: Height and width in pixels.
        eval_batch_size: Examples a batch in evaluation. Defaults to `batch_size`.
        seed: Non-negative integer.
        dtype: Element type of the images: `"float32"`, `"bfloat16"` or `"float16"`.
        shuffle_buffer: Record shards: examples among which the next is drawn, 0.1 MB each. (The order of shards is
            drawn too. Image folders are shuffled whole.)
        parallel_reads: Record shards that are read together. It is part of what fixes the order of the examples.

    Returns:
        `Batches`. Their `test()` is what ImageNet calls validation. With an `InputContext`, record shards are divided
        among the workers, so that each reads only its own; with fewer shards than workers, records are. Image
        folders give the workers the parts of the same global batch that one worker would see.

    Raises:
        ValueError: An argument is not as described.

    Example:

    >>> batches = file_batches(imagenet("/data/imagenet"), 256)  # needs the files
    >>> batches.steps_per_epoch
    5004
    """
    return FileBatches(
        files,
        recipe,
        image_size,
        shuffle_buffer,
        parallel_reads,
        batch_size=batch_size,
        eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
        seed=seed,
        dtype=dtype,
    )
