"""FastGRNN: its equations, low rank, and rank that is learned."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import inspection, layers

STEPS, FEATURES, UNITS = 4, 3, 5


def example(batch=2):
    return np.random.default_rng(0).normal(size=(batch, STEPS, FEATURES)).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(cell, inputs):
    """The equations of the paper in float64."""
    w, u = cell.matrix("kernel").astype("float64"), cell.matrix("recurrent").astype("float64")
    b_gate, b_update = array(cell.gate_bias), array(cell.update_bias)
    zeta, nu = sigmoid(float(cell.zeta)), sigmoid(float(cell.nu))
    h = np.zeros((len(inputs), UNITS))
    for x in np.moveaxis(inputs, 1, 0):
        a = x @ w + h @ u
        z, c = sigmoid(a + b_gate), np.tanh(a + b_update)
        h = z * h + (zeta * (1 - z) + nu) * c
    return h


@pytest.mark.parametrize("ranks", [{}, {"input_rank": 2, "recurrent_rank": 3}, {"recurrent_rank": 1}, {"gains": True}])
def test_layer_follows_the_equations_of_the_paper(ranks):
    layer = layers.FastGRNN(UNITS, kernel_initializer="glorot_uniform", **ranks)
    outputs = array(layer(example()))
    np.testing.assert_allclose(outputs, by_hand(layer.cell, example()), rtol=1e-5, atol=1e-6)
    # The cell in Keras's own loop does the same.
    stepwise = keras.layers.RNN(layer.cell)(example())
    np.testing.assert_allclose(array(stepwise), outputs, rtol=1e-5, atol=1e-6)


def test_golden_values_of_one_unit():
    cell = layers.FastGRNNCell(1, kernel_initializer="ones")
    output, _ = cell(np.array([[0.5]], "float32"), [np.array([[0.2]], "float32")])
    # a = 0.7, z = sigmoid(1.7), c = tanh(1.7): z 0.2 + (sigmoid(1) (1 - z) + sigmoid(-4)) c.
    z, c = sigmoid(1.7), np.tanh(1.7)
    assert float(output[0, 0]) == pytest.approx(0.2 * z + (0.7310586 * (1 - z) + 0.0179862) * c, rel=1e-6)


def test_initial_values_are_those_of_the_authors():
    cell = layers.FastGRNNCell(100, input_rank=9, recurrent_rank=24)
    cell.build((None, 32))
    assert {v.name: tuple(v.shape) for v in cell.variables} == {
        "kernel_left": (32, 9),
        "kernel_right": (9, 100),
        "recurrent_left": (100, 24),
        "recurrent_right": (24, 100),
        "gate_bias": (100,),
        "update_bias": (100,),
        "zeta": (),
        "nu": (),
    }
    assert float(cell.zeta) == 1.0 and float(cell.nu) == -4.0
    assert (array(cell.gate_bias) == 1).all() and (array(cell.update_bias) == 1).all()
    assert np.std(array(cell.recurrent_left)) == pytest.approx(0.1, rel=0.1)
    assert np.abs(array(cell.recurrent_left).T - array(cell.recurrent_right)).max() > 0.1
    assert cell.ranks() == (9, 24)


def thresholded():
    """A layer with full rank (3, 5) of which (2, 3) is left."""
    layer = layers.STRFastGRNN(UNITS, kernel_initializer="glorot_uniform")
    layer(example())
    layer.cell.kernel_gain.assign([1.0, 0.1, -0.7])
    layer.cell.recurrent_gain.assign([0.4, 0.05, -1.0, 0.2, 0.9])
    layer.cell.raw_threshold.assign(np.log(0.25 / 0.75))
    layer.cell.recurrent_gain_raw_threshold.assign(np.log(0.25 / 0.75))
    return layer


def test_soft_thresholds_learn_the_rank():
    layer = thresholded()
    kernel, recurrent = layers.get_sparse_weights(layer)
    np.testing.assert_allclose(array(kernel.value()), [0.75, 0.0, -0.45], atol=1e-6)
    assert [kernel.count(), recurrent.count()] == [2, 3]
    assert layer.ranks() == (2, 3)
    np.testing.assert_allclose(array(layer(example())), by_hand(layer.cell, example()), rtol=1e-5, atol=1e-6)
    assert inspection.sparsity_table(layer).nonzeros == 5


def test_folding_gives_the_same_function_with_the_rank_that_is_left():
    layer = thresholded()
    folded = layers.fold_rank(layer)
    assert type(folded) is layers.FastGRNN
    assert tuple(folded.cell.kernel_left.shape) == (FEATURES, 2)
    assert tuple(folded.cell.recurrent_right.shape) == (3, UNITS)
    np.testing.assert_allclose(array(folded(example())), array(layer(example())), rtol=1e-5, atol=1e-6)
    layer.cell.raw_threshold.assign(30.0)
    assert layer.ranks()[0] == 0
    np.testing.assert_allclose(array(layers.fold_rank(layer)(example())), array(layer(example())), atol=1e-6)
    with pytest.raises(ValueError, match="`layer` must be a built FastGRNN"):
        layers.fold_rank(keras.layers.LSTM(3))


def test_full_matrices_have_the_lesser_of_their_sizes_for_a_rank():
    layer = layers.FastGRNN(UNITS)
    layer(example())
    assert layer.ranks() == (FEATURES, UNITS)
    narrow = layers.FastGRNN(2)
    narrow(example())
    assert narrow.ranks() == (2, 2)


@pytest.mark.parametrize("ranks", [{"input_rank": 2}, {"input_rank": 1, "recurrent_rank": 3}, {"recurrent_rank": 4}])
def test_folding_a_layer_without_gains_copies_it(ranks):
    layer = layers.FastGRNN(UNITS, kernel_initializer="glorot_uniform", **ranks)
    layer(example())
    folded = layers.fold_rank(layer)
    assert folded.get_config() == layer.get_config()
    np.testing.assert_array_equal(array(folded(example())), array(layer(example())))


def test_only_a_built_fast_grnn_is_folded():
    built_lstm = keras.layers.LSTM(3)
    built_lstm.build((None, STEPS, FEATURES))
    for layer in (built_lstm, layers.FastGRNN(UNITS, input_rank=2)):
        with pytest.raises(ValueError, match="`layer` must be a built FastGRNN. Received: layer=<"):
            layers.fold_rank(layer)


@pytest.mark.compiled
def test_decay_of_the_threshold_lowers_the_rank_in_training():
    layer = layers.STRFastGRNN(UNITS, threshold_initializer=-3.0, threshold_regularizer=keras.regularizers.L2(0.05))
    model = keras.Sequential([keras.Input((None, FEATURES)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    before = float(layer.cell.raw_threshold)
    model.fit(example(8), np.ones((8, 1)), epochs=40, verbose=0)
    assert float(layer.cell.raw_threshold) > before + 1


def test_models_are_saved_made_sparse_and_made_dense(tmp_path):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.FastGRNN(UNITS, gains=True, name="memory")])
    before = array(model(example()))
    sparsity_tf.sparsify(model, "str", threshold_initializer=-100.0)
    assert type(model.layers[0]) is layers.STRFastGRNN
    np.testing.assert_allclose(array(model(example())), before, rtol=1e-6)
    model.layers[0].cell.raw_threshold.assign(0.0)
    model.layers[0].cell.kernel_gain.assign([0.6, 0.4, 1.0])
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(array(loaded(example())), array(model(example())))
    assert loaded.layers[0].ranks() == (2, 5)
    dense = sparsity_tf.to_dense(loaded)
    assert type(dense.layers[0]) is layers.FastGRNN
    np.testing.assert_allclose(array(dense(example())), array(loaded(example())), atol=1e-6)
    assert dense.layers[0].ranks() == (2, 5)


def test_every_matrix_has_its_penalty():
    layer = layers.FastGRNN(4, gains=True, gain_regularizer=keras.regularizers.L1(1.0), kernel_regularizer="l1")
    layer.build((None, 5, 3))
    matrices = [v for v in layer.cell.trainable_variables if len(v.shape) == 2]
    expected = 3 + 4 + 0.01 * sum(np.abs(array(v)).sum() for v in matrices)
    assert len(matrices) == 4 and float(array(sum(layer.losses))) == pytest.approx(expected, rel=1e-5)


def test_without_gains_there_is_nothing_to_make_sparse():
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.FastGRNN(UNITS), keras.layers.Dense(2)])
    sparsity_tf.sparsify(model, "str")
    assert type(model.layers[0]) is layers.FastGRNN
    assert "can be made sparse only with gains=True" in str(model.sparsify_report)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision_policies(policy):
    if policy == "float64" and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras promotes float64 to float32 but on TensorFlow")
    layer = layers.STRFastGRNN(UNITS, dtype=policy, return_sequences=True)
    outputs = layer(example(), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    assert np.isfinite(array(ops.cast(outputs, "float32"))).all()


@pytest.mark.compiled
@pytest.mark.not_on_torch("XLA compiles for TensorFlow and JAX only")
def test_compiled_by_xla_with_any_batch_size():
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.STRFastGRNN(UNITS, recurrent_rank=2)])
    model.compile("sgd", "mse", jit_compile=True)
    for batch in (1, 3):
        np.testing.assert_allclose(
            model.predict(example(batch), verbose=0), array(model(example(batch))), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("cls", [layers.FastGRNN, layers.FastGRNNCell, layers.STRFastGRNN, layers.STRFastGRNNCell])
def test_config_round_trip(cls):
    options = {"gains": True, "gain_regularizer": "l2", "kernel_regularizer": keras.regularizers.L1(0.5)}
    layer = cls(UNITS, input_rank=2, nu_initializer=-3.0, name="memory", **options)
    assert cls.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"units": 0}, "`units` must be an integer of at least 1. Received: units=0"),
        ({"units": 3, "input_rank": 1.5}, "`input_rank` must be an integer of at least 1. Received: input_rank=1.5"),
        ({"units": 5, "recurrent_rank": 6}, "`recurrent_rank` must be at most 5"),
        ({"units": 3, "gain_regularizer": "l2"}, "`gain_regularizer` needs gains=True"),
        ({"units": 3, "kernel_regularizer": 3}, "`kernel_regularizer`"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.FastGRNN(**arguments).build((None, None, FEATURES))


def test_a_sparse_layer_needs_gains():
    with pytest.raises(ValueError, match="`gains` must be True.*gains=False"):
        layers.STRFastGRNN(3, gains=False)
