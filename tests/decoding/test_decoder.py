"""Decoding with a model: the cache changes nothing, nor do batches, techniques, files or padding."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf.decoding import Decoder, network
from tests.layers.layer_checks import make_half_sparse
from tests.models.transformers import random_ids, small_transformer

pytestmark = pytest.mark.compiled
SOURCES = random_ids((7, 3, 5), 2, seed=4)["inputs"]
EXTRA = 4


@functools.cache
def model():
    return small_transformer(seed=5, spread=0.6)


@functools.cache
def decoder(cached=True):
    return Decoder(model(), cached=cached)


SEARCHES = {
    "beam of 4": functools.partial(Decoder.beam_search, beam_size=4, num_results=4, extra_length=EXTRA),
    "beam of 1": functools.partial(Decoder.beam_search, beam_size=1, extra_length=EXTRA),
    "greedy": functools.partial(Decoder.greedy, extra_length=EXTRA),
}


@functools.cache
def found_by(search):
    return SEARCHES[search](decoder(), SOURCES)


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.sequences, expected.sequences)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.finished, expected.finished)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_cache_changes_nothing(search):
    assert_equal(SEARCHES[search](decoder(cached=False), SOURCES), found_by(search))


@pytest.mark.parametrize("search", ["beam of 4", "greedy"])
def test_a_sentence_by_itself_is_translated_as_in_a_batch(search):
    batch = found_by(search)
    for row in range(len(SOURCES)):
        alone = SEARCHES[search](decoder(), SOURCES[row : row + 1])
        assert_equal(alone, type(alone)(*(x[row : row + 1] for x in batch)))


@pytest.mark.xla
def test_padding_of_sources_changes_nothing():
    wide = SEARCHES["greedy"](decoder(), np.pad(SOURCES, [(0, 0), (0, 4)]))
    expected = found_by("greedy")
    np.testing.assert_array_equal(wide.sequences[:, :, : SOURCES.shape[1] + EXTRA], expected.sequences)
    assert not wide.sequences[:, :, SOURCES.shape[1] + EXTRA :].any()


def test_outputs_are_no_longer_than_their_sources_and_the_extra_length():
    sequences = found_by("greedy").sequences[:, 0]
    for source, sequence in zip(SOURCES, sequences, strict=True):
        assert np.count_nonzero(np.cumsum(sequence[::-1])) <= np.count_nonzero(source) + EXTRA


def step_by_step(weights, heads, inputs, targets):
    """Logits of given targets, a position at a time, from the cache; two beams, whose places change all the time."""
    batch, length = targets.shape
    source, cache = network.start_cache(weights, ops.convert_to_tensor(inputs), heads, 2, length)
    rng = np.random.default_rng(0)
    logits, place = np.zeros((batch, length, weights["embedding"].shape[0])), np.zeros((batch, length), int)
    for step in range(length):
        place[:, step] = rng.integers(0, 2, batch)
        # The other place holds another sentence.
        tokens = np.full((batch, 2), 7)
        ancestors = np.broadcast_to(1 - place[:, None], (batch, 2, length)).copy()
        for b in range(batch):
            tokens[b, place[b, step]] = targets[b, step - 1] if step else 0
            ancestors[b, place[b, step]] = place[b]
        tokens, ancestors = (ops.convert_to_tensor(x.astype("int32")) for x in (tokens, ancestors))
        step_logits, cache = network.next_logits(weights, source, cache, tokens, ancestors, step, heads)
        logits[:, step] = ops.convert_to_numpy(step_logits)[np.arange(batch), place[:, step]]
    return logits


@pytest.mark.parametrize(
    "technique", [None, "masked", "vd", *(pytest.param(one, marks=pytest.mark.slow) for one in ("l0", "str", "dnw"))]
)
def test_cached_logits_are_those_of_the_model_whatever_its_technique(technique, tmp_path):
    # Where the cache of a layer lies among others does not depend on the technique: two techniques have two layers.
    layers = 2 if technique in (None, "masked") else 1
    arguments = {"num_layers": layers, "split_heads": technique == "masked", "packed": technique == "l0"}
    made = small_transformer(technique=technique, **arguments)
    for layer in made.layers:
        if isinstance(layer, sparsity_tf.layers.SparseLayer):
            make_half_sparse(layer)
    path = str(tmp_path / "model.keras")
    made.save(path)
    loaded = keras.saving.load_model(path)
    ids = random_ids((7, 4), 5)
    features = Decoder(made, cached=False)._features(*(ops.convert_to_tensor(x) for x in ids.values()))
    expected = ops.convert_to_numpy(made(features))
    assert expected.std() > 0.3
    weights, heads = network.inference_weights(loaded), network.num_heads(loaded)
    logits = step_by_step(weights, heads, ids["inputs"], ids["targets"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_weights_are_read_once_when_the_decoder_is_made():
    changed = small_transformer(seed=5, spread=0.6)
    changed.set_weights(model().get_weights())
    made = Decoder(changed)
    for variable in changed.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    assert_equal(SEARCHES["greedy"](made, SOURCES[:1]), SEARCHES["greedy"](decoder(), SOURCES[:1]))


def test_logits_of_a_bfloat16_model_are_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    made = small_transformer(spread=0.2)
    ids = random_ids((7, 4), 5)
    weights = network.inference_weights(made)
    assert keras.backend.standardize_dtype(weights["embedding"].dtype) == "bfloat16"
    logits = step_by_step(weights, network.num_heads(made), ids["inputs"], ids["targets"])
    expected = ops.convert_to_numpy(made(ids))
    np.testing.assert_allclose(logits, expected, atol=0.1 * expected.std())


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        (np.zeros((0, 3), int), {}, r"`inputs` must be integers.*\(0, 3\)"),
        (np.ones((2, 3)), {}, "`inputs` must be integers.*float64"),
        ([[2, 19, 1]], {}, "ids below the model's vocabulary size, 19.*19"),
        ([[2, 1]], {"beam_size": 0}, "`beam_size` must be an integer of at least 1.*0"),
        ([[2, 1]], {"num_results": 5}, "`num_results` must be an integer of at least 1 and at most 4.*5"),
        ([[2, 1]], {"alpha": -1}, "`alpha` must be a finite number at least 0.*-1"),
        ([[2, 1]], {"extra_length": -1}, "`extra_length` must be an integer of at least 0.*-1"),
    ],
)
def test_bad_arguments(inputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        decoder().beam_search(inputs, **arguments)


def test_other_models_are_refused():
    inputs = keras.Input((3,))
    other = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs), name="other")
    with pytest.raises(
        ValueError, match="must be a model that `sparsity_tf.models.Transformer` built.*'other'.*logits"
    ):
        Decoder(other)
