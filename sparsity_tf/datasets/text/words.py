"""Text as words: a tokenizer, and a vocabulary that numbers the words of a training text.

A word is a run of letters, digits and apostrophes in lower case. Every other sign that is no space is a word by itself.
"""

import collections
import re
from collections.abc import Iterable, Mapping

import numpy as np

from sparsity_tf.atomic_files import appearing
from sparsity_tf.bounded_files import open_unpacked
from sparsity_tf.checks import check_array, check_instance, check_integer, check_path, is_integer
from sparsity_tf.type_names import PathLike, Tensor

PADDING, UNKNOWN = "<padding>", "<unknown>"
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Splits a text into words.

    Args:
        text: A string.

    Returns:
        List of strings in lower case.

    Raises:
        ValueError: `text` is no string.

    Example:

    >>> split_words("It isn't Sci-Fi, at all!")
    ['it', "isn't", 'sci', '-', 'fi', ',', 'at', 'all', '!']
    """
    check_instance("text", text, str)
    return _WORD.findall(text.lower().replace("\u2019", "'"))


class WordVocabulary:
    """A vocabulary: the number (id) of each word. Several words may have one id.

    Id 0 is `<padding>`, which fills up short texts. A word that is not in the vocabulary has the id of `<unknown>`.

    Args:
        ids: Mapping from word to id, with `<padding>` (0) and `<unknown>`. Each id from 0 to the largest has a word.

    Raises:
        ValueError: An argument is not as described.

    Example:

    >>> vocabulary = WordVocabulary({"<padding>": 0, "<unknown>": 1, "good": 2, "bad": 3})
    >>> vocabulary.size, vocabulary.encode("Good, bad!")
    (4, [2, 1, 3, 1])
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        check_instance("ids", ids, Mapping)
        right = ids.get(PADDING) == 0 and UNKNOWN in ids
        right = right and all(isinstance(word, str) and is_integer(number) for word, number in ids.items())
        if not right or set(ids.values()) != set(range(max(ids.values()) + 1)):
            raise ValueError(
                f"`ids` must map words to integers: {PADDING} to 0, {UNKNOWN}, and every id up to the largest. "
                f"Received: ids={repr(ids)[:200]}"
            )
        self.ids = {word: int(number) for word, number in ids.items()}

    @property
    def size(self) -> int:
        """Number of ids."""
        return max(self.ids.values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of the words of a text, a list of integers."""
        unknown = self.ids[UNKNOWN]
        return [self.ids.get(word, unknown) for word in split_words(text)]

    def renumbered(self, ids: Tensor) -> "WordVocabulary":
        """The vocabulary for a model that `deploy.shrink_vocabulary` made smaller.

        Words that have the new id of `<unknown>` are left out.

        Args:
            ids: Integer array `(size,)`, the new id of each id.

        Returns:
            A new `WordVocabulary`.
        """
        check_array("ids", ids, (self.size,))
        ids = np.asarray(ids)
        new = {word: int(ids[number]) for word, number in self.ids.items()}
        kept = {word: number for word, number in new.items() if number != new[UNKNOWN]}
        return WordVocabulary({PADDING: new[PADDING], UNKNOWN: new[UNKNOWN], **kept})

    def save(self, path: PathLike) -> None:
        """Writes the vocabulary to a text file: a line `word<TAB>id` for each word."""
        check_path("path", path)
        with appearing(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{word}\t{number}\n" for word, number in self.ids.items())

    @classmethod
    def load(cls, path: PathLike) -> "WordVocabulary":
        """Reads a file that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged. The message names the line.
        """
        check_path("path", path)
        ids = {}
        for number, line in enumerate(read_lines(path), 1):
            word, _, text = line.rpartition("\t")
            if not (word and text.isdecimal()):
                raise ValueError(f"{path}, line {number}: must be word<TAB>id. Found: {line[:80]!r}")
            ids[word] = int(text)
        try:
            return cls(ids)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def __repr__(self):
        return f"<WordVocabulary of {len(self.ids):,} words with {self.size:,} ids>"


def word_vocabulary(texts: Iterable[str], size: int | None = None, min_count: int = 1) -> WordVocabulary:
    """Makes the vocabulary of a training text: the most frequent words have the smallest ids.

    Args:
        texts: Strings.
        size: Largest number of ids, `<padding>` and `<unknown>` included. Default: no limit.
        min_count: Words that occur less often are left out, >= 1.

    Returns:
        `WordVocabulary`. Words of the same count are in alphabetical order.

    Raises:
        ValueError: An argument has a value that is not allowed.

    Example:

    >>> word_vocabulary(["so good", "so bad"], min_count=2).ids
    {'<padding>': 0, '<unknown>': 1, 'so': 2}
    """
    try:
        given = [None] if isinstance(texts, str | Mapping) else list(texts)
    except TypeError:
        given = [None]
    if not all(isinstance(text, str) for text in given):
        raise ValueError(f"`texts` must be strings, for example a list. Received: texts={repr(texts)[:200]}")
    if size is not None:
        check_integer("size", size, 2)
    check_integer("min_count", min_count, 1)
    counts = collections.Counter(word for text in given for word in split_words(text))
    frequent = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
    words = [PADDING, UNKNOWN, *frequent][:size]
    return WordVocabulary({word: number for number, word in enumerate(words)})


def read_lines(path):
    """The lines of a text file in UTF-8 without their ends; packed files (.gz, .xz) are unpacked."""
    name = str(path).lower()
    packing = next((ending for ending in (".gz", ".xz") if name.endswith(ending)), None)
    try:
        with open_unpacked(path, packing) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}.") from None
    # `splitlines` would also split at signs that are no ends of lines.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
