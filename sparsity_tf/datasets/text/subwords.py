"""Vocabularies of subwords behind one interface, from files of SentencePiece or of tensor2tensor.

`load(path)` tells the two kinds of file apart by their content, and `train(...)` makes a SentencePiece file. In both
kinds id 0 is padding and id 1 is the end of a sentence; the Transformer and its decoding rely on that.

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

# Escapes for characters that have no subword: \u is an underscore, \\ a backslash, \233; the character with this code.
_ESCAPES = frozenset("\\_u;0123456789")
_ESCAPED = re.compile(r"\\u|\\\\|\\([0-9]+);")
_UNDEFINED = "〓"


class Vocabulary(abc.ABC):
    """Subwords with ids: id 0 is padding, id 1 the end of a sentence, and ids 2 to `size - 1` are pieces of text.

    Attributes:
        size: Number of ids.
        path: The file from which the vocabulary was read.

    Example:

    ```python
    vocabulary = train((f"line {k}" for k in range(2000)), "lines.model", size=300)
    print(vocabulary.decode(vocabulary.encode("line 17")))
    ```
    """

    size = 0
    path = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, a list of ints from 2 to `size - 1`. No end of sentence is added.

        Raises:
            ValueError: `text` is not a string, or has a symbol that the vocabulary can't express. (Vocabularies from
                `train` with its defaults, and the published ones, can express every text.)
        """
        if not isinstance(text, str):
            raise ValueError(f"`text` must be a string. Received: {text!r} of type {type(text).__name__}")
        return self._encode(text)

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """Encodes each of several strings; returns a list with the list of ids of each."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of ids, up to the first end of sentence. Padding is skipped.

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
                f"`ids` must be from 0 to {self.size - 1}, the ids of the vocabulary {self.path}. Received: "
                f"{outside[0]}"
            )
        return self._decode(ids)

    @abc.abstractmethod
    def _encode(self, text):
        """The ids of a string."""

    @abc.abstractmethod
    def _decode(self, ids):
        """The string of a list of ids from 2 to `size - 1`."""


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model. It must have padding at id 0 and the end of sentence at id 1, as models from `train` have.

    Args:
        path: Path of the `.model` file.

    Raises:
        ValueError: The file is not a SentencePiece model, or it has other special ids.

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
                f"{self.path} has no subwords for {', '.join(map(repr, missing))} in the text. A vocabulary that was "
                f"trained with byte_fallback has subwords for every symbol. Received: text={text!r}"
            )
        return ids

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        found, unknown = self._processor.encode(texts), self._processor.unk_id()  # on all cores
        if any(unknown in ids for ids in found):
            return super().encode_all(texts)  # raises the error that names the unknown symbol
        return found

    def _decode(self, ids):
        return self._processor.decode(ids)


class SubwordVocabulary(Vocabulary):
    """A subword text file of tensor2tensor: one subword a line. The first two are padding and end of sentence.

    Encoding cuts a text where letters and digits meet other characters, and drops a single space between two words.
    It writes symbols without a subword as escapes and ends each part with `_`. It then replaces each part by subwords,
    from left to right, always taking the longest subword that fits.

    Args:
        path: Path of the file, UTF-8; subwords may stand in quotation marks.

    Raises:
        ValueError: The file does not have this form.

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
        # The two reserved subwords (padding, end of sentence) are left out, because no text is encoded with them. In
        # the published files their symbols also have subwords of their own.
        self._alphabet = {symbol for subword in self._subwords[2:] for symbol in subword} | _ESCAPES
        self._known = {}

    def _encode(self, text):
        return [i for token in split_words(text) for i in self._of_token(token)]

    def _of_token(self, token):
        if token not in self._known:
            if len(self._known) >= 1 << 20:  # bounds the memory of the cache
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
    """Cuts a text where letters and digits meet other characters. A single space between two words is left out.

    Example:
        >>> split_words("Dude - that's so cool.")
        ['Dude', ' - ', 'that', "'", 's', 'so', 'cool', '.']
    """
    parts = ["".join(part) for _, part in itertools.groupby(text, _is_alphanumeric)]
    last = len(parts) - 1
    return [part for k, part in enumerate(parts) if part != " " or k in (0, last)]


def join_words(words: Sequence[str]) -> str:
    """Joins the parts that `split_words` made of a text. Two parts of letters and digits get a space between them.

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
    r"""Writes a token so that subwords can express it, and adds a `_` at its end.

    Args:
        token: A string.
        alphabet: Set of the symbols that have subwords.

    Example:
        >>> escape("under_score\n", set("underscore") | {"\\"})
        'under\\uscore\\10;_'
    """
    token = token.replace("\\", "\\\\").replace("_", "\\u")
    return "".join(s if s in alphabet and s != "\n" else f"\\{ord(s)};" for s in token) + "_"


def unescape(escaped: str) -> str:
    r"""Reverses `escape`; the `_` at the end must already be removed. A code without a character becomes `〓`.

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
    """Reads a vocabulary file of SentencePiece or of tensor2tensor.

    Returns:
        A `Vocabulary`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty or of neither kind.

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
    # A SentencePiece model begins with the tag of its first piece, a byte that no line of text begins with.
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
    """Trains a SentencePiece vocabulary and writes it to a file. The file appears only when it is complete.

    Texts are not normalized, except that a run of white space becomes one space. The result depends on the arguments
    only.

    Args:
        texts: Iterable of strings, in all languages that share the vocabulary.
        path: Path of the file to write.
        size: Number of ids, special ids and the 256 bytes included; at least 300 with `byte_fallback`.
        kind: `"bpe"` (byte pairs) or `"unigram"`.
        character_coverage: Share of the texts' characters that the vocabulary covers with ids of their own; rare
            characters get none.
        byte_fallback: Whether other characters are expressed by their bytes. If false, `encode` refuses them.
        max_texts: If there are more texts, this many are drawn at random and used.
        seed: Seed of this draw.

    Returns:
        The `Vocabulary`.

    Raises:
        ValueError: An argument is not as described, there is no text, or too little text for a vocabulary of this size.

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
            # No normalization: the usual NFKC would change the ellipses and fractions in reference translations.
            normalization_rule_name="identity",
            max_sentence_length=1 << 16,
            # With several threads, sums may differ in their last bits from run to run.
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
    except TypeError as error:  # an array without dimensions has `__iter__` but can't be iterated
        raise ValueError(f"`texts` must be an iterable of strings ({error}). Received: texts={texts!r}") from error


def _last_words(error):
    """SentencePiece's message without its first part, the place in the source code and the failed condition."""
    return str(error).strip().rpartition("] ")[2]


def _sample(texts, most, seed):
    """Draws up to `most` of the texts without knowing their number beforehand (reservoir sampling)."""
    texts = iter(texts)
    chosen = list(itertools.islice(texts, most))
    random = np.random.default_rng(seed)
    for count, text in enumerate(texts, most + 1):
        place = int(random.integers(count))
        if place < most:
            chosen[place] = text
    return chosen
