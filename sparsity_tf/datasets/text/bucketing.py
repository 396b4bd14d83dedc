"""Decides which sentences share a batch: sentences of similar length under a budget of tokens, or packed rows.

This module is plain numpy. The plan of an epoch is a pure function of `(seed, epoch)`, and every epoch has the same
number of batches, so the number of a step determines its sentences.

Sources: tensor2tensor (Vaswani et al., arXiv 1803.07416), which *The State of Sparsity* (arXiv 1902.09574) used for its
training. The buckets' bounds grow by a tenth, a batch has a number of tokens, and rows of 256 tokens can be packed with
sentences.
"""

import dataclasses

import numpy as np


def bucket_boundaries(max_length, growth=1.1, min_length=8):
    """The largest length in each bucket, rising: each is `growth` times the one before, and the last is `max_length`.

    Example:
        >>> bucket_boundaries(20, growth=1.5)
        [8, 12, 18, 20]
    """
    if not growth > 1:
        raise ValueError(f"`growth` must be a number above 1. Received: growth={growth}")
    boundaries, length = [], min_length
    while length < max_length:
        boundaries.append(length)
        length = max(length + 1, int(length * growth))
    return [*boundaries, max_length]


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sentences sorted into buckets by the longer of their two sides.

    Attributes:
        boundaries: The largest length in each bucket, rising.
        sizes: Number of sentences in a batch, for each bucket.
        members: The bucket of each sentence, an integer array.
    """

    boundaries: tuple
    sizes: tuple
    members: np.ndarray

    @classmethod
    def of(cls, lengths, boundaries, batch_tokens, multiple=1):
        """Sorts sentences into buckets.

        Args:
            lengths: Integer array `(n, 2)`: number of ids in source and target.
            boundaries: Rising lengths. The last one must be at least the length of the longest side.
            batch_tokens: Largest number of ids in a batch on each side, padding included.
            multiple: The number of sentences in a batch is a multiple of this number (the number of replicas).

        Raises:
            ValueError: `batch_tokens` is too small for `multiple` sentences of the last bucket.
        """
        if batch_tokens < multiple * boundaries[-1]:
            raise ValueError(
                f"`batch_tokens` must be at least {multiple * boundaries[-1]}, to hold {multiple} of the longest "
                f"sentences ({boundaries[-1]} subwords each). Received: batch_tokens={batch_tokens}"
            )
        sizes = tuple(batch_tokens // length // multiple * multiple for length in boundaries)
        return cls(tuple(boundaries), sizes, np.searchsorted(boundaries, lengths.max(axis=1)))

    @property
    def num_batches(self):
        """Number of batches in an epoch; every epoch has the same number."""
        counts, left, total = np.bincount(self.members, minlength=len(self.sizes)), 0, 0
        for count, size in zip(counts, self.sizes, strict=True):
            batches, left = divmod(left + count, size)
            total += int(batches)
        return total

    def plan(self, seed, epoch):
        """The batches of an epoch, in order: a list of `(sentences, bucket)`, an int64 array and an integer.

        Sentences that do not fill a batch of their bucket move into the next longer bucket. The rest of the last bucket
        is left out in this epoch.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self.members))
        members = self.members[order]
        batches, left = [], order[:0]
        for bucket, size in enumerate(self.sizes):
            found = np.concatenate([left, order[members == bucket]])
            whole = len(found) // size * size
            batches += [(sentences, bucket) for sentences in found[:whole].reshape(-1, size)]
            left = found[whole:]
        return [batches[k] for k in random.permutation(len(batches))]

    def in_order(self):
        """All sentences once, bucket by bucket: a list as from `plan`. The last batch of a bucket may be smaller."""
        batches = []
        for bucket, size in enumerate(self.sizes):
            found = np.flatnonzero(self.members == bucket)
            batches += [(found[k : k + size], bucket) for k in range(0, len(found), size)]
        return batches


def pack(lengths, row_length, seed=0, window=32):
    """Packs sentences into rows: takes them in a random order and puts each into the first open row that has room.

    Args:
        lengths: Integer array `(n, 2)`: number of ids in source and target, at most `row_length`.
        row_length: Number of ids that fit into a row, for sources and for targets alike.
        seed: Non-negative integer, from which the order is drawn.
        window: Number of open rows. If a sentence fits into none of them, the fullest is closed and a new one opened.

    Returns:
        A list of int64 arrays: the sentences of each row.

    Raises:
        ValueError: A sentence is longer than a row.
    """
    if len(lengths) and lengths.max() > row_length:
        raise ValueError(f"`row_length` must be at least {lengths.max()}, the longest sentence. Received: {row_length}")
    space = np.full((window, 2), row_length)
    rows, opened = [], [[] for _ in range(window)]
    for sentence in np.random.default_rng([seed, 0, 1]).permutation(len(lengths)):
        fits = (space >= lengths[sentence]).all(axis=1)
        row = int(fits.argmax())
        if not fits[row]:
            row = int(space.sum(axis=1).argmin())
            rows.append(np.array(opened[row]))
            opened[row], space[row] = [], row_length
        opened[row].append(sentence)
        space[row] -= lengths[sentence]
    return rows + [np.array(row) for row in opened if row]
