"""Turns `ImageFiles` into `Batches`: files are read, cropped and decoded while training runs, in a fixed order.

Two ideas live here. The first: the stream of encoded examples of an epoch is a pure function of `(seed, epoch)`. The
order of the shards, the interleaving of shards that are read together, and the shuffle buffer each have a seed of their
own. The second: each example carries its number in that stream, from which its crop is drawn, and the name of its file,
which errors report. Any number of threads can therefore decode in parallel.
"""

import contextlib

import numpy as np

from sparsity_tf.checks import check_bool, check_choice, check_instance, check_integer
from sparsity_tf.datasets.batches import Batches, epoch_order
from sparsity_tf.datasets.images.held_out import held_out_count, held_out_numbers
from sparsity_tf.datasets.images.imagenet import ImageFiles, Split
from sparsity_tf.extras import import_optional

RECIPES = ("state_of_sparsity", "str")
# Words in TensorFlow's messages that tell of an unreadable image or record.
_READING = ("corrupted record", "truncated record", "JPEG", "PNG", "Decode", "decode", "Parse")
_MARK = "sparsity_tf input:"


def _hold_out(split, validation_split, seed, stratified):
    """Splits a `Split` of training examples in two: the examples to train on, and those to hold out."""
    check_integer("validation_seed", seed, 0)
    check_bool("validation_stratified", stratified)
    held = held_out_count(split.num_examples, validation_split)
    if not held:
        return split, Split((), None, 0)
    if split.labels is None:
        raise ValueError(
            "`validation_split` must be 0 for record shards, from which single examples can't be held out: unpack them "
            f"into a folder for each class. Received: validation_split={validation_split!r}"
        )
    parts = held_out_numbers(split.num_examples, held, seed, split.labels if stratified else None)
    return [Split(tuple(split.files[k] for k in part), split.labels[part], len(part)) for part in parts]


class FileBatches(Batches):
    """`Batches` of `ImageFiles`; `file_batches` makes it and documents the arguments."""

    def __init__(
        self,
        files,
        recipe,
        image_size,
        shuffle_buffer,
        parallel_reads,
        validation_split,
        validation_seed,
        validation_stratified,
        **kwargs,
    ):
        check_instance("files", files, ImageFiles)
        check_choice("recipe", recipe, RECIPES)
        for argument, number in (
            ("image_size", image_size),
            ("shuffle_buffer", shuffle_buffer),
            ("parallel_reads", parallel_reads),
        ):
            check_integer(argument, number, 1)
        train, validation = _hold_out(files.train, validation_split, validation_seed, validation_stratified)
        super().__init__(
            num_examples=train.num_examples,
            num_validation=validation.num_examples,
            num_test=files.test.num_examples,
            num_classes=files.num_classes,
            image_shape=(image_size, image_size, 3),
            name=files.name,
            source=files.source,
            **kwargs,
        )
        self.files, self.recipe = files, recipe
        self._splits = {"train": train, "validation": validation, "test": files.test}
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
            # Errors of the file system. TensorFlow raises UnknownError for those that it has no class for.
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
        return self._batches(examples, part, training=True, sharded=sharded)

    def _evaluation(self, split, part):
        tf = import_optional("tensorflow")

        measured = self._splits[split]
        if measured.labels is None:
            examples = self._read_shards(list(measured.files), part)
            examples = examples.map(lambda file, record: (tf.zeros([2], tf.int64), file, record))
        else:
            numbers = tf.data.Dataset.range(part.index, len(measured.files), part.pipelines)
            paths, labels = tf.constant(measured.files), tf.constant(measured.labels)
            examples = numbers.map(
                lambda number: (tf.zeros([2], tf.int64), tf.gather(paths, number), tf.gather(labels, number))
            )
        return self._batches(examples, part, training=False, sharded=measured.labels is None)

    def _read_shards(self, paths, part):
        """Pairs (file, record) from the shards of one pipeline. A few shards are read at a time."""
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
        """A function that maps an epoch to `count` triples (seed, file, record) for one pipeline."""
        tf = import_optional("tensorflow")

        paths = tf.constant(self.files.train.files)

        def one_epoch(epoch):
            # This sets the seed of the traced function only. Without it, the shuffle would depend on the program's
            # global seed. The seed must not be 0: TensorFlow takes (0, 0) for "no seed", and it can't test that for an
            # epoch that is a tensor.
            tf.random.set_seed(self.seed + 1)
            seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(paths, seed)
            dataset = self._read_shards(order, part)
            dataset = dataset.shuffle(self._shuffle_buffer, epoch, reshuffle_each_iteration=False)
            # A worker whose shards hold less than its share reads them again, because all workers must make the same
            # number of steps.
            dataset = dataset.repeat().take(count).enumerate()
            return dataset.map(lambda number, read: (self._seed(epoch, number * part.pipelines + part.index), *read))

        return one_epoch

    def _image_epoch(self, part):
        """A function that maps an epoch to triples (seed, path, label) for one pipeline, in the batches' order."""
        tf = import_optional("tensorflow")

        steps, replicas = self.steps_per_epoch, part.replicas
        train = self._splits["train"]
        paths, labels = tf.constant(train.files), tf.constant(train.labels)
        count = steps * replicas * part.batch_size

        def draw(epoch):
            order = epoch_order(self.num_examples, self.seed, int(epoch))[: steps * self.batch_size]
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

    def _batches(self, examples, part, training, sharded):
        """Decodes and batches the examples, triples (seed, file, record or label)."""
        tf = import_optional("tensorflow")

        from sparsity_tf.datasets.images import imagenet_crops as crops

        train, evaluate = crops.RECIPES[self.recipe]

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
    validation_split: float | int = 0.0,
    validation_seed: int = 0,
    validation_stratified: bool = False,
) -> Batches:
    """Batches of a data set that is read while training runs: ImageNet.

    Both recipes give pixels as (value / 255 - mean) / sd, with mean .485 .456 .406 and sd .229 .224 .225.

    Args:
        files: `ImageFiles`, as `imagenet` returns them.
        batch_size: Examples a step, over all replicas.
        recipe: `"state_of_sparsity"`: Inception's distorted bounding box, bicubic, flip; evaluation on the central
            224 / 256 of the shorter side. `"str"`: torchvision's random resized crop, bilinear, flip; evaluation on
            the shorter side resized to 256 and a central crop.
        image_size: Height and width in pixels.
        eval_batch_size: Examples a batch in evaluation. Defaults to `batch_size`.
        seed: Non-negative integer.
        dtype: Element type of the images: `"float32"`, `"bfloat16"` or `"float16"`.
        shuffle_buffer: For record shards: the number of examples from which the next one is drawn, 0.1 MB each. (The
            order of the shards is random, too. Image folders need no buffer: all their examples are shuffled.)
        parallel_reads: Number of record shards that are read together. The order of the examples depends on it.
        validation_split: How many training images to hold out for validation, as a fraction or a number. Of n images a
            fraction f holds out f n, rounded up. Image folders only: a record shard is read as a whole.
        validation_seed: Non-negative integer. The images to hold out are a random choice without replacement that
            depends on this number, on n and on the count. (The last images would be those of the last classes.)
        validation_stratified: As for `array_batches`.

    Returns:
        `Batches`. Their `test()` gives the images that ImageNet calls validation. With an `InputContext`, each worker
        reads only its own record shards. If there are fewer shards than workers, the records are divided instead. From
        image folders, each worker gets its part of the global batch that a single worker would see.

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
        validation_split,
        validation_seed,
        validation_stratified,
        batch_size=batch_size,
        eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
        seed=seed,
        dtype=dtype,
    )
