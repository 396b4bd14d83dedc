"""Turns a `SequenceData` (Google-12, HAR-2) into `Batches`."""

from sparsity_tf.checks import check_bool, check_instance
from sparsity_tf.datasets.batches import Batches
from sparsity_tf.datasets.images.array_batches import MemoryBatches
from sparsity_tf.datasets.images.held_out import held_out_count, held_out_numbers
from sparsity_tf.datasets.sequences.sequence_data import SequenceData

# A feature whose standard deviation is smaller is only centred (EdgeML's program).
_LEAST_DEVIATION = 1e-6


class SequenceBatches(MemoryBatches):
    """`Batches` of sequences in memory; `sequence_batches` makes it and documents the arguments."""

    def __init__(self, data, validation_split, validation_seed, validation_stratified, **kwargs):
        check_instance("data", data, SequenceData)
        check_bool("validation_stratified", validation_stratified)
        total = len(data.x_train)
        held = held_out_count(total, validation_split)
        super().__init__(
            num_examples=total - held,
            num_validation=held,
            num_test=len(data.x_test),
            num_classes=data.num_classes,
            image_shape=data.sequence_shape,
            name=data.name,
            source=data.source,
            **kwargs,
        )
        labels = data.y_train if validation_stratified else None
        train, validation = held_out_numbers(total, held, validation_seed, labels)
        mean = data.x_train[train].mean(axis=0, dtype="float64")
        deviation = data.x_train[train].std(axis=0, dtype="float64")
        deviation[deviation < _LEAST_DEVIATION] = 1.0
        mean, deviation = mean.astype("float32"), deviation.astype("float32")
        self._hold(
            {
                "train": (data.x_train[train], data.y_train[train]),
                "validation": (data.x_train[validation], data.y_train[validation]),
                "test": (data.x_test, data.y_test),
            },
            lambda sequences: (sequences - mean) / deviation,
        )


def sequence_batches(
    data: SequenceData,
    batch_size: int,
    validation_split: float | int = 0.0,
    eval_batch_size: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    validation_seed: int | None = None,
    validation_stratified: bool = False,
) -> Batches:
    """Batches of a data set of sequences in memory: Google-12, HAR-2.

    Each feature of each time step is standardised, as in FastGRNN's program: less its mean over the training sequences
    that are not held out, divided by its standard deviation there (by 1 if that is below 1e-6).

    Args:
        data: A `SequenceData`.
        batch_size: Examples a step, over all replicas.
        validation_split, validation_seed, validation_stratified: How many and which training sequences to hold out, as
            for `array_batches`.
        eval_batch_size: Examples a batch in evaluation. Defaults to `batch_size`.
        seed: Non-negative integer.
        dtype: Element type of the sequences: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        `Batches`. Their `image_shape` is `(steps, features)`.

    Raises:
        ValueError: An argument is not as described.

    Example:

    >>> x, y = np.random.default_rng(0).random((6, 128, 9), "float32"), np.arange(6, dtype="uint8") % 2
    >>> batches = sequence_batches(SequenceData(x, y, x, y, 2, "noise", "made here"), 3)
    >>> sequences, labels = next(iter(batches.train()))
    >>> tuple(sequences.shape), batches.steps_per_epoch
    ((3, 128, 9), 2)
    """
    return SequenceBatches(
        data,
        validation_split,
        validation_seed,
        validation_stratified,
        batch_size=batch_size,
        eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
        seed=seed,
        dtype=dtype,
    )
