"""The search by itself: against a beam search in plain Python, and against all sequences that there are."""

import itertools

import numpy as np
import pytest
from keras import ops

from sparsity_tf.decoding import beam_search, greedy_search

pytestmark = pytest.mark.compiled

END = 1


def log_probs_of(sentence, prefix, vocabulary, seed, peak):
    """Some model: log-probabilities of the next token, different for every sentence and prefix."""
    logits = peak * np.random.default_rng([seed, sentence, *prefix]).normal(size=vocabulary)
    logits[END] -= 1
    logits[0] = -40  # Padding: a sequence tells its length.
    return logits - np.log(np.exp(logits).sum())


def source_of_logits(vocabulary, seed, peak):
    """`next_logits` of that model; it checks that tokens and ancestors belong to the sequences."""
    history = {}

    def next_logits(cache, tokens, ancestors, sequences, step):
        tokens, ancestors, sequences, step = (np.array(x) for x in (tokens, ancestors, sequences, step))
        logits = np.zeros((*tokens.shape, vocabulary))
        for b, k in np.ndindex(*tokens.shape):
            if step and not sequences[b, :, step - 1].any():
                continue  # The sentence is done.
            prefix = tuple(sequences[b, k, :step])
            assert tokens[b, k] == (prefix[-1] if step else 0)
            history[b, k, int(step)] = prefix
            for t in range(step + 1):
                assert history[b, ancestors[b, k, t], t] == prefix[:t]
            # A shift that a softmax does not see.
            logits[b, k] = log_probs_of(b, prefix, vocabulary, seed, peak) + k
        return ops.convert_to_tensor(logits.astype("float32")), cache

    return next_logits


def plain_beam_search(sentence, limit, vocabulary, beam_size, alpha, stop_early, seed, peak):
    """tensor2tensor's rules with lists of (score, log P, sequence)."""

    def penalty(length):
        return ((5 + length) / 6) ** alpha

    alive, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        grown = [
            (log_prob + step_log_prob, (*prefix, token))
            for log_prob, prefix in alive
            for token, step_log_prob in enumerate(log_probs_of(sentence, prefix, vocabulary, seed, peak))
        ]
        grown = sorted(grown, reverse=True)[: 2 * beam_size]
        ended = [(log_prob / penalty(length), prefix) for log_prob, prefix in grown if prefix[-1] == END]
        finished = sorted(finished + ended, reverse=True)[:beam_size]
        alive = [entry for entry in grown if entry[1][-1] != END][:beam_size]
        if stop_early:
            bound = finished[0][0] if finished else -np.inf
        else:
            bound = finished[-1][0] if len(finished) == beam_size else -np.inf
        if bound > alive[0][0] / penalty(limit):
            break
    return (finished, True, length) if finished else (alive, False, length)


CASES = [
    # vocabulary, limits, beams, alpha, stop_early, peak
    (7, (6, 9, 3), 4, 0.6, True, 1.0),
    (7, (6, 9, 3), 4, 0.6, False, 1.0),
    (7, (8, 8, 8), 4, 0.0, True, 1.0),
    (7, (8, 5, 8), 3, 1.5, True, 2.0),
    (7, (8, 5, 8), 3, 1.5, False, 2.0),
    (30, (7, 5), 4, 0.6, True, 3.0),
    (6, (9, 7), 1, 0.6, True, 2.0),
    (3, (5, 6), 4, 1.0, False, 1.0),
]


def run(case, seed):
    vocabulary, limits, beams, alpha, stop_early, peak = case
    next_logits = source_of_logits(vocabulary, seed, peak)
    limits = ops.convert_to_tensor(np.array(limits, "int32"))
    found = beam_search(next_logits, (), limits, int(max(case[1])), beams, alpha, stop_early=stop_early)
    return [ops.convert_to_numpy(x) for x in found]


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", CASES)
# The second random model of each case moved to `make test-all`.
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_equals_a_beam_search_in_plain_python(case, seed):
    vocabulary, limits, beams, alpha, stop_early, peak = case
    sequences, scores, ended = run(case, seed)
    for sentence, limit in enumerate(limits):
        expected, any_ended, _ = plain_beam_search(sentence, limit, vocabulary, beams, alpha, stop_early, seed, peak)
        for place, (score, sequence) in enumerate(expected):
            assert tuple(sequences[sentence, place, : len(sequence)]) == sequence
            assert not sequences[sentence, place, len(sequence) :].any()
            assert scores[sentence, place] == pytest.approx(score, rel=1e-4, abs=1e-4)
            assert ended[sentence, place] == any_ended
        assert not ended[sentence, len(expected) if any_ended else 0 :].any()


@pytest.mark.tensorflow
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_everything_finds_the_best_of_all_sequences(alpha):
    vocabulary, limit, seed = 4, 4, 3
    best = max(
        (
            sum(log_probs_of(0, sequence[:t], vocabulary, seed, 1.0)[sequence[t]] for t in range(len(sequence)))
            / ((5 + len(sequence)) / 6) ** alpha,
            sequence,
        )
        for length in range(1, limit + 1)
        for sequence in itertools.product(range(vocabulary), repeat=length)
        if sequence[-1] == END and END not in sequence[:-1]
    )
    sequences, scores, _ = run((vocabulary, (limit,), 64, alpha, True, 1.0), seed)
    assert tuple(sequences[0, 0, : len(best[1])]) == best[1]
    assert scores[0, 0] == pytest.approx(best[0], rel=1e-5)


@pytest.mark.tensorflow
def test_alpha_prefers_longer_outputs():
    lengths = []
    for alpha in (0.0, 1.0, 3.0):
        ends = []
        for seed in range(3):
            sequences, _, ended = run((9, (9,), 4, alpha, True, 1.0), seed)
            ends.append(list(sequences[0, 0]).index(END) if ended[0, 0] else 9)
        lengths.append(np.mean(ends))
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.tensorflow
def test_search_stops_as_soon_as_the_rules_allow():
    steps = []
    next_logits = source_of_logits(7, 0, 2.0)

    def counted(cache, tokens, ancestors, sequences, step):
        steps.append(int(step))
        return next_logits(cache, tokens, ancestors, sequences, step)

    limit, numbers = 25, []
    for stop_early in (True, False):
        steps.clear()
        limits = ops.convert_to_tensor([limit], "int32")
        beam_search(counted, (), limits, limit, 3, 0.6, stop_early=stop_early)
        assert steps == list(range(plain_beam_search(0, limit, 7, 3, 0.6, stop_early, 0, 2.0)[2]))
        numbers.append(len(steps))
    assert numbers[0] < numbers[1] < limit


@pytest.mark.tensorflow
def test_greedy_takes_the_most_probable_token_until_the_end_or_the_limit():
    limits, vocabulary, seed = (6, 9, 2), 4, 2
    found = greedy_search(
        source_of_logits(vocabulary, seed, 1.0), (), ops.convert_to_tensor(np.array(limits, "int32")), 9
    )
    sequences, scores, ended = (ops.convert_to_numpy(x) for x in found)
    for sentence, limit in enumerate(limits):
        prefix, total = (), 0.0
        while len(prefix) < limit and END not in prefix:
            log_probs = log_probs_of(sentence, prefix, vocabulary, seed, 1.0)
            prefix, total = (*prefix, int(log_probs.argmax())), total + log_probs.max()
        assert tuple(sequences[sentence, 0]) == prefix + (0,) * (9 - len(prefix))
        assert scores[sentence, 0] == pytest.approx(total, rel=1e-4)
        assert ended[sentence, 0] == (END in prefix)
    assert ended.any() and not ended.all()
