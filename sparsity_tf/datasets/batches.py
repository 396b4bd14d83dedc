"""`Batches`: the one interface between a data set and training, for every data set and every place it is read from.

Two ideas live here. The first: the number of the optimizer step determines the batch. Batch b of epoch e depends on the
seed, e and b only, and `train(first_step=...)` may begin at any step, so that a resumed run sees the same batches as an
uninterrupted one. The second: a global batch is cut into equal parts for the replicas of a `tf.distribute` strategy
(`Slice`).
"""

import abc
import contextlib
import dataclasses
from typing import Any

import numpy as np

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_choice, check_integer, is_integer
from sparsity_tf.datasets.numbered import NumberedBatches
from sparsity_tf.type_names import Dataset, Shape


@dataclasses.dataclass(frozen=True)
class Slice:
    """The part of each global batch that one input pipeline delivers. It delivers one batch to each of its replicas.

    Attributes:
        pipelines: Number of input pipelines (workers) that share the global batch.
        index: Number of this pipeline, from 0.
        replicas: Number of replicas that this pipeline feeds. Each replica takes one batch a step.
        batch_size: Examples that one replica takes a step.
    """

    pipelines: int
    index: int
    replicas: int
    batch_size: int

    @classmethod
    def of(cls, context, batch_size):
        """Makes a `Slice` from a `tf.distribute.InputContext` (`None`: the whole batch) and the global batch size."""
        check_context(context)
        if context is None:
            return cls(1, 0, 1, batch_size)
        replicas, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
        if replicas % pipelines or batch_size % replicas:
            raise ValueError(
                "`batch_size` must be a multiple of the number of replicas, and the number of replicas a multiple of "
                f"the number of input pipelines. Received: batch_size={batch_size}, {replicas} replicas, {pipelines} "
                "input pipelines"
            )
        return cls(pipelines, context.input_pipeline_id, replicas // pipelines, batch_size // replicas)


def check_context(context):
    """Raises a ValueError unless `context` is `None` or a `tf.distribute.InputContext`."""
    if context is not None and not hasattr(context, "num_replicas_in_sync"):
        raise ValueError(f"`context` must be a `tf.distribute.InputContext` or None. Received: context={context!r}")


class Batches(CallRepr, abc.ABC):
    """Batches for training and evaluation, with the sizes that a training program asks for.

    `array_batches` makes batches of data in memory (MNIST, CIFAR), and `file_batches` of data that are read while
    training runs (ImageNet).

    Args:
        batch_size: Examples a step, over all replicas.
        eval_batch_size: Examples a batch in evaluation.
        seed: Non-negative integer.
        dtype: Element type of the images, `"float32"`, `"bfloat16"` or `"float16"`.
        num_examples: Number of training examples.
        num_validation: Number of held-out training examples.
        num_test: Number of test examples.
        num_classes: Number of classes.
        image_shape: `(height, width, channels)` of a preprocessed image.
        name: Name of the data set.
        source: A sentence that says where the data came from.

    Every argument is also an attribute. Labels are int32, 0 to `num_classes - 1`.

    If a strategy has several workers, pass
    `strategy.distribute_datasets_from_function(lambda context: batches.train(first_step, context))` to `fit`: then each
    worker reads only its own part.

    Example:

    ```python
    lenet = sparsity_tf.models.lenet_300_100()
    lenet.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = array_batches(mnist_demo(), 128, normalize="standardize", augment="shift")
    lenet.fit(batches.train(), epochs=1, steps_per_epoch=batches.steps_per_epoch)
    lenet.evaluate(batches.test())
    ```
    """

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        dtype: str,
        num_examples: int,
        num_validation: int,
        num_test: int,
        num_classes: int,
        image_shape: Shape,
        name: str,
        source: str,
    ) -> None:
        if not is_integer(batch_size) or not 1 <= batch_size <= num_examples:
            raise ValueError(
                f"`batch_size` must be an integer from 1 to the {num_examples} training images. "
                f"Received: batch_size={batch_size!r}"
            )
        check_integer("eval_batch_size", eval_batch_size, 1)
        check_integer("seed", seed, 0)
        check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.dtype = dtype
        self.num_examples = num_examples
        self.num_validation = num_validation
        self.num_test = num_test
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.name = name
        self.source = source

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch; an incomplete last batch is dropped."""
        return self.num_examples // self.batch_size

    def train(self, first_step: int = 0, context: Any = None) -> Dataset:
        """An endless dataset of training batches, epoch after epoch.

        Args:
            first_step: Number of optimizer steps already done. The dataset begins with the batch of the next step.
            context: `tf.distribute.InputContext` of the worker, as `distribute_datasets_from_function` passes it.
                The dataset then holds the batches for this worker's replicas. Defaults to `None`: whole batches,
                which `fit` itself splits among the replicas.

        Returns:
            A `tf.data.Dataset` of `(images, labels)`, `(batch, height, width, channels)` and `(batch,)`. For data in
            memory, Keras backends other than TensorFlow get a `keras.utils.PyDataset` of the same batches, which needs
            no TensorFlow.
        """
        check_integer("first_step", first_step, 0)
        part = Slice.of(context, self.batch_size)
        return with_options(self._train(*divmod(first_step, self.steps_per_epoch), part))

    def test(self, context: Any = None) -> Dataset:
        """A finite dataset that has every test example once, without augmentation; the last batch may be smaller.

        Args:
            context: `tf.distribute.InputContext` of the worker. The worker gets every `num_input_pipelines`-th example,
                and all replicas share `eval_batch_size` equally.
        """
        return with_options(self._evaluation("test", Slice.of(context, self.eval_batch_size)))

    def validation(self, context: Any = None) -> Dataset:
        """As `test`, for the held-out training examples. They are not augmented.

        Raises:
            ValueError: No examples are held out.
        """
        if not self.num_validation:
            raise ValueError("No examples are held out for validation: give `validation_split`.")
        return with_options(self._evaluation("validation", Slice.of(context, self.eval_batch_size)))

    @contextlib.contextmanager
    def naming_errors(self) -> contextlib.AbstractContextManager:
        """A context for `fit` and `evaluate` that turns a reading error into a `ValueError` that names the file.

        TensorFlow reports a corrupt record without naming its file. For data in memory, which have been checked before,
        the context does nothing.
        """
        yield

    @abc.abstractmethod
    def _train(self, epoch, step, part):
        """The training batches for a `Slice`, from step `step` of epoch `epoch` on."""

    @abc.abstractmethod
    def _evaluation(self, split, part):
        """The examples of `"test"` or `"validation"` for a `Slice`."""


def epoch_order(num_examples, seed, epoch):
    """The order of the examples in one epoch: an int64 permutation that depends on the arguments only.

    Example:
        >>> a, b = epoch_order(10, seed=0, epoch=3), epoch_order(10, seed=0, epoch=3)
        >>> bool((a == b).all()), sorted(a.tolist()) == list(range(10))
        (True, True)
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def with_options(dataset):
    """Fixes the order of a dataset, prefetches it, and lets `fit` split its batches by examples among workers."""
    if isinstance(dataset, NumberedBatches):
        return dataset
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    # If `fit` splits whole batches among workers, each worker takes its part of the same batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def first_of(dataset):
    """The first element of a dataset that `Batches` or a similar class made, as numpy arrays."""
    return next(iter(dataset)) if isinstance(dataset, NumberedBatches) else next(dataset.take(1).as_numpy_iterator())
