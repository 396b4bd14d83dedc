"""Vocabularies of subwords behind one interface: SentencePiece's files and those of tensor2tensor.

`load(path)` tells the two apart by their content, `train(...)` makes a SentencePiece file. Either way id 0 is padding
and id 1 the end of a sentence, which is what the Transformer and its decoding rely on.

Sources: Kudo and Richardson, "SentencePiece" (arXiv 1808.06226); Sennrich et al., "Neural Machine Translation of Rare
Words with Subword Units" (arXiv 1508.07909: byte pair encoding); the subword text files of tensor2tensor (Vaswani et
al., arXiv 1803.07416), in which the published models of *The State of Sparsity* (Gale et al., arXiv 1902.09574) were
trained.
"""

import abc
import collections.abc
import functools
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_bool, check_choice, check_integer, check_number, check_path
from sparsity_tf.extras import import_optional
from sparsity_tf.type_names import PathLike

PADDING = 0
END = 1

# A reversible escape of characters that have no subword: \u for an underscore, \\ for a backslash, \233; for a code.
_ESCAPES = frozenset("\\_u;0123456789")
_ESCAPED = re.compile(r"\\u|\\\\|\\([0-9]+);")
_UNDEFINED = "〓"


class Vocabulary(abc.ABC):
    """Subwords with ids: 0 is padding, 1 the end of a sentence, the others up to `size - 1` are pieces of text.

    Attributes:
        size: Number of ids.
        path: The file it was read from.

    Example:

    ```python
    vocabulary = train((f"line {k}" for k in range(2000)), "lines.model", size=300)
    print(vocabulary.decode(vocabulary.encode("line 17")))
    ```
    """

    size = 0
    path = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, a list of ints from 2 to `size - 1`; without an end of sentence.

        Raises:
            ValueError: `text` is not a string, or has a symbol that the vocabulary can't express. (Those that `train`
                makes, and the published ones, can express every text.)
        """
        if not isinstance(text, str):
            raise ValueError(f"`text` must be a string. Received: {text!r} of type {type(text).__name__}")
        return self._encode(text)

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each of a list of strings, a list of lists."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids up to the first end of sentence; padding is skipped.

        Args:
            ids: Sequence or array of integers.

        Raises:
            ValueError: An id is negative or not below `size`.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(f"`ids` must be a sequence of integers. Received: ids={ids}")
        ids = ids.tolist()
        ids = [i for i in ids[: ids.index(END) if END in ids else None] if i != PADDING]
        outside = [i for i in ids if not 0 <= i < self.size]
        if outside:
            raise ValueError(
                f"`ids` must be from 0 to {self.size - 1}, as {self.path} has them. Received: {outside[0]}"
            )
        return self._decode(ids)

    @abc.abstractmethod
    def _encode(self, text):
        """The ids of a string."""

    @abc.abstractmethod
    def _decode(self, ids):
        """The string of ids from 2 to `size - 1`, a list."""


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model. It must have padding at id 0 and the end of sentence at id 1, as `train` makes it.

    Args:
        path: Path of the `.model` file.

    Raises:
        ValueError: No such model, or with other special ids.

    Example:

    ```python
    train((f"line {k}" for k in range(2000)), "lines.model", size=300)
    vocabulary = SentencePieceVocabulary("lines.model")
    ```
    """

    def __init__(self, path: PathLike) -> None:
        sentencepiece = import_optional("sentencepiece")
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            content = file.read()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is no SentencePiece model: {one_line(error)}") from error
        special = self._processor.pad_id(), self._processor.eos_id()
        if special != (PADDING, END):
            raise ValueError(
                f"{path} must have padding at id {PADDING} and the end of sentence at id {END}, as "
                f"`subwords.train` makes it (pad_id=0, eos_id=1). Received: {special[0]} and {special[1]} (-1: none)"
            )
        self.size = self._processor.vocab_size()

    def _encode(self, text):
        ids, unknown = self._processor.encode(text), self._processor.unk_id()
        if unknown in ids:
            pieces = self._processor.encode(text, out_type=str)
            missing = sorted({piece for piece, i in zip(pieces, ids, strict=True) if i == unknown})
            raise ValueError(
                f"{self.path} has no subwords for {', '.join(map(repr, missing))}; one trained with byte_fallback "
                f"has for every symbol. Received: text={text!r}"
            )
        return ids

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        found, unknown = self._processor.encode(texts), self._processor.unk_id()  # on all cores
        if any(unknown in ids for ids in found):
            return super().encode_all(texts)  # raises the error
        return found

    def _decode(self, ids):
        return self._processor.decode(ids)


class SubwordVocabulary(Vocabulary):
    """A subword text file of tensor2tensor: one subword a line, the first two for padding and end of sentence.

    A text is cut where letters and digits meet other characters, a single space between two words is dropped, symbols
    without a subword are written as escapes, `_` marks the end of each part, and each part becomes the longest
    subwords from its left on.

    Args:
        path: Path of the file, UTF-8; subwords may stand in quotation marks.

    Raises:
        ValueError: The file has no such form.

    Example:
        >>> vocabulary = SubwordVocabulary("vocab.translate_ende_wmt32k.32768.subwords")  # needs the file
        >>> vocabulary.size
        33288
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                lines = file.read().split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is neither a SentencePiece model nor UTF-8 text: {error}") from error
        if lines and not lines[-1]:
            lines.pop()
        self._subwords = [_unquoted(line.strip()) for line in lines]
        reserved = [subword.removesuffix("_") for subword in self._subwords[:2]]
        if reserved != ["<pad>", "<EOS>"]:
            raise ValueError(
                f"{path} is no vocabulary: the first two lines of a subword text file are '<pad>' and '<EOS>'. "
                f"Received: {[line[:50] for line in lines[:2]]}"
            )
        self.size = len(self._subwords)
        self._ids = {subword: i for i, subword in enumerate(self._subwords) if subword}
        self._longest = max(map(len, self._subwords))
        # Those of the two reserved ones are in no text's subwords; in the published files they have some of their own.
        self._alphabet = {symbol for subword in self._subwords[2:] for symbol in subword} | _ESCAPES
        self._known = {}

    def _encode(self, text):
        return [i for token in split_words(text) for i in self._of_token(token)]

    def _of_token(self, token):
        if token not in self._known:
            if len(self._known) >= 1 << 20:  # a bound on memory
                self._known.clear()
            self._known[token] = self._match(escape(token, self._alphabet), token)
        return self._known[token]

    def _match(self, escaped, token):
        ids, start = [], 0
        while start < len(escaped):
            for end in range(min(len(escaped), start + self._longest), start, -1):
                found = self._ids.get(escaped[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                raise ValueError(f"{self.path} has no subword for {escaped[start]!r} in {token!r}")
        return ids

    def _decode(self, ids):
        parts = "".join(self._subwords[i] for i in ids).split("_")
        return join_words([word for word in map(unescape, parts) if word])


def _unquoted(line):
    return line[1:-1] if len(line) >= 2 and line[0] == line[-1] and line[0] in "'\"" else line


@functools.lru_cache(1 << 16)
def _is_alphanumeric(symbol):
    return unicodedata.category(symbol)[0] in "LN"


def split_words(text: str) -> list[str]:
    """Cuts a text where letters and digits meet other characters; a lone space between two parts is left out.

    Example:
        >>> split_words("Dude - that's so cool.")
        ['Dude', ' - ', 'that', "'", 's', 'so', 'cool', '.']
    """
    parts = ["".join(part) for _, part in itertools.groupby(text, _is_alphanumeric)]
    last = len(parts) - 1
    return [part for k, part in enumerate(parts) if part != " " or k in (0, last)]


def join_words(words: Sequence[str]) -> str:
    """The text of which `split_words` made the parts: a space stands between two parts of letters and digits.

    Example:

    >>> join_words(["Dude", " - ", "that", "'", "s"])
    "Dude - that's"
    """
    text = []
    for k, word in enumerate(words):
        if k and _is_alphanumeric(words[k - 1][0]) and _is_alphanumeric(word[0]):
            text.append(" ")
        text.append(word)
    return "".join(text)


def escape(token: str, alphabet: set[str]) -> str:
    r"""A token as subwords can express it, with a `_` at its end.

    Args:
        token: A string.
        alphabet: The symbols that have subwords, a set.

    Example:
        >>> escape("under_score\n", set("underscore") | {"\\"})
        'under\\uscore\\10;_'
    """
    token = token.replace("\\", "\\\\").replace("_", "\\u")
    return "".join(s if s in alphabet and s != "\n" else f"\\{ord(s)};" for s in token) + "_"


def unescape(escaped: str) -> str:
    r"""The token of what `escape` made, without the `_` at its end; a code that no symbol has becomes `〓`.

    Example:

    >>> unescape("under\\uscore")
    'under_score'
    """

    def symbol(match):
        if match.group(1) is None:
            return "_" if match.group(0) == "\\u" else "\\"
        try:
            return chr(int(match.group(1)))
        except (ValueError, OverflowError):
            return _UNDEFINED

    return _ESCAPED.sub(symbol, escaped)


def load(path: PathLike) -> Vocabulary:
    """Reads a vocabulary, of SentencePiece or tensor2tensor, whichever the file is.

    Returns:
        A `Vocabulary`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is empty or neither of the two.

    Example:

    ```python
    train((f"line {k}" for k in range(2000)), "lines.model", size=300)
    vocabulary = load("lines.model")
    ```
    """
    check_path("path", path)
    with open(path, "rb") as file:
        head = file.read(1)
    if not head:
        raise ValueError(f"{path} is empty and no vocabulary.")
    # The first byte of a SentencePiece model is the tag of its first piece, and never begins a line of text.
    return SentencePieceVocabulary(path) if head == b"\n" else SubwordVocabulary(path)


def train(
    texts: Iterable[str],
    path: PathLike,
    size: int,
    kind: str = "bpe",
    character_coverage: float = 0.9999,
    byte_fallback: bool = True,
    max_texts: int = 5_000_000,
    seed: int = 0,
) -> Vocabulary:
    """Trains a SentencePiece vocabulary and writes it; the file appears when it is complete.

    Texts are taken as they are but for white space, of which runs become one space. The result depends on the
    arguments only.

    Args:
        texts: Iterable of strings, those of all languages that share the vocabulary.
        path: Path of the file to write.
        size: Number of ids, special ones and the 256 bytes included; at least 300 with `byte_fallback`.
        kind: `"bpe"` (byte pairs) or `"unigram"`.
        character_coverage: Share of the texts' characters that get an id each, the frequent ones.
        byte_fallback: Whether other characters are expressed by their bytes. Without, they are an error of `encode`.
        max_texts: With more texts, that many drawn at random are used.
        seed: Of that draw.

    Returns:
        The `Vocabulary`.

    Raises:
        ValueError: An argument is not as described, there is no text, or too little for a vocabulary of that size.

    Example:

    ```python
    vocabulary = train((f"line {k}" for k in range(2000)), "lines.model", size=300)
    ```
    """
    sentencepiece = import_optional("sentencepiece")
    check_bool("byte_fallback", byte_fallback)
    least = 300 if byte_fallback else 8
    check_integer("size", size, least)
    check_choice("kind", kind, ("bpe", "unigram"))
    check_path("path", path)
    check_number("character_coverage", character_coverage, above=0, most=1)
    check_integer("max_texts", max_texts, 1)
    check_integer("seed", seed, 0)
    if isinstance(texts, str | bytes) or not isinstance(texts, collections.abc.Iterable):
        raise ValueError(f"`texts` must be an iterable of strings. Received: texts={texts!r}")
    texts = _sample(_with_text(texts), max_texts, seed)
    if not texts:
        raise ValueError("`texts` must hold some text to train a vocabulary on. Received: none")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=size,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            pad_id=PADDING,
            eos_id=END,
            unk_id=2,
            bos_id=-1,
            # Such as it is: the usual NFKC turns the ellipses and fractions of references into something else.
            normalization_rule_name="identity",
            max_sentence_length=1 << 16,
            # The sums of several threads may differ in their last bits.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"No vocabulary of `size` {size} can be trained on these {len(texts):,} texts: {_last_words(error)}"
        ) from error
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    unfinished = f"{path}.{os.getpid()}.unfinished"
    with open(unfinished, "wb") as file:
        file.write(model.getvalue())
    os.replace(unfinished, path)
    return load(path)


def _with_text(texts):
    try:
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"`texts` must be an iterable of strings. Received the entry: {text!r}")
            if text.strip():
                yield text
    except TypeError as error:  # An array without dimensions, which only claims to be iterable.
        raise ValueError(f"`texts` must be an iterable of strings ({error}). Received: texts={texts!r}") from error


def _last_words(error):
    """What SentencePiece says behind the place in its sources and the condition that failed."""
    return str(error).strip().rpartition("] ")[2]


def _sample(texts, most, seed):
    """Up to `most` of the texts, drawn without knowing their number beforehand (reservoir sampling)."""
    texts = iter(texts)
    chosen = list(itertools.islice(texts, most))
    random = np.random.default_rng(seed)
    for count, text in enumerate(texts, most + 1):
        place = int(random.integers(count))
        if place < most:
            chosen[place] = text
    return chosen
