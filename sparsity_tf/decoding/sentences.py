"""Decodes many sentences in batches of about equal lengths."""

import numpy as np

# Sources are padded to one of these lengths, so that few shapes are compiled.
_LENGTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256)


def translate(search, sentences, extra_length, batch_size, progress=None):
    """Translates sentences in batches of about equal length.

    Args:
        search: Function of (int32 array (batch, length), extra_length) to `decoding.Hypotheses`.
        sentences: List of lists of ids without the end symbol. Empty sentences are not translated.
        extra_length: Passed to `search`.
        batch_size: Number of sentences of a batch.
        progress: Function that is called with the number of sentences of each finished batch, or `None`.

    Returns:
        List of lists of ids, in the order of `sentences`.
    """
    results = [[] for _ in sentences]
    order = sorted((k for k, ids in enumerate(sentences) if ids), key=lambda k: -len(sentences[k]))
    # A short last batch, or a short text, is filled up with copies, so that few shapes are compiled. Copies add no
    # steps.
    rows = min(batch_size, 1 << max(len(order) - 1, 0).bit_length())
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = np.zeros((rows, _padded(len(sentences[chosen[0]]) + 1)), "int32")
        for row in range(rows):
            ids = sentences[chosen[min(row, len(chosen) - 1)]]
            inputs[row, : len(ids) + 1] = [*ids, 1]
        found = search(inputs, extra_length)
        for row, k in enumerate(chosen):
            ids = found.sequences[row, 0].tolist()
            results[k] = ids[: ids.index(1)] if 1 in ids else ids
        if progress:
            progress(len(chosen))
    return results


def _padded(length):
    return next((padded for padded in _LENGTHS if padded >= length), -(-length // 128) * 128)
