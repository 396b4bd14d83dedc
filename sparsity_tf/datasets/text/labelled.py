"""Labelled texts: sentences or documents with a class each, read from files, and batches of their words.

Two kinds of lines are read. `label<TAB>text` is the plain one. `number<TAB>rating<TAB>text` is the one of the files
`*_GroundTruth.txt` of Hutto and Gilbert (ICWSM 2014): the mean of 20 people's ratings, whose sign is the class. Their
file `movieReviewSnippets_GroundTruth.txt` holds 10,605 sentences of Rotten Tomatoes' film reviews (Pang and Lee 2005).
The source distribution of the PyPI package `vaderSentiment` 3.3.2 (MIT licence) carries it, inside
`additional_resources/hutto_ICWSM_2014.tar.gz`.

`LabelledText` holds three splits as ids of words. `LabelledBatches` pads them on the left to one length. In training,
batch b of epoch e is a function of the seed, e and b alone, so that a run can continue at any step.
"""

import dataclasses
import functools
import math
import os

import numpy as np

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_instance, check_integer, check_number, check_path
from sparsity_tf.datasets.batches import epoch_order, with_options
from sparsity_tf.datasets.numbered import numbered_batches
from sparsity_tf.datasets.text.characters import SPLITS, split_file
from sparsity_tf.datasets.text.words import WordVocabulary, read_lines, split_words, word_vocabulary
from sparsity_tf.type_names import Dataset, PathLike

_ENDINGS = tuple(f"{ending}{packing}" for ending in (".tsv", ".txt") for packing in ("", ".gz", ".xz"))
_WHERE = (
    "film reviews for trying out: `pip download --no-deps --no-binary :all: vaderSentiment==3.3.2`, and unpack "
    "additional_resources/hutto_ICWSM_2014.tar.gz in it"
)


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """Labelled texts in three splits.

    Attributes:
        train, validation, test: Pairs: a tuple of int32 arrays, the ids of the words of each text; and an int32 array,
            the number of the class of each text.
        vocabulary: `WordVocabulary` of the training texts.
        classes: Tuple of the names of the classes, sorted.
        source: A sentence that says where the texts came from and how many were left out.

    Example:

    ```python
    with open("texts.tsv", "w") as file:
        file.writelines(f"{('bad', 'good')[n % 2]}\\tfilm number {n}\\n" for n in range(50))
    text = labelled_text("texts.tsv")
    print(text.classes, text.vocabulary)
    ```
    """

    train: tuple
    validation: tuple
    test: tuple
    vocabulary: WordVocabulary
    classes: tuple
    source: str


def labelled_text(
    data_dir: PathLike,
    vocabulary_size: int | None = None,
    min_count: int = 1,
    held_out: float = 0.1,
    split_seed: int = 0,
) -> LabelledText:
    """Reads labelled texts.

    A text whose words are those of an earlier text is left out, so that no test text was trained on. So is a rating of
    0, which says neither "positive" nor "negative".

    Args:
        data_dir: A file (.tsv or .txt, also .gz or .xz, in UTF-8), or a folder with a file for each split, whose names
            contain "train", "valid" (or "dev") and "test". A line is `label<TAB>text` or `number<TAB>rating<TAB>text`.
        vocabulary_size: Largest number of ids in the vocabulary, padding and unknown words included. Default: no limit.
        min_count: Words that occur less often in the training texts are unknown, >= 1.
        held_out: For a single file: the share of the texts for validation, and again for test, each rounded down.
        split_seed: For a single file: the seed that draws the texts to hold out, a non-negative integer.

    Returns:
        `LabelledText`.

    Raises:
        FileNotFoundError: `data_dir` or the file of a split is missing.
        ValueError: A line is malformed (the message names it), a split is empty, there are less than two classes, a
            class of validation or test has no training text, or an argument has a value that is not allowed.

    Example:

    ```python
    with open("texts.tsv", "w") as file:
        file.writelines(f"{('bad', 'good')[n % 2]}\\tfilm number {n}\\n" for n in range(50))
    text = labelled_text("texts.tsv", min_count=2)
    ```
    """
    check_path("data_dir", data_dir)
    if vocabulary_size is not None:
        check_integer("vocabulary_size", vocabulary_size, 3)
    check_integer("min_count", min_count, 1)
    check_number("held_out", held_out, above=0, below=0.5)
    check_integer("split_seed", split_seed, 0)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    seen = set()
    if os.path.isdir(data_dir):
        files = [split_file(data_dir, split, _ENDINGS) for split in SPLITS]
        found = [_read(path, seen) for path in files]
        parts, left_out = [pairs for pairs, _ in found], sum(count for _, count in found)
        source = f"{data_dir} ({', '.join(os.path.basename(path) for path in files)})"
    else:
        pairs, left_out = _read(data_dir, seen)
        held = int(held_out * len(pairs))
        order = np.random.default_rng(split_seed).permutation(len(pairs))
        ends = (order[2 * held :], order[held : 2 * held], order[:held])
        parts = [[pairs[number] for number in numbers] for numbers in ends]
        source = f"{data_dir} ({100 * held_out:g} % for testing, {100 * held_out:g} % for validation)"
    for split, part in zip(SPLITS, parts, strict=True):
        if not part:
            raise ValueError(f"`data_dir` must hold more texts: split {split} is empty. Received: data_dir={data_dir}")
    classes = tuple(sorted({label for label, _ in parts[0]}))
    if len(classes) < 2:
        raise ValueError(f"{data_dir} must have at least two classes. Found: {', '.join(classes)}")
    vocabulary = word_vocabulary([text for _, text in parts[0]], vocabulary_size, min_count)
    encoded = [_encode(part, vocabulary, classes, data_dir) for part in parts]
    return LabelledText(*encoded, vocabulary, classes, f"{source}; {left_out:,} repeated or neutral texts left out")


def _read(path, seen):
    """Reads the texts of a file that are not in the set `seen`, to which it adds them.

    Returns:
        Pairs (label, text), and the number of texts that were left out.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`data_dir` must be a file or a folder ({_WHERE}). Received: data_dir={path}")
    pairs, left_out, columns = [], 0, None
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split("\t")
        columns = columns or len(fields)
        if len(fields) != columns or columns not in (2, 3):
            raise ValueError(
                f"{path}, line {number}: must be label<TAB>text or number<TAB>rating<TAB>text, the same in all lines. "
                f"Found {len(fields)} columns: {line[:80]!r}"
            )
        label = fields[0].strip() if columns == 2 else _sign(fields[1], path, number)
        key = tuple(split_words(fields[-1]))
        if columns == 2 and not label:
            raise ValueError(f"{path}, line {number}: the label is empty. Found: {line[:80]!r}")
        if label is None or not key or key in seen:
            left_out += 1
            continue
        seen.add(key)
        pairs.append((label, fields[-1]))
    return pairs, left_out


def _sign(text, path, number):
    """The class of a rating; `None` for a rating of 0."""
    try:
        rating = float(text)
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        raise ValueError(f"{path}, line {number}: the rating must be a number. Found: {text[:80]!r}")
    return None if rating == 0 else "positive" if rating > 0 else "negative"


def _encode(pairs, vocabulary, classes, path):
    unknown = sorted({label for label, _ in pairs} - set(classes))
    if unknown:
        raise ValueError(f"{path}: no training text has the class {unknown[0]!r} of a held-out text.")
    labels = np.array([classes.index(label) for label, _ in pairs], np.int32)
    return tuple(np.array(vocabulary.encode(text), np.int32) for _, text in pairs), labels


class LabelledBatches(CallRepr):
    """Batches of words and classes from a `LabelledText`, each text padded on the left or cut to one length.

    Args:
        text: `LabelledText`.
        batch_size: Number of texts in a step, >= 1.
        length: Number of words that are used of a text, the first ones, >= 1. Shorter texts begin with id 0.
        seed: Non-negative integer, the seed of the order of the texts.
        eval_batch_size: Number of texts in a batch of evaluation. Default: `batch_size`.

    Raises:
        ValueError: An argument has a value that is not allowed, or there are fewer training texts than `batch_size`.

    Example:

    ```python
    with open("texts.tsv", "w") as file:
        file.writelines(f"{('bad', 'good')[n % 2]}\\tfilm number {n}\\n" for n in range(50))
    text = labelled_text("texts.tsv")
    words, classes = LabelledBatches(text, batch_size=32, length=5).batch(0)
    print(words.shape, classes.shape)
    ```
    """

    def __init__(
        self, text: LabelledText, batch_size: int, length: int, seed: int = 0, eval_batch_size: int | None = None
    ) -> None:
        check_instance("text", text, LabelledText)
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("length", length, 1),
            ("seed", seed, 0),
            ("eval_batch_size", eval_batch_size, 1),
        ):
            check_integer(argument, value, least)
        if batch_size > len(text.train[1]):
            raise ValueError(
                f"`batch_size` must be at most the {len(text.train[1])} training texts. "
                f"Received: batch_size={batch_size}"
            )
        self.text, self.batch_size, self.length, self.seed = text, batch_size, length, seed
        self.eval_batch_size = eval_batch_size
        self._arrays = {split: self._padded(getattr(text, split)) for split in SPLITS}

    def _padded(self, part):
        texts, labels = part
        words = np.zeros((len(texts), self.length), np.int32)
        for row, text in zip(words, texts, strict=True):
            used = text[: self.length]
            row[self.length - len(used) :] = used
        return words, labels

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return len(self.text.train[1]) // self.batch_size

    @property
    def num_examples(self) -> int:
        """Number of training texts."""
        return len(self.text.train[1])

    @property
    def source(self) -> str:
        """A sentence that says where the texts came from."""
        return self.text.source

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The training batch of an optimizer step, counted from 0: int32 `(batch_size, length)` and `(batch_size,)`."""
        epoch, index = divmod(int(step), self.steps_per_epoch)
        chosen = self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        words, labels = self._arrays["train"]
        return words[chosen], labels[chosen]

    @functools.lru_cache(maxsize=2)  # noqa: B019  (one object a run)
    def _order(self, epoch):
        return epoch_order(self.num_examples, self.seed, epoch)

    def train(self, first_step: int = 0) -> Dataset:
        """An endless `tf.data.Dataset` of (words, classes), beginning with the batch of a step.

        On backends other than TensorFlow, `train`, `validation` and `test` return a `keras.utils.PyDataset`.
        """
        check_integer("first_step", first_step, 0)
        like = [((self.batch_size, self.length), "int32"), ((self.batch_size,), "int32")]
        return with_options(numbered_batches(self.batch, like, first_step))

    def validation(self) -> Dataset:
        """A finite dataset of (words, classes)."""
        return self._evaluation("validation")

    def test(self) -> Dataset:
        """As `validation`."""
        return self._evaluation("test")

    def _evaluation(self, split):
        words, labels = self._arrays[split]
        size = self.eval_batch_size

        def batch(number):
            return [array[number * size : (number + 1) * size] for array in (words, labels)]

        like = [((None, self.length), "int32"), ((None,), "int32")]
        return with_options(numbered_batches(batch, like, end=-(-len(labels) // size)))
