"""Sentence pairs as ids, in flat arrays that are cached on disk.

An `EncodedPairs` stores all sentences of a split one after the other. With the usual vocabularies an id takes 2 bytes,
so millions of pairs fit into memory. One gather makes a batch.
"""

import dataclasses
import hashlib
import itertools
import os
import warnings

import numpy as np

from sparsity_tf.bounded_files import read_npz
from sparsity_tf.datasets.text import subwords

_CHUNK = 10_000
# Part of the name of a cached file. Raise the number whenever the content of these files changes.
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """The sentence pairs of a split as ids. Each sentence ends with id 1.

    Attributes:
        ids: Two integer arrays, one for the sources and one for the targets, with all sentences one after the other.
        ends: Two int64 arrays `(n,)`: the position in `ids` at which each sentence ends.
        numbers: int64 `(n,)`: the number of each pair in its `Pairs`.
        blank: Number of pairs that were left out because one side is blank.
    """

    ids: tuple
    ends: tuple
    numbers: np.ndarray
    blank: int

    def __len__(self):
        return len(self.numbers)

    @property
    def lengths(self):
        """Number of ids in source and target of each pair, the end of sentence included: int64 `(n, 2)`."""
        return np.stack([np.diff(ends, prepend=0) for ends in self.ends], axis=1)

    def lengths_of(self, chosen):
        """`lengths[chosen]`, without computing the lengths of all other pairs."""
        return np.stack([ends[chosen] - self._begins(side, chosen) for side, ends in enumerate(self.ends)], axis=1)

    def _begins(self, side, chosen):
        return np.where(chosen > 0, self.ends[side][chosen - 1], 0)

    def sentence(self, side, number):
        """The ids of one sentence, with its end."""
        begin = self.ends[side][number - 1] if number else 0
        return self.ids[side][begin : self.ends[side][number]]

    def rows(self, side, chosen, length):
        """Chosen sentences, padded with 0: int32 `(len(chosen), length)`. No sentence may be longer than `length`.

        Args:
            side: 0 for sources, 1 for targets.
            chosen: Integer array of numbers from 0 to n - 1.
            length: Number of ids in a row.
        """
        ids, ends = self.ids[side], self.ends[side]
        places = self._begins(side, chosen)[:, np.newaxis] + np.arange(length)
        inside = places < ends[chosen][:, np.newaxis]
        return np.where(inside, ids[np.minimum(places, len(ids) - 1)], subwords.PADDING).astype(np.int32)

    def take(self, kept):
        """The pairs at the places `kept`, which must rise, as another `EncodedPairs`."""
        ids, ends = [], []
        for side in (0, 1):
            lengths = np.diff(self.ends[side], prepend=0)
            inside = np.zeros(len(self), bool)
            inside[kept] = True
            ids.append(self.ids[side][np.repeat(inside, lengths)])
            ends.append(np.cumsum(lengths[kept]))
        return EncodedPairs(tuple(ids), tuple(ends), self.numbers[kept], self.blank)


def encode_pairs(pairs, vocabulary, cache_dir=None):
    """Encodes the pairs of a split, or reads them from the cache.

    A pair is left out if one side is blank.

    Args:
        pairs: A `Pairs`.
        vocabulary: A `subwords.Vocabulary`.
        cache_dir: Folder for the result; it is made if missing. `None`: the result is not kept on disk.

    Returns:
        `EncodedPairs`.

    Raises:
        ValueError: No pair is left, a text can't be encoded, or a file is malformed. The message names the file and the
            line.
    """
    path = cache_dir and os.path.join(cache_dir, f"pairs-{_key(pairs, vocabulary)}.npz")
    if path and os.path.exists(path):
        try:
            stored = read_npz(path, ("ids_0", "ids_1", "ends_0", "ends_1", "numbers", "blank"))
            ids, ends = ((stored[f"{what}_0"], stored[f"{what}_1"]) for what in ("ids", "ends"))
            return EncodedPairs(ids, ends, stored["numbers"], int(stored["blank"]))
        except ValueError as error:
            warnings.warn(f"{error} The text is encoded again.", stacklevel=2)
    encoded = _encode(pairs, vocabulary)
    if path:
        os.makedirs(cache_dir, exist_ok=True)
        arrays = {f"{what}_{side}": getattr(encoded, what)[side] for what in ("ids", "ends") for side in (0, 1)}
        unfinished = f"{path}.{os.getpid()}.unfinished"
        with open(unfinished, "wb") as file:
            np.savez(file, numbers=encoded.numbers, blank=encoded.blank, **arrays)
        os.replace(unfinished, path)
    return encoded


def _key(pairs, vocabulary):
    digest = hashlib.sha256(f"{_VERSION} {pairs.fingerprint}".encode())
    with open(vocabulary.path, "rb") as file:
        digest.update(file.read())
    return digest.hexdigest()[:20]


def _encode(pairs, vocabulary):
    dtype = np.uint16 if vocabulary.size <= 1 << 16 else np.int32
    ids, lengths, numbers, count = ([], []), ([], []), [], 0
    reading = iter(pairs)
    while chunk := list(itertools.islice(reading, _CHUNK)):
        kept = [k for k, pair in enumerate(chunk) if pair[0].strip() and pair[1].strip()]
        for side in (0, 1):
            found = _encode_chunk(pairs, vocabulary, [chunk[k][side] for k in kept], [count + k for k in kept])
            lengths[side].extend(len(sentence) + 1 for sentence in found)
            ids[side].append(np.array([i for sentence in found for i in (*sentence, subwords.END)], dtype))
        numbers.extend(count + k for k in kept)
        count += len(chunk)
    if not numbers:
        raise ValueError(f"{pairs.name} has no pair of which both sides have text.")
    ends = tuple(np.cumsum(side, dtype=np.int64) for side in lengths)
    return EncodedPairs(tuple(map(np.concatenate, ids)), ends, np.array(numbers, np.int64), count - len(numbers))


def _encode_chunk(pairs, vocabulary, texts, numbers):
    try:
        return vocabulary.encode_all(texts)
    except ValueError:
        # Encodes the texts one by one, to find the line that caused the error.
        for text, number in zip(texts, numbers, strict=True):
            try:
                vocabulary.encode(text)
            except ValueError as error:
                raise ValueError(f"{pairs.place(number)}: {error}") from error
        raise
