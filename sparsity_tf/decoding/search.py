"""Beam search and greedy decoding over any source of logits, with the whole loop in one graph.

The rules come from tensor2tensor, with which *State of Sparsity* (Gale et al., 2019, arXiv 1902.09574) decodes:

* the score of a hypothesis that ends is log P / ((5 + length) / 6)^alpha (Wu et al., 2016, arXiv 1609.08144, equation
  14 without coverage), where the length includes the end symbol;
* each step takes the 2 * beam_size best continuations: a continuation that ends competes with the finished hypotheses,
  the best of the rest go on. So the beam never runs empty;
* a sentence is done at its length limit. It is also done when the best live hypothesis, scored with the longest allowed
  length, is worse than the best finished hypothesis;
* if no hypothesis of a sentence has ended, the results are its live hypotheses, scored by log P.

tensor2tensor sets the length limit and the end of the search for a whole batch. Here each sentence has its own, so a
translation does not depend on the other sentences of its batch.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from sparsity_tf.checks import check_array, check_bool, check_callable, check_integer, check_number
from sparsity_tf.type_names import Tensor

_MINUS_INFINITY = -1e7


class Hypotheses(NamedTuple):
    """The results of a search, best first.

    Args:
        sequences: int32 (batch, beams, length), 0 after the end symbol.
        scores: float32 (batch, beams): log P over the length penalty where `finished`, else log P.
        finished: bool (batch, beams): whether the sequence holds the end symbol.
    """

    sequences: Tensor
    scores: Tensor
    finished: Tensor


_Alive = collections.namedtuple("_Alive", ["tokens", "ancestors", "sequences", "log_probs"])


def length_penalty(length: int | Tensor, alpha: float) -> Tensor:
    """((5 + length) / 6)^alpha.

    Example:

    >>> float(length_penalty(7, 1.0))
    2.0
    """
    return ops.power((5.0 + ops.cast(length, "float32")) / 6.0, alpha)


def beam_search(
    next_logits: Callable[[Any, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Any]],
    cache: Any,
    limits: Tensor,
    length: int,
    beam_size: int,
    alpha: float,
    end_id: int = 1,
    stop_early: bool = True,
) -> Hypotheses:
    """Searches for the best sequences.

    Args:
        next_logits: Function of (cache, tokens (batch, beams) at the previous position, ancestors (batch, beams,
            length), sequences (batch, beams, length) so far, step) to (logits (batch, beams, vocabulary), cache).
            `tokens` are 0 at step 0. `ancestors[..., t]` is the place in the beam that the hypothesis' own past had
            when position t was computed.
        cache: Nested structure of tensors.
        limits: int32 tensor (batch,), largest length of each sentence's output, at least 1.
        length: Integer, at least the largest of `limits`.
        beam_size: Number of hypotheses.
        alpha: Exponent of the length penalty, at least 0.
        end_id: The end symbol.
        stop_early: Whether only the best hypothesis is needed. If not, a sentence is done when no live hypothesis can
            displace the worst finished one.

    Returns:
        `Hypotheses`.

    Example:

    >>> def next_logits(cache, tokens, ancestors, sequences, step):  # The next symbol is 2, then the end, 1.
    ...     best = keras.ops.ones((1, 2), "int32") + keras.ops.cast(keras.ops.equal(step, 0), "int32")
    ...     return keras.ops.one_hot(best, 4) * 5.0, cache
    >>> found = beam_search(next_logits, (), keras.ops.array([5], "int32"), 5, beam_size=2, alpha=0.6)
    >>> keras.ops.convert_to_numpy(found.sequences)[0, 0]
    array([2, 1, 0, 0, 0], dtype=int32)
    """
    _check(next_logits, limits, length, end_id)
    check_integer("beam_size", beam_size, 1)
    check_number("alpha", alpha, least=0)
    check_bool("stop_early", stop_early)
    batch = limits.shape[0]
    positions = ops.arange(length, dtype="int32")
    places = ops.broadcast_to(ops.arange(beam_size, dtype="int32"), (batch, beam_size))
    empty = ops.zeros((batch, beam_size, length), "int32")
    worst = ops.full((batch, beam_size), _MINUS_INFINITY, "float32")
    # The search starts with one hypothesis: several equal ones would stay equal.
    first = ops.where(places == 0, 0.0, worst)
    alive = _Alive(ops.zeros((batch, beam_size), "int32"), empty, empty, first)
    finished = Hypotheses(empty, worst, ops.zeros((batch, beam_size), "bool"))
    done = ops.zeros((batch,), "bool")
    longest = length_penalty(limits, alpha)

    def goes_on(step, alive, finished, done, cache):
        return ops.logical_and(step < length, ops.logical_not(ops.all(done)))

    def advance(step, alive, finished, done, cache):
        ancestors = ops.where(positions == step, places[:, :, None], alive.ancestors)
        logits, cache = next_logits(cache, alive.tokens, ancestors, alive.sequences, step)
        grown = _grow(logits, alive, ancestors, step, positions)
        is_end = grown.tokens == end_id
        # At first only one place of the beam holds a hypothesis. Continuations of the empty places don't count as
        # ended.
        ends = ops.logical_and(is_end, grown.log_probs > _MINUS_INFINITY / 2)
        scores = grown.log_probs / length_penalty(step + 1, alpha)
        # Ended hypotheses also lose their probability. If the vocabulary is so small that one must fill a place, the
        # place counts as empty.
        going_on = grown._replace(log_probs=ops.where(is_end, _MINUS_INFINITY, grown.log_probs))
        new_alive = _best(going_on, ops.where(is_end, 2 * _MINUS_INFINITY, scores), beam_size)
        pool = Hypotheses(
            ops.concatenate([finished.sequences, grown.sequences], axis=1),
            ops.concatenate([finished.scores, ops.where(ends, scores, _MINUS_INFINITY)], axis=1),
            ops.concatenate([finished.finished, ends], axis=1),
        )
        new_finished = _best(pool, pool.scores, beam_size)
        alive, finished = _keep(done, alive, new_alive), _keep(done, finished, new_finished)
        bound = ops.max(finished.scores, axis=1) if stop_early else ops.min(finished.scores, axis=1)
        met = bound > alive.log_probs[:, 0] / longest
        done = ops.logical_or(done, ops.logical_or(met, step + 1 >= limits))
        return step + 1, alive, finished, done, cache

    start = (ops.convert_to_tensor(0, "int32"), alive, finished, done, cache)
    _, alive, finished, _, _ = ops.while_loop(goes_on, advance, start)
    any_finished = ops.any(finished.finished, axis=1, keepdims=True)
    return Hypotheses(
        ops.where(any_finished[:, :, None], finished.sequences, alive.sequences),
        ops.where(any_finished, finished.scores, alive.log_probs),
        finished.finished,
    )


def greedy_search(
    next_logits: Callable[[Any, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Any]],
    cache: Any,
    limits: Tensor,
    length: int,
    end_id: int = 1,
) -> Hypotheses:
    """Takes the most probable token at every position.

    Args: As for `beam_search`.

    Returns:
        `Hypotheses` with one beam; scores are log P.

    Example:

    >>> def next_logits(cache, tokens, ancestors, sequences, step):  # The next symbol is 2, then the end, 1.
    ...     best = keras.ops.ones((1, 1), "int32") + keras.ops.cast(keras.ops.equal(step, 0), "int32")
    ...     return keras.ops.one_hot(best, 4), cache
    >>> found = greedy_search(next_logits, (), keras.ops.array([5], "int32"), 5)
    >>> keras.ops.convert_to_numpy(found.sequences)[0, 0]
    array([2, 1, 0, 0, 0], dtype=int32)
    """
    _check(next_logits, limits, length, end_id)
    batch = limits.shape[0]
    positions = ops.arange(length, dtype="int32")
    ancestors = ops.zeros((batch, 1, length), "int32")

    def goes_on(step, tokens, sequences, log_probs, ended, cache):
        return ops.logical_and(step < length, ops.any(_running(step, ended)))

    def _running(step, ended):
        return ops.logical_and(ops.logical_not(ended), ops.expand_dims(step < limits, 1))

    def advance(step, tokens, sequences, log_probs, ended, cache):
        logits, cache = next_logits(cache, tokens, ancestors, sequences, step)
        running = _running(step, ended)
        best = ops.max(logits, axis=-1)
        tokens = ops.where(running, ops.cast(ops.argmax(logits, axis=-1), "int32"), 0)
        sequences = ops.where(positions == step, tokens[:, :, None], sequences)
        log_probs = log_probs + ops.where(running, best - ops.logsumexp(logits, axis=-1), 0.0)
        return step + 1, tokens, sequences, log_probs, ops.logical_or(ended, tokens == end_id), cache

    zeros = ops.zeros((batch, 1), "int32")
    start = (ops.convert_to_tensor(0, "int32"), zeros, ops.zeros((batch, 1, length), "int32"))
    start += (ops.zeros((batch, 1), "float32"), ops.zeros((batch, 1), "bool"), cache)
    _, _, sequences, log_probs, ended, _ = ops.while_loop(goes_on, advance, start)
    return Hypotheses(sequences, log_probs, ended)


def _check(next_logits, limits, length, end_id):
    check_callable("next_logits", next_logits, "cache", "tokens", "ancestors", "sequences", "step")
    check_array("limits", limits)
    if len(getattr(limits, "shape", ())) != 1:
        raise ValueError(f"`limits` must be a tensor of shape (batch,). Received: limits={limits!r}")
    check_integer("length", length, 1)
    check_integer("end_id", end_id, 0)


def _grow(logits, alive, ancestors, step, positions):
    """The 2 * beam_size best continuations of the live hypotheses, as `_Alive`."""
    beam_size = logits.shape[1]
    wanted = min(2 * beam_size, logits.shape[2])
    # Each beam's best tokens are found first. The sums then need only a small table, not the vocabularies of all beams.
    best, tokens = ops.top_k(logits, wanted)
    log_probs = best - ops.logsumexp(logits, axis=-1, keepdims=True) + alive.log_probs[:, :, None]
    flat = (logits.shape[0], beam_size * wanted)
    log_probs, chosen = ops.top_k(ops.reshape(log_probs, flat), 2 * beam_size)
    tokens = ops.take_along_axis(ops.reshape(ops.cast(tokens, "int32"), flat), chosen, axis=1)
    parents = ops.cast(chosen // wanted, "int32")
    sequences = ops.where(positions == step, tokens[:, :, None], _of_parents(alive.sequences, parents))
    return _Alive(tokens, _of_parents(ancestors, parents), sequences, log_probs)


def _best(pool, scores, beam_size):
    """The entries of a named tuple that have the best scores, best first."""
    _, chosen = ops.top_k(scores, beam_size)
    return type(pool)(*(_of_parents(x, chosen) for x in pool))


def _of_parents(x, parents):
    parents = parents if len(x.shape) == 2 else parents[:, :, None]
    return ops.take_along_axis(x, parents, axis=1)


def _keep(done, old, new):
    """Takes `old` for the sentences that are done and `new` for the rest."""
    return type(old)(
        *(ops.where(ops.reshape(done, (-1,) + (1,) * (len(a.shape) - 1)), a, b) for a, b in zip(old, new, strict=True))
    )
