"""`TranslationBatches`: makes batches for a Transformer from a parallel corpus and a vocabulary.

As with the image data sets (`batches`), the number of the optimizer step determines the batch: the batch of step t
depends on the corpus, the seed and t only, so `train(first_step=...)` can begin at any step. A batch has a budget of
tokens. Its sentences have similar lengths, or they are packed into rows of equal length (see `bucketing`).
"""

import functools
from typing import Any

import numpy as np

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_bool, check_choice, check_instance, check_integer, check_number, check_path
from sparsity_tf.datasets.batches import Slice, check_context, with_options
from sparsity_tf.datasets.numbered import numbered_batches
from sparsity_tf.datasets.text import bucketing, subwords
from sparsity_tf.datasets.text.encoded_text import encode_pairs
from sparsity_tf.datasets.text.parallel_corpus import ParallelCorpus
from sparsity_tf.type_names import Dataset, PathLike

_SPLITS = ("train", "validation", "test")
_KEYS = ("inputs", "targets")
_PACKED_KEYS = ("inputs_segments", "targets_segments", "inputs_positions", "targets_positions")


class TranslationBatches(CallRepr):
    """Batches of sentence pairs for training and evaluation; `translation_batches` documents the arguments.

    An element of a dataset is `(features, targets, weights)`:

    - `features`, a dict: `"inputs"` int32 `(batch, source length)` and `"targets"` int32 `(batch, target length)`, ids
      with 0 for padding and 1 at the end of each sentence. With `packed`, the dict also has `"inputs_segments"` and
      `"targets_segments"` (number of the sentence in its row from 1, 0 for padding), `"inputs_positions"` and
      `"targets_positions"` (place in the sentence from 0), of the same shapes.
    - `targets`, the labels: the same array as `features["targets"]`, because the model itself shifts its input.
    - `weights`, float32 of the shape of `targets`: 0 for padding, 1 elsewhere.

    Attributes:
        vocabulary: The `subwords.Vocabulary`.
        steps_per_epoch: Number of batches that show each training pair about once.
        num_examples: Number of training pairs.
        num_validation, num_test: Numbers of pairs in the other splits.
        packed: Whether rows are packed.
        source: Sentences that say where the pairs came from and which pairs were left out.

    Example:

    ```python
    with open("pairs.tsv", "w") as file:
        file.writelines(f"sentence {k}\\tSatz {k}\\n" for k in range(1000))
    corpus = parallel_corpus("tsv", "pairs.tsv", held_out=10)
    vocabulary = subwords.train((text for pair in corpus.train for text in pair), "pairs.model", 300)
    batches = translation_batches(corpus, vocabulary, batch_tokens=256)
    print(batches.source, batches.steps_per_epoch)
    ```
    """

    def __init__(self, corpus: ParallelCorpus, vocabulary: subwords.Vocabulary, options: dict) -> None:
        self.vocabulary, self.packed, self.seed = vocabulary, options["packed"], options["seed"]
        self.name, self.corpus = corpus.name, corpus
        self._options = options
        self._notes = []
        self._encoded = {}
        for split in _SPLITS:
            encoded = encode_pairs(getattr(corpus, split), vocabulary, options["cache_dir"])
            self._encoded[split] = self._of_allowed_length(split, encoded)
        self._rows = None
        if self.packed:
            self._rows = bucketing.pack(self._encoded["train"].lengths, options["max_length"], self.seed)
        self._buckets = {split: self._sort(split) for split in _SPLITS}
        self.steps_per_epoch = self._buckets["train"].num_batches
        if not self.steps_per_epoch:
            raise ValueError(
                f"`batch_tokens` must be smaller: the {self.num_examples:,} training pairs do not fill one batch. "
                f"Received: batch_tokens={options['batch_tokens']}"
            )

    @property
    def source(self) -> str:
        return " ".join([self.corpus.source, *self._notes])

    @property
    def num_examples(self) -> int:
        return len(self._encoded["train"])

    @property
    def num_validation(self) -> int:
        return len(self._encoded["validation"])

    @property
    def num_test(self) -> int:
        return len(self._encoded["test"])

    def train(self, first_step: int = 0, context: Any = None) -> Dataset:
        """An endless `tf.data.Dataset` of training batches, epoch after epoch.

        On backends other than TensorFlow, `train`, `validation` and `test` return a `keras.utils.PyDataset`.

        Args:
            first_step: Number of optimizer steps already done. The dataset begins with the batch of the next step.
            context: `tf.distribute.InputContext` of a worker. The dataset then holds the batches for its replicas.
        """
        check_integer("first_step", first_step, 0)

        def plan(step):
            epoch, number = divmod(step, self.steps_per_epoch)
            return self._plan(epoch)[number]

        return self._dataset("train", plan, first_step, None, context)

    @functools.lru_cache(maxsize=2)  # noqa: B019  (one object a run)
    def _plan(self, epoch):
        return self._buckets["train"].plan(self.seed, epoch)

    def validation(self, context: Any = None) -> Dataset:
        """A finite dataset that has every validation pair once. Rows that only fill up a batch have weight 0."""
        return self._evaluation("validation", context)

    def test(self, context: Any = None) -> Dataset:
        """As `validation`, for the test pairs."""
        return self._evaluation("test", context)

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The pairs of a split that the batches use, as text: a list of `(source, target)`, in the file's order."""
        check_choice("split", split, _SPLITS)
        wanted = set(self._encoded[split].numbers.tolist())
        return [pair for number, pair in enumerate(getattr(self.corpus, split)) if number in wanted]

    def _of_allowed_length(self, split, encoded):
        prefix = "" if split == "train" else "eval_"
        limit, policy = self._options[f"{prefix}max_length"], self._options[f"{prefix}too_long"]
        longest = encoded.lengths.max(axis=1)
        pairs, total = getattr(self.corpus, split), len(encoded)
        over = np.flatnonzero(longest > limit)
        if len(over) and policy == "error":
            raise ValueError(
                f"{pairs.place(int(encoded.numbers[over[0]]))}: this sentence has {longest[over[0]]} subwords with "
                f"its end, but `{prefix}max_length` is {limit}. {len(over)} of {total:,} pairs are too long. "
                f"Raise this limit, or give {prefix}too_long=drop to leave these pairs out."
            )
        if len(over) == total:
            raise ValueError(
                f"`{prefix}max_length` must be larger: all {total:,} pairs of {pairs.name} are longer. Received: "
                f"{prefix}max_length={limit}"
            )
        left_out = [f"{len(over):,} longer than {limit} subwords"] if len(over) else []
        left_out += [f"{encoded.blank:,} with a blank side"] if encoded.blank else []
        if left_out:
            self._notes.append(f"Left out of {split}, {total + encoded.blank:,} pairs: {', '.join(left_out)}.")
        return encoded.take(np.flatnonzero(longest <= limit)) if len(over) else encoded

    def _sort(self, split):
        """The `Buckets` of a split. Packed training rows all go into one bucket."""
        growth, replicas = self._options["bucket_growth"], self._options["replicas"]
        lengths, longest = self._encoded[split].lengths, self._options["max_length"]
        if split != "train":
            longest = int(lengths.max())
            budget = max(self._options["eval_batch_tokens"], longest * replicas)
            return bucketing.Buckets.of(lengths, bucketing.bucket_boundaries(longest, growth), budget, replicas)
        if self.packed:
            lengths, boundaries = np.full((len(self._rows), 2), longest), [longest]
        else:
            boundaries = bucketing.bucket_boundaries(longest, growth)
        return bucketing.Buckets.of(lengths, boundaries, self._options["batch_tokens"], replicas)

    def _evaluation(self, split, context):
        batches = self._buckets[split].in_order()
        return self._dataset(split, batches.__getitem__, 0, len(batches), context)

    def _dataset(self, split, plan, begin, end, context):
        replicas = self._options["replicas"]
        check_context(context)
        if context is not None and context.num_replicas_in_sync != replicas:
            raise ValueError(
                f"`replicas` must be the {context.num_replicas_in_sync} of the strategy. Received: replicas={replicas}"
            )
        part = Slice.of(context, replicas)
        own = part.replicas if context is not None else 1
        keys = (*_KEYS, *(_PACKED_KEYS if self.packed else ()))

        def draw(number):
            step, replica = divmod(int(number), own)
            features = self._batch(split, *plan(step))
            if context is not None:
                share = len(features[0]) // replicas
                first = (part.index * own + replica) * share
                features = [feature[first : first + share] for feature in features]
            return features

        def structure(arrays):
            *features, weights = arrays
            features = dict(zip(keys, features, strict=True))
            return features, features["targets"], weights

        like = [((None, None), dtype) for dtype in ("int32",) * len(keys) + ("float32",)]
        end = None if end is None else end * own
        return with_options(numbered_batches(draw, like, begin * own, end, structure))

    def _batch(self, split, chosen, bucket):
        """The arrays of a batch: the features in the order of their keys, then the weights."""
        buckets, encoded = self._buckets[split], self._encoded[split]
        length, size = buckets.boundaries[bucket], buckets.sizes[bucket]
        if self.packed and split == "train":
            features = [_packed_rows(encoded, [self._rows[row] for row in chosen], side, length) for side in (0, 1)]
            ids, segments, positions = zip(*features, strict=True)
            return [*ids, *segments, *positions, (ids[1] != subwords.PADDING).astype(np.float32)]
        to_bucket = self._options["pad_to"] == "bucket"
        longest = encoded.lengths_of(chosen).max(axis=0)
        ids = [encoded.rows(side, chosen, length if to_bucket else int(longest[side])) for side in (0, 1)]
        weights = (ids[1] != subwords.PADDING).astype(np.float32)
        if len(chosen) < size:
            ids = [_filled_up(rows, size) for rows in ids]
            weights = np.pad(weights, ((0, size - len(chosen)), (0, 0)))
        if not self.packed:
            return [*ids, weights]
        segments = [(rows != subwords.PADDING).astype(np.int32) for rows in ids]
        positions = [
            np.arange(rows.shape[1], dtype=np.int32) * inside for rows, inside in zip(ids, segments, strict=True)
        ]
        return [*ids, *segments, *positions, weights]


def _filled_up(rows, size):
    """Adds rows up to `size`. An added row holds only an end of sentence: a row without a token can't attend to any."""
    filled = np.full((size, rows.shape[1]), subwords.PADDING, np.int32)
    filled[:, 0] = subwords.END
    filled[: len(rows)] = rows
    return filled


def _packed_rows(encoded, rows, side, length):
    """Packs rows of sentences into (ids, segments, positions): three int32 arrays `(len(rows), length)`."""
    ids, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, sentences in enumerate(rows):
        begin = 0
        for segment, sentence in enumerate(sentences, 1):
            found = encoded.sentence(side, sentence)
            place = slice(begin, begin + len(found))
            ids[row, place], segments[row, place], positions[row, place] = found, segment, np.arange(len(found))
            begin += len(found)
    return ids, segments, positions


def translation_batches(
    corpus: ParallelCorpus,
    vocabulary: subwords.Vocabulary,
    batch_tokens: int = 4096,
    max_length: int = 256,
    packed: bool = False,
    too_long: str = "drop",
    eval_batch_tokens: int = 4096,
    eval_max_length: int = 1024,
    eval_too_long: str = "error",
    bucket_growth: float = 1.1,
    pad_to: str = "bucket",
    replicas: int = 1,
    cache_dir: PathLike | None = None,
    seed: int = 0,
) -> TranslationBatches:
    """Batches of a parallel corpus for a Transformer.

    Args:
        corpus: A `ParallelCorpus`.
        vocabulary: A `subwords.Vocabulary`, for both languages.
        batch_tokens: Largest number of ids in a training batch on each side, padding included, over all replicas. A
            batch has as many sentences of a bucket as fit, a multiple of `replicas`.
        max_length: Largest number of ids in a training sentence, its end included. With `packed` also the length of a
            row.
        packed: Whether each row holds several sentences. The seed determines once which sentences share a row; epochs
            differ in the order of the rows.
        too_long: How to treat longer training pairs: `"drop"` leaves them out (`source` says how many), `"error"`
            raises an error.
        eval_batch_tokens: As `batch_tokens`, in evaluation.
        eval_max_length, eval_too_long: As `max_length` and `too_long`, for validation and test pairs.
        bucket_growth: Ratio of the lengths of neighbouring buckets, above 1. A larger ratio means fewer buckets, and so
            fewer shapes to compile for, but more padding.
        pad_to: Length to which sentences are padded: the length of their `"bucket"` (few shapes, for XLA) or the
            `"longest"` sentence of their batch (less to compute).
        replicas: Number of replicas of the `tf.distribute` strategy.
        cache_dir: Folder in which encoded sentences are kept. `None`: they are not kept.
        seed: Non-negative integer.

    Returns:
        `TranslationBatches`.

    Raises:
        ValueError: An argument is not as described; a sentence is too long and `too_long="error"` applies; or a file is
            malformed. In the last two cases the message names file and line.

    Example:

    ```python
    with open("pairs.tsv", "w") as file:
        file.writelines(f"sentence {k}\\tSatz {k}\\n" for k in range(1000))
    corpus = parallel_corpus("tsv", "pairs.tsv", held_out=10)
    vocabulary = subwords.train((text for pair in corpus.train for text in pair), "pairs.model", 300)
    batches = translation_batches(corpus, vocabulary, batch_tokens=256)
    features, targets, weights = next(iter(batches.train()))
    ```
    """
    options = dict(locals())
    del options["corpus"], options["vocabulary"]
    for name in ("batch_tokens", "max_length", "eval_batch_tokens", "eval_max_length", "replicas"):
        check_integer(name, options[name], 1)
    for name, allowed in (
        ("too_long", ("drop", "error")),
        ("eval_too_long", ("drop", "error")),
        ("pad_to", ("bucket", "longest")),
    ):
        check_choice(name, options[name], allowed)
    check_instance("corpus", corpus, ParallelCorpus)
    check_instance("vocabulary", vocabulary, subwords.Vocabulary)
    check_bool("packed", packed)
    check_number("bucket_growth", bucket_growth, above=1)
    if cache_dir is not None:
        check_path("cache_dir", cache_dir)
    check_integer("seed", seed, 0)
    return TranslationBatches(corpus, vocabulary, options)
