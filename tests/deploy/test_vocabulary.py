"""`shrink_vocabulary`: rows of zeros go, live words keep their rows and order, and predictions stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.deploy import shrink_vocabulary

WORDS, SIZE = 12, 3
DEAD = [1, 4, 5, 11]


def array(tensor):
    return ops.convert_to_numpy(tensor)


def table(dead=DEAD, seed=0):
    rows = np.random.default_rng(seed).normal(size=(WORDS, SIZE)).astype("float32")
    rows[dead] = 0
    return rows


def network(dead=DEAD, mask_zero=False, **arguments):
    words = keras.Input((5,), dtype="int32", name="words")
    x = layers.Embedding(WORDS, SIZE, weights=[table(dead)], mask_zero=mask_zero, name="embedding", **arguments)(words)
    return keras.Model(words, layers.Dense(2)(layers.LSTM(4)(x)))


def ids(count=40):
    return np.random.default_rng(1).integers(0, WORDS, (count, 5))


@pytest.mark.parametrize("mask_zero", [False, True])
def test_dead_words_share_one_id_and_live_words_keep_rows_and_order(mask_zero, tmp_path):
    model = network([0, *DEAD], mask_zero)
    small, new_ids = shrink_vocabulary(model)
    # Padding is no word: with a mask, row 0 stays, and is not the row of the dead words.
    live = [0, 2, 3, 6, 7, 8, 9, 10] if mask_zero else [2, 3, 6, 7, 8, 9, 10]
    assert [int(new_ids[word]) for word in live] == list(range(len(live)))
    assert {int(new_ids[word]) for word in range(WORDS) if word not in live} == {len(live)}
    embedding = small.get_layer("embedding")
    assert embedding.input_dim == len(live) + 1 and new_ids.dtype == np.int32
    np.testing.assert_array_equal(array(embedding.embeddings)[:-1], table([0, *DEAD])[live])
    assert (array(embedding.embeddings)[-1] == 0).all()
    np.testing.assert_allclose(array(small(new_ids[ids()])), array(model(ids())), atol=1e-6)
    assert small.shrink_report.parameters == (model.count_params(), small.count_params())
    assert f"{len(live) + 1} of 12 rows left" in str(small.shrink_report)
    assert [(row.layer, row.before, row.after) for row in small.shrink_report] == [("embedding", SIZE, SIZE)]
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(array(loaded(new_ids[ids()])), array(small(new_ids[ids()])))


def test_ids_may_be_floats_as_of_an_input_without_a_dtype():
    words = keras.Input((5,))
    x = layers.Embedding(WORDS, SIZE, weights=[table([0, *DEAD])], mask_zero=True)(words)
    model = keras.Model(words, layers.LSTM(4)(x))
    small, new_ids = shrink_vocabulary(model)
    np.testing.assert_allclose(array(small(new_ids[ids()])), array(model(ids())), atol=1e-6)


@pytest.mark.parametrize("change", [lambda one: one.quantize("int8"), lambda one: one.enable_lora(2)])
def test_an_embedding_that_is_quantized_or_adapted_is_refused(change):
    model = network()
    change(model.get_layer("embedding"))
    with pytest.raises(ValueError, match="`model` must hold its embedding 'embedding' as plain numbers.*Received: "):
        shrink_vocabulary(model)


@pytest.mark.parametrize("dead", [[], [7]])
def test_nothing_to_gain_changes_nothing(dead):
    model = network(dead)
    small, new_ids = shrink_vocabulary(model)
    assert small.get_layer("embedding").input_dim == WORDS
    np.testing.assert_allclose(array(small(new_ids[ids()])), array(model(ids())), atol=1e-6)


def test_a_word_of_nan_is_not_dead():
    model = network()
    broken = table()
    broken[1] = np.nan
    model.get_layer("embedding").embeddings.assign(broken)
    small, new_ids = shrink_vocabulary(model)
    assert np.isnan(array(small.get_layer("embedding").embeddings)[new_ids[1]]).all()


def test_a_sparse_model_is_made_dense_and_left_as_it_is():
    model = sparsity_tf.sparsify(network([]), "gvd", log_sigma2_initializer=-20.0)
    embedding = model.get_layer("embedding")
    embedding.word_log_sigma2.assign([[20.0] if word in DEAD else [-6.0] for word in range(WORDS)])
    small, new_ids = shrink_vocabulary(sparsity_tf.shrink(model))
    assert type(small.get_layer("embedding")) is layers.Embedding
    assert small.get_layer("embedding").input_dim == WORDS - len(DEAD) + 1
    assert embedding.input_dim == WORDS and len(sparsity_tf.get_sparse_weights(model)) == 4
    np.testing.assert_allclose(array(small(new_ids[ids()])), array(model(ids())), atol=1e-6)


def test_columns_that_nothing_reads_are_removed_first():
    """Word 2 lives only in a column that the LSTM does not read: after `shrink` it is dead."""
    model = network()
    rows = table()
    rows[2] = [0, 0, 1]
    model.get_layer("embedding").embeddings.assign(rows)
    kernel = array(model.layers[2].cell.kernel).copy()
    kernel[2] = 0
    model.layers[2].cell.kernel.assign(kernel)
    before, _ = shrink_vocabulary(model)
    after, new_ids = shrink_vocabulary(sparsity_tf.shrink(model))
    sizes = [net.get_layer("embedding").input_dim for net in (before, after)]
    assert sizes == [9, 8]
    np.testing.assert_allclose(array(after(new_ids[ids()])), array(model(ids())), atol=1e-6)


def two_tables():
    one, two = keras.Input((5,), dtype="int32", name="one"), keras.Input((5,), dtype="int32", name="two")
    x = layers.Embedding(WORDS, SIZE, weights=[table()], name="first")(one)
    y = layers.Embedding(WORDS, SIZE, weights=[table([2])], name="second")(two)
    return keras.Model([one, two], layers.Dense(2)(layers.Flatten()(layers.Add()([x, y]))))


def test_of_several_tables_one_is_named():
    model = two_tables()
    small, new_ids = shrink_vocabulary(model, "first")
    assert small.get_layer("first").input_dim == 9 and small.get_layer("second").input_dim == WORDS
    found = small([new_ids[ids()], ids()[::-1]])
    np.testing.assert_allclose(array(found), array(model([ids(), ids()[::-1]])), atol=1e-6)


def tells_ids_apart():
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(WORDS, SIZE, weights=[table()], name="embedding")(words)
    return keras.Model(words, layers.Flatten()(x) * ops.cast(ops.max(words, axis=1, keepdims=True), "float32"))


@pytest.mark.parametrize(
    "model,layer,message",
    [
        (two_tables, None, "`layer` must name one `Embedding` that reads an input.*Found: first, second"),
        (network, "lstm", "Found: embedding. Received: layer='lstm'"),
        (network, 3, "`layer` must be a string"),
        (tells_ids_apart, None, "`model` must give the ids .* to no other layer"),
        (lambda: "model", None, "`model` must be a Keras model"),
    ],
)
def test_what_cannot_be_shrunk_is_refused(model, layer, message):
    with pytest.raises(ValueError, match=message):
        shrink_vocabulary(model(), layer)
