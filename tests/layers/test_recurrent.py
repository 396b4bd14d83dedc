"""Recurrent layers: the published equations, one draw a sequence, one penalty a call, and Keras's own results."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import inspection, layers
from sparsity_tf.ops import noise
from tests.layers.layer_checks import make_half_sparse, weight_holder

KINDS = ("SimpleRNN", "LSTM", "GRU")
PREFIXES = ("Masked", "VD", "L0", "STR", "DNW")
NOISY = ("VD", "L0")
BATCH, STEPS, FEATURES, UNITS = 4, 5, 3, 6


def make(prefix, kind, features=FEATURES, **options):
    """A built layer that returns sequences."""
    layer = getattr(layers, prefix + kind)(UNITS, return_sequences=True, **options)
    layer.build((None, None, features))
    return layer


def example(seed=0, batch=BATCH):
    return np.random.default_rng(seed).normal(size=(batch, STEPS, FEATURES)).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(tensor)


def stock(kind, layer=None, **options):
    """The stock layer with the variables of a sparse one."""
    plain = getattr(keras.layers, kind)(UNITS, return_sequences=True, **options)
    plain.build((None, None, FEATURES))
    if layer is not None:
        for name in ("kernel", "recurrent_kernel", "bias"):
            getattr(plain.cell, name).assign(getattr(layer.cell, name))
    return plain


def silent_options(prefix):
    """Options under which training has no noise to speak of: those of the published tests."""
    if prefix == "VD":
        return {"log_sigma2_initializer": -1e7, "clip_log_alpha": None}
    return {"log_alpha_initializer": 1e5}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", NOISY)
def test_without_noise_the_layer_is_the_stock_one(prefix, kind, training):
    layer = make(prefix, kind, **silent_options(prefix), bias_initializer="ones", kernel_initializer="ones")
    inputs = np.full((BATCH, STEPS, FEATURES), 0.1, "float32")
    # sqrt(1e-8), which the variance never falls below, is noise of 1e-4.
    tolerance = 2e-3 if prefix == "VD" else 1e-6
    expected = stock(kind, layer)(inputs)
    np.testing.assert_allclose(array(layer(inputs, training=training)), array(expected), atol=tolerance)


@pytest.mark.parametrize("prefix", NOISY)
def test_all_steps_of_a_sequence_see_the_same_noise(prefix):
    layer = make(prefix, "SimpleRNN", seed=1)
    layer.cell.recurrent_kernel.assign(np.zeros(layer.cell.recurrent_kernel.shape))
    if prefix == "VD":
        layer.cell.log_sigma2.assign(np.full(layer.cell.kernel.shape, 1.0))
        layer.cell.recurrent_kernel_log_sigma2.assign(np.full(layer.cell.recurrent_kernel.shape, -60.0))
    else:
        layer.cell.log_alpha.assign(np.zeros(layer.cell.kernel.shape))
    constant = np.ones((BATCH, STEPS, FEATURES), "float32")
    with_noise = array(layer(constant, training=True))
    assert np.abs(with_noise - array(layer(constant))).max() > 1e-2
    # Nothing comes back from the step before, save sqrt(1e-8) of noise on zero weights.
    np.testing.assert_allclose(with_noise, np.repeat(with_noise[:, :1], STEPS, axis=1), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", NOISY)
def test_calls_differ_in_training_and_agree_at_inference(prefix, kind):
    layer = make(prefix, kind)
    make_half_sparse(layer)
    if prefix == "VD":
        for weight in layer.cell.sparse_weights:
            weight.extra_variable("log_sigma2").assign(np.zeros(weight.shape))
    inputs = example()
    assert np.abs(array(layer(inputs, training=True)) - array(layer(inputs, training=True))).max() > 1e-3
    np.testing.assert_array_equal(array(layer(inputs)), array(layer(inputs)))


def test_variational_noise_of_inputs_is_a_rows_own_and_that_of_recurrent_weights_the_batchs():
    layer = make("VD", "SimpleRNN", clip_log_alpha=None, seed=3)
    layer.cell.log_sigma2.assign(np.full(layer.cell.kernel.shape, 0.0))
    layer.cell.recurrent_kernel_log_sigma2.assign(np.full(layer.cell.recurrent_kernel.shape, -60.0))
    same = np.repeat(example(batch=1), BATCH, axis=0)
    outputs = array(layer(same, training=True))
    assert np.abs(outputs[0] - outputs[1]).min() > 1e-6
    layer.cell.log_sigma2.assign(np.full(layer.cell.kernel.shape, -60.0))
    layer.cell.recurrent_kernel_log_sigma2.assign(np.full(layer.cell.recurrent_kernel.shape, 0.0))
    outputs = array(layer(same, initial_state=np.ones((BATCH, UNITS), "float32"), training=True))
    np.testing.assert_allclose(outputs, np.repeat(outputs[:1], BATCH, axis=0), atol=2e-3)
    assert np.abs(outputs - array(layer(same, initial_state=np.ones((BATCH, UNITS), "float32")))).max() > 1e-2


def fixed_noise(monkeypatch):
    """Replaces the noise by numbers that depend on the shape alone; returns the function that draws them."""

    def draw(shape):
        return np.random.default_rng(list(map(int, shape))).normal(size=tuple(map(int, shape))).astype("float32")

    monkeypatch.setattr(noise, "normal", lambda shape, generator, dtype="float32": ops.convert_to_tensor(draw(shape)))
    monkeypatch.setattr(
        noise,
        "add_normal",
        lambda mean, variance, generator, epsilon=0.0, shared_axes=(): (
            mean + ops.sqrt(variance + epsilon) * ops.convert_to_tensor(draw(mean.shape))
        ),
    )
    return draw


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def published_cell(kind, x, h, c, cell, draw):
    """Section 1.7 of the sheet (Gale et al. 2019), in float64; the GRU by the same rule. Gates in Keras's order."""
    theta, recurrent = array(cell.kernel).astype("float64"), array(cell.recurrent_kernel).astype("float64")
    variance = np.exp(array(cell.log_sigma2).astype("float64"))
    recurrent_variance = np.exp(array(cell.recurrent_kernel_log_sigma2).astype("float64"))
    gates = theta.shape[1]
    projected = x @ theta + np.sqrt(x**2 @ variance + 1e-8) * draw((len(x), gates))
    sampled = recurrent + np.sqrt(recurrent_variance + 1e-8) * draw(recurrent.shape)
    bias = array(cell.bias).astype("float64")
    if kind == "GRU":
        a, b = projected + bias[0], h @ sampled + bias[1]
        z, r = sigmoid(a[:, :UNITS] + b[:, :UNITS]), sigmoid((a + b)[:, UNITS : 2 * UNITS])
        new = z * h + (1 - z) * np.tanh(a[:, 2 * UNITS :] + r * b[:, 2 * UNITS :])
        return new, c
    pre = projected + h @ sampled + bias
    if kind == "SimpleRNN":
        return np.tanh(pre), c
    i, f, j, o = np.split(pre, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(j)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("kind", KINDS)
def test_variational_dropout_follows_the_published_equations(kind, monkeypatch):
    draw = fixed_noise(monkeypatch)
    layer = make("VD", kind, clip_log_alpha=None, bias_initializer="glorot_uniform" if kind == "GRU" else "ones")
    rng = np.random.default_rng(5)
    for weight in layer.cell.sparse_weights:
        weight.extra_variable("log_sigma2").assign(rng.uniform(-3, 1, weight.shape))
    inputs = example()
    outputs = array(layer(inputs, training=True))
    h = c = np.zeros((BATCH, UNITS))
    for step in range(STEPS):
        h, c = published_cell(kind, inputs[:, step].astype("float64"), h, c, layer.cell, draw)
        np.testing.assert_allclose(outputs[:, step], h, rtol=1e-4, atol=1e-5)


def test_gru_that_resets_before_the_product_follows_its_equations_in_training():
    layer = make("VD", "GRU", reset_after=False, **silent_options("VD"))
    expected = stock("GRU", layer, reset_after=False)(example())
    np.testing.assert_allclose(array(layer(example(), training=True)), array(expected), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", NOISY)
def test_the_penalty_counts_both_weights_and_is_added_once_a_call(prefix, kind):
    layer = make(prefix, kind, penalty_weight=0.5)
    layer(example(), training=True)
    assert len(layer.losses) == 1
    expected = sum(float(layer.technique.penalty(weight)) for weight in layer.cell.sparse_weights)
    assert float(layer.losses[0]) == pytest.approx(0.5 * expected, rel=1e-6)
    layer(example())
    assert layer.losses == []
    assert layers.get_penalty_weights(layer) == [layer.cell.penalty_weight]


@pytest.mark.parametrize("prefix", ["VD", pytest.param("L0", marks=pytest.mark.slow)])
def test_cells_draw_once_a_sequence_in_any_keras_rnn(prefix):
    cells = [getattr(layers, f"{prefix}{kind}Cell")(UNITS, penalty_weight=1.0) for kind in ("LSTM", "GRU")]
    rnn = keras.layers.RNN(cells, return_sequences=True)
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), rnn])
    counters = [cell.seed_generator.state for cell in cells]
    before = [array(state)[1] for state in counters]
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(example(), np.zeros((BATCH, STEPS, UNITS)))
    # Two draws each: one for the kernel, one for the recurrent kernel (and as many where Keras looks at shapes).
    used = [array(state)[1] - start for state, start in zip(counters, before, strict=True)]
    assert all(2 <= count <= 4 for count in used)
    model(example(), training=True)
    assert len(model.losses) == 2
    assert all(cell.prepared is None for cell in cells)


def test_a_cell_by_itself_takes_one_step():
    cell = layers.L0GRUCell(UNITS, penalty_weight=1.0)
    inputs, state = example()[:, 0], np.zeros((BATCH, UNITS), "float32")
    first, _ = cell(inputs, [state], training=True)
    second, _ = cell(inputs, [state], training=True)
    assert np.abs(array(first) - array(second)).max() > 1e-4
    assert len(cell.losses) == 1
    assert cell.prepared is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_weights_that_are_zero_change_nothing_but_the_weights(prefix, kind):
    layer = make(prefix, kind)
    make_half_sparse(layer)
    plain = stock(kind, layer)
    for weight in layer.cell.sparse_weights:
        getattr(plain.cell, weight.name).assign(weight.value())
        assert 0.2 < weight.sparsity() < 1
    np.testing.assert_allclose(array(layer(example())), array(plain(example())), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sparsify_keeps_predictions_to_the_bit_and_to_dense_gives_them_back(kind):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), getattr(keras.layers, kind)(UNITS, name="memory")])
    before = array(model(example()))
    sparsity_tf.sparsify(model, "masked")
    layer = model.layers[0]
    assert type(layer) is getattr(layers, f"Masked{kind}")
    assert type(layer.cell) is getattr(layers, f"Masked{kind}Cell")
    assert [entry.kind for entry in model.sparsify_report.changed] == [f"Masked{kind}"]
    weights = layers.get_sparse_weights(model)
    assert [weight.name for weight in weights] == ["kernel", "recurrent_kernel"]
    assert model.sparsify_report.changed[0].weights == sum(weight.size for weight in weights)
    np.testing.assert_array_equal(array(model(example())), before)
    make_half_sparse(model.layers[0])
    sparse = array(model(example()))
    dense = sparsity_tf.to_dense(model)
    assert type(dense.layers[0]) is getattr(keras.layers, kind)
    assert type(dense.layers[0].cell) is getattr(keras.layers, f"{kind}Cell")
    np.testing.assert_allclose(array(dense(example())), sparse, atol=1e-6)
    assert "sparsity_tf" not in dense.to_json()


@pytest.mark.parametrize("name", ["memory", ".*memory/.*", "lstm_cell"])
def test_where_selects_a_layer_by_its_own_name_or_its_cells(name):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), keras.layers.LSTM(UNITS, name="memory")])
    model.add(keras.layers.Dense(2, name="logits"))
    sparsity_tf.sparsify(model, "masked", where=name)
    assert type(model.layers[0]) is layers.MaskedLSTM
    assert type(model.layers[1]) is keras.layers.Dense
    model.compile("sgd", "mse")
    algorithm = sparsity_tf.callbacks.StaticSparsity(0.5, where=name)
    algorithm.prepare(model)
    assert {weight.layer for weight in algorithm.weights} == {model.layers[0].cell}
    algorithm.finish()


def test_stochastic_layers_made_by_sparsify_become_stock_layers_that_still_have_dropout():
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), keras.layers.GRU(UNITS, dropout=0.5)])
    sparsity_tf.sparsify(model, "vd", seed=7)
    assert array(model.layers[0].cell.seed_generator.state)[0] == 7
    dense = sparsity_tf.to_dense(model)
    assert np.isfinite(array(dense(example(), training=True))).all()
    assert len(model.layers[0].cell._seed_generators) == 1


@pytest.mark.parametrize(
    "wrap,number",
    [
        (lambda: keras.layers.Bidirectional(keras.layers.LSTM(UNITS)), 4),
        (lambda: keras.layers.RNN(keras.layers.LSTMCell(UNITS)), 2),
        (lambda: keras.layers.RNN([keras.layers.GRUCell(UNITS), keras.layers.SimpleRNNCell(UNITS)]), 4),
    ],
    ids=["bidirectional", "rnn", "stacked"],
)
def test_what_contains_recurrent_layers_is_made_sparse_saved_and_made_dense(wrap, number, tmp_path):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), wrap()])
    before = array(model(example()))
    sparsity_tf.sparsify(model, "masked")
    assert len(layers.get_sparse_weights(model)) == number
    np.testing.assert_array_equal(array(model(example())), before)
    for layer in layers.flatten_layers(model):
        if getattr(layer, "sparse_weights", ()):
            make_half_sparse(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(example())), array(model(example())))
    assert all(weight.sparsity() > 0.2 for weight in layers.get_sparse_weights(loaded))
    dense = sparsity_tf.to_dense(loaded)
    np.testing.assert_allclose(array(dense(example())), array(loaded(example())), atol=1e-6)
    assert "sparsity_tf" not in dense.to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_masked_weights_are_zero_after_every_step(kind):
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), getattr(layers, f"Masked{kind}")(UNITS)])
    make_half_sparse(model.layers[0])
    model.compile(keras.optimizers.Adam(0.1, weight_decay=0.01), "mse", jit_compile=False)
    for _ in range(3):
        model.train_on_batch(example(), np.ones((BATCH, UNITS)))
        for weight in layers.get_sparse_weights(model):
            assert (array(weight.variable)[~array(weight.mask())] == 0).all()
            assert (array(weight.variable)[array(weight.mask())] != 0).all()


def test_states_masks_and_direction_are_those_of_keras():
    layer = make("Masked", "LSTM", return_state=True, go_backwards=True)
    plain = stock("LSTM", layer, return_state=True, go_backwards=True)
    steps = np.arange(STEPS) < np.array([[2], [5], [1], [3]])
    for ours, theirs in zip(layer(example(), mask=steps), plain(example(), mask=steps), strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
    noisy = make("VD", "LSTM", return_state=True, **silent_options("VD"))
    plain = stock("LSTM", noisy, return_state=True)
    for ours, theirs in zip(noisy(example(), mask=steps, training=True), plain(example(), mask=steps), strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=2e-3)


def test_a_stateful_layer_keeps_its_state_and_becomes_dense():
    inputs = keras.Input(batch_shape=(BATCH, STEPS, FEATURES))
    model = keras.Model(inputs, layers.MaskedGRU(UNITS, stateful=True)(inputs))
    first, second = array(model(example())), array(model(example()))
    assert np.abs(first - second).max() > 1e-3
    dense = sparsity_tf.to_dense(model)
    np.testing.assert_allclose(array(dense(example())), first, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["Masked", "VD"])
def test_dropout_works_beside_the_technique(prefix, kind):
    layer = make(prefix, kind, dropout=0.5, recurrent_dropout=0.2, seed=2)
    first, second = array(layer(example(), training=True)), array(layer(example(), training=True))
    assert np.isfinite(first).all() and np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(array(layer(example())), array(layer(example())))


@pytest.mark.parametrize("cell_alone", [False, True])
def test_dropout_of_the_inputs_is_one_mask_for_all_steps_under_variational_dropout(cell_alone):
    options = {"activation": None, "use_bias": False, "kernel_initializer": "identity", "dropout": 0.5, "seed": 1}
    options |= {"recurrent_initializer": "zeros", **silent_options("VD")}
    if cell_alone:
        layer = keras.layers.RNN(layers.VDSimpleRNNCell(8, **options), return_sequences=True)
    else:
        layer = layers.VDSimpleRNN(8, return_sequences=True, **options)
    outputs = array(layer(np.ones((BATCH, STEPS, 8), "float32"), training=True))
    # An input is gone or doubled, up to the noise of sqrt(1e-8) on each of two kernels.
    np.testing.assert_allclose(outputs, outputs.round(), atol=2e-3)
    assert set(np.unique(outputs.round())) == {0, 2}
    np.testing.assert_array_equal(outputs.round(), np.repeat(outputs[:, :1].round(), STEPS, axis=1))
    assert len(np.unique(outputs[:, 0].round(), axis=0)) == BATCH


def test_a_variational_cell_by_itself_draws_noise_for_every_row():
    cell = layers.VDSimpleRNNCell(UNITS, log_sigma2_initializer=0.0, clip_log_alpha=None)
    same = np.repeat(example(batch=1)[:, 0], BATCH, axis=0)
    output, _ = cell(same, [np.zeros((BATCH, UNITS), "float32")], training=True)
    assert array(output).shape == (BATCH, UNITS)
    assert len(np.unique(array(output))) == BATCH * UNITS


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_fused_path_of_keras_gets_the_effective_kernels(kind, monkeypatch):
    from keras.src import backend

    seen = {}

    def fused(*args, kernel, recurrent_kernel, **kwargs):
        seen.update(kernel=array(kernel), recurrent_kernel=array(recurrent_kernel))
        raise NotImplementedError

    # Since Keras 3.16 `backend.rnn` is a module.
    monkeypatch.setattr(backend if hasattr(backend, kind.lower()) else backend.rnn, kind.lower(), fused)
    for prefix in ("Masked", "STR", "DNW", "L0", "VD"):
        layer = make(prefix, kind)
        make_half_sparse(layer)
        seen.clear()
        layer(example())
        for weight in layer.cell.sparse_weights:
            np.testing.assert_array_equal(seen[weight.name], array(weight.value()))
        assert isinstance(layer.cell.kernel, keras.Variable)
    seen.clear()
    layer(example(), training=True)  # variational dropout
    assert not seen
    with pytest.raises(ValueError, match="`use_cudnn` must be 'auto' or False.*use_cudnn=True"):
        make("VD", kind, use_cudnn=True)(example(), training=True)


def test_tables_and_operation_counts_know_recurrent_layers():
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.MaskedLSTM(UNITS, name="memory")])
    make_half_sparse(model.layers[0])
    table = inspection.sparsity_table(model)
    names = ["memory/lstm_cell/kernel", "memory/lstm_cell/recurrent_kernel"]
    assert [row.name.partition("/")[2] for row in table.rows] == names
    assert table.size == 4 * UNITS * (FEATURES + UNITS)
    flops = inspection.count_flops(model)
    assert not flops.not_counted
    assert flops.dense == STEPS * table.size
    assert flops.sparse == STEPS * table.nonzeros


def test_gradients_reach_both_weights_of_every_technique():
    for prefix in PREFIXES:
        model = keras.Sequential([keras.Input((STEPS, FEATURES)), getattr(layers, f"{prefix}SimpleRNN")(UNITS)])
        before = [array(variable).copy() for variable in model.trainable_variables]
        model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
        model.train_on_batch(example(), np.ones((BATCH, UNITS)))
        names = [variable.path for variable in model.trainable_variables]
        moved = [np.abs(array(v) - b).max() for v, b in zip(model.trainable_variables, before, strict=True)]
        kernels = [change for name, change in zip(names, moved, strict=True) if name.endswith("kernel")]
        assert len(kernels) == 2 and min(kernels) > 1e-6, prefix


def test_config_round_trip_keeps_the_options_of_layer_and_technique():
    layer = layers.VDLSTM(UNITS, dropout=0.1, log_alpha_threshold=2.0, seed=4, name="memory")
    copy = layers.VDLSTM.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.cell.technique.log_alpha_threshold == 2.0 and copy.technique.seed == 4
    assert weight_holder(copy).dropout == 0.1
    cell = layers.STRGRUCell.from_config(layers.STRGRUCell(3, granularity="filter").get_config())
    assert cell.technique.granularity == "filter"
