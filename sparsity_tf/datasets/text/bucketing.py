"""Which sentences go into a batch together: by length, with a budget of tokens, or packed into rows.

Plain numpy. The plan of an epoch is a pure function of `(seed, epoch)` and has the same number of batches in every
epoch, so that a step has a number that says which sentences it sees.

Sources: tensor2tensor (Vaswani et al., arXiv 1803.07416), in which *The State of Sparsity* (arXiv 1902.09574) trained:
buckets whose bounds grow by a tenth, batches of a number of tokens; sentences packed into rows of 256.
"""

import dataclasses

import numpy as np


def bucket_boundaries(max_length, growth=1.1, min_length=8):
    """Rising lengths up to which sentences share a bucket: each `growth` times the one before, the last `max_length`.

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
        boundaries: Length of each bucket, rising.
        sizes: Sentences a batch in each bucket.
        members: The bucket of each sentence, an integer array.
    """

    boundaries: tuple
    sizes: tuple
    members: np.ndarray

    @classmethod
    def of(cls, lengths, boundaries, batch_tokens, multiple=1):
        """Sorts sentences.

        Args:
            lengths: Integer array `(n, 2)`: ids in source and target.
            boundaries: Rising lengths, the last at least the longest side.
            batch_tokens: A batch has that many ids at most on each side, padding included.
            multiple: The number of sentences in a batch is a multiple of it (of replicas).

        Raises:
            ValueError: `batch_tokens` is below `multiple` sentences of the last bucket.
        """
        if batch_tokens < multiple * boundaries[-1]:
            raise ValueError(
                f"`batch_tokens` must be at least {multiple * boundaries[-1]}: {multiple} of the longest sentences, "
                f"{boundaries[-1]} ids. Received: batch_tokens={batch_tokens}"
            )
        sizes = tuple(batch_tokens // length // multiple * multiple for length in boundaries)
        return cls(tuple(boundaries), sizes, np.searchsorted(boundaries, lengths.max(axis=1)))

    @property
    def num_batches(self):
        """Batches an epoch, the same in each."""
        counts, left, total = np.bincount(self.members, minlength=len(self.sizes)), 0, 0
        for count, size in zip(counts, self.sizes, strict=True):
            batches, left = divmod(left + count, size)
            total += int(batches)
        return total

    def plan(self, seed, epoch):
        """The batches of an epoch in their order: a list of `(sentences, bucket)`, an int64 array and an integer.

        What is left of a bucket goes into the next longer one; what is left of the last waits for another epoch.
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
        """All sentences once, bucket by bucket: a list as of `plan`, in which the last batch of a bucket is smaller."""
        batches = []
        for bucket, size in enumerate(self.sizes):
            found = np.flatnonzero(self.members == bucket)
            batches += [(found[k : k + size], bucket) for k in range(0, len(found), size)]
        return batches


def pack(lengths, row_length, seed=0, window=32):
    """Packs sentences into rows, in an order drawn from the seed: first fit among the rows that are open.

    Args:
        lengths: Integer array `(n, 2)`, no side longer than `row_length`.
        row_length: Ids a row, of sources and of targets.
        seed: Non-negative integer.
        window: Rows that are open at a time; the fullest is closed when none fits.

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
