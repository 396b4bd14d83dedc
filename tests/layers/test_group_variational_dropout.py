"""Variational dropout with group variables: golden values, one sample a mini-batch, the zeros of a dead group."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import layers
from sparsity_tf.layers import GVDGRU, GVDLSTM, GroupVariationalDropout, GVDDense, GVDEmbedding, GVDSimpleRNN
from sparsity_tf.layers.variational_dropout import compute_log_alpha, kl_divergence
from tests import fresh_process

UNITS, FEATURES, STEPS, BATCH = 4, 3, 5, 6
# log alpha -> divergence (Molchanov's fit), and the older fit of the authors' program.
GOLDEN = [
    (-8, 4.635899, 3.970140),
    (-3, 2.115590, 1.447941),
    (0, 0.431239, -0.243712),
    (3, 0.025420, -0.644696),
    (8, 0.000168, -0.669832),
]
SILENT = {"log_sigma2_initializer": -40.0, "group_log_sigma2_initializer": -40.0, "clip_log_alpha": None}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def recurrent(cls=GVDLSTM, **options):
    layer = cls(UNITS, return_sequences=True, **options)
    layer.build((None, None, FEATURES))
    return layer


def sequences(seed=0, batch=BATCH):
    return np.random.default_rng(seed).normal(size=(batch, STEPS, FEATURES)).astype("float32")


def kill(weight, group, index):
    """Drives one group of a weight to log alpha = 20."""
    variable = weight.extra_variable(f"{group}_log_sigma2")
    value = array(variable).copy()
    value.reshape(-1)[index] = 20.0
    variable.assign(value)


@pytest.mark.parametrize("log_alpha,divergence,older", GOLDEN)
def test_golden_values(log_alpha, divergence, older):
    found = float(kl_divergence(ops.convert_to_tensor(float(log_alpha))))
    assert found == pytest.approx(divergence, abs=2e-6)
    # The authors' fit has the same shape, lower by a constant.
    assert 0.665 < found - older < 0.676


def test_a_group_begins_with_the_published_posterior_and_its_penalty_counts_once():
    layer = recurrent(penalty_weight=0.5)
    kernel, recurrent_kernel = layer.cell.sparse_weights
    total = 0.0
    for weight in (kernel, recurrent_kernel):
        theta, log_sigma2 = ops.convert_to_tensor(weight.variable), weight.extra("log_sigma2")
        assert (array(log_sigma2) == -6).all()
        total += float(ops.sum(kl_divergence(compute_log_alpha(theta, log_sigma2, 8.0))))
    # Inputs, units and gates: one divergence each at log alpha = -6. The gates belong to both kernels.
    for weight, group, count in ((kernel, "input", 3), (kernel, "gate", 16), (recurrent_kernel, "unit", 4)):
        mean = array(weight.extra(f"{group}_mean"))
        assert (mean == 1).all() and mean.shape.count(1) == 1 and mean.size == count
        total += count * float(kl_divergence(ops.convert_to_tensor(-6.0)))
    layer(sequences(), training=True)
    assert float(layer.losses[0]) == pytest.approx(0.5 * total, rel=1e-5)


def test_the_value_is_theta_times_the_means_of_its_live_groups():
    layer, rng = recurrent(), np.random.default_rng(0)
    kernel, recurrent_kernel = layer.cell.sparse_weights
    means = {}
    for weight, group in ((kernel, "input"), (kernel, "gate"), (recurrent_kernel, "unit")):
        variable = weight.extra_variable(f"{group}_mean")
        means[group] = rng.uniform(0.5, 2, variable.shape)
        variable.assign(means[group])
    kill(kernel, "input", 1), kill(kernel, "gate", 7), kill(recurrent_kernel, "unit", 2)
    for weight, rows, row in ((kernel, "input", 1), (recurrent_kernel, "unit", 2)):
        weight.extra_variable("log_sigma2").assign(np.full(weight.shape, -20.0))
        expected = array(weight.variable) * means[rows] * means["gate"]
        expected[row], expected[:, 7] = 0, 0
        np.testing.assert_allclose(array(weight.value()), expected, rtol=1e-6)
        np.testing.assert_array_equal(array(weight.mask()), expected != 0)
    kernel.extra_variable("log_sigma2").assign(np.full(kernel.shape, 20.0))
    assert kernel.count() == 0 and not array(kernel.mask()).any()


@pytest.mark.parametrize("log_sigma2,lives", [(2.99, True), (3.0, False), (np.nan, True)])
def test_a_group_dies_at_the_threshold_and_nan_stays_visible(log_sigma2, lives):
    layer = GVDEmbedding(2, 3, log_sigma2_initializer=-20.0)
    layer.build((None,))
    # log(1 + 1e-8) = 0 in float32, so this is log alpha.
    layer.word_log_sigma2.assign(np.full((2, 1), log_sigma2))
    assert array(layer.sparse_weights[0].mask()).all() == lives
    layer.word_mean.assign(np.full((2, 1), np.nan))
    assert np.isnan(array(layer.sparse_weights[0].value())).all()


def test_a_dead_word_makes_the_output_independent_of_it():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 4)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(UNITS)(x)))
    sparsity_tf.sparsify(model, "gvd", log_sigma2_initializer=-20.0)
    (table,) = model.layers[1].sparse_weights
    for word in (3, 7):
        kill(table, "word", word)
    assert (array(table.value())[[3, 7]] == 0).all() and table.count() == 32
    predict = [array(model(np.array([[1, word, 2]]))) for word in (3, 7, 4)]
    np.testing.assert_array_equal(predict[0], predict[1])
    assert np.abs(predict[0] - predict[2]).max() > 1e-6


def test_a_group_variable_of_zero_makes_its_row_zero_in_training_too():
    layer = GVDEmbedding(4, 3, log_sigma2_initializer=2.0, group_log_sigma2_initializer=-40.0, clip_log_alpha=None)
    layer.build((None,))
    layer.word_mean.assign([[1.0], [0.0], [1.0], [1.0]])
    rows = array(layer(np.arange(4), training=True))
    # What is left of row 1 is the square root of 1e-8, to which the variance of z never falls below.
    assert np.abs(rows[1]).max() < 2e-3 and np.abs(rows[[0, 2, 3]]).min() > 1e-2


def test_a_dead_gate_is_constant():
    layer = recurrent(activation="tanh")
    layer.cell.bias.assign(np.linspace(-1, 1, 4 * UNITS))
    for gate in range(4 * UNITS):
        kill(layer.cell.sparse_weights[0], "gate", gate)
    outputs = array(layer(sequences()))
    np.testing.assert_array_equal(outputs, np.repeat(outputs[:1], BATCH, axis=0))
    assert np.abs(outputs).max() > 0.01


@pytest.mark.parametrize("cls", [GVDSimpleRNN, GVDLSTM, GVDGRU])
def test_without_noise_training_equals_inference(cls):
    layer = recurrent(cls, bias_initializer="glorot_uniform" if cls is GVDGRU else "ones", **SILENT)
    for weight in layer.cell.sparse_weights:
        for group in ("input", "unit", "gate"):
            if hasattr(layer.cell, name := weight._attribute(f"{group}_mean")):
                getattr(layer.cell, name).assign(np.full(getattr(layer.cell, name).shape, 0.7))
    np.testing.assert_allclose(array(layer(sequences(), training=True)), array(layer(sequences())), atol=2e-3)


def test_all_steps_and_all_examples_see_one_sample():
    """A constant input gives one output at every step and in every row; each part is wrong for `VDSimpleRNN`."""
    constant = np.ones((BATCH, STEPS, FEATURES), "float32")
    for cls, over_examples in ((GVDSimpleRNN, True), (layers.VDSimpleRNN, False)):
        layer = recurrent(cls, log_sigma2_initializer=0.0, clip_log_alpha=None, seed=1)
        # Nothing comes back from the step before.
        layer.cell.recurrent_kernel.assign(np.zeros(layer.cell.recurrent_kernel.shape))
        layer.cell.recurrent_kernel_log_sigma2.assign(np.full((UNITS, UNITS), -60.0))
        outputs = array(layer(constant, training=True))
        assert np.abs(outputs - array(layer(constant))).max() > 1e-2
        np.testing.assert_allclose(outputs, np.repeat(outputs[:, :1], STEPS, axis=1), atol=2e-3)
        assert np.allclose(outputs, np.repeat(outputs[:1], BATCH, axis=0), atol=1e-6) == over_examples
        assert np.abs(outputs - array(layer(constant, training=True))).max() > 1e-2


def test_a_noisy_recurrent_kernel_is_one_sample_in_a_whole_sequence():
    layer = recurrent(GVDSimpleRNN, activation=None, use_bias=False, groups=("unit",), seed=2)
    layer.cell.kernel.assign(np.zeros((FEATURES, UNITS)))
    layer.cell.log_sigma2.assign(np.full((FEATURES, UNITS), -60.0))
    layer.cell.recurrent_kernel_log_sigma2.assign(np.full((UNITS, UNITS), -1.0))
    begin = np.tile(np.eye(UNITS, dtype="float32"), (2, 1))  # reads the sample row by row
    outputs = array(layer(np.zeros((2 * UNITS, STEPS, FEATURES), "float32"), initial_state=begin, training=True))
    sample = outputs[:UNITS, 0]
    assert np.abs(sample - array(layer.cell.sparse_weights[1].value())).max() > 1e-2
    for step in range(STEPS):
        power = np.linalg.matrix_power(sample.astype("float64"), step + 1)
        np.testing.assert_allclose(outputs[:, step], np.tile(power, (2, 1)), rtol=2e-3, atol=5e-3)


def test_a_word_has_the_same_sample_wherever_it_stands():
    ids = np.array([[1, 2, 1], [2, 1, 0]])
    for cls, same in ((GVDEmbedding, True), (layers.VDEmbedding, False)):
        layer = cls(4, 3, log_sigma2_initializer=0.0, clip_log_alpha=None, seed=1)
        rows = array(layer(ids, training=True))
        assert np.array_equal(rows[0, 0], rows[0, 2]) == np.array_equal(rows[0, 1], rows[1, 0]) == same
        assert np.abs(rows[0, 0] - rows[0, 1]).min() > 1e-4
        assert np.abs(rows - array(layer(ids, training=True))).min() > 1e-4


def test_both_kernels_see_the_same_sample_of_a_gate():
    layer = recurrent(groups=("gate",), log_sigma2_initializer=-40.0, clip_log_alpha=None, seed=3)
    for weight in layer.cell.sparse_weights:
        weight.variable.assign(np.ones(weight.shape))
    layer.cell.gate_log_sigma2.assign(np.zeros((1, 4 * UNITS)))
    prepared = layer.cell.prepare(BATCH, training=True)
    rows = [array(kernel)[0] for kernel in (prepared.kernel, prepared.recurrent_kernel)]
    np.testing.assert_allclose(*rows, rtol=1e-3)
    assert np.std(rows[0]) > 0.3 and layer.cell.shared_draws is None
    again = array(layer.cell.prepare(BATCH, training=True).kernel)[0]
    assert np.abs(again - rows[0]).max() > 0.1


def test_samples_have_the_moments_of_the_product():
    """E = theta m and Var = (theta^2 + sigma^2)(m^2 + s^2) - theta^2 m^2, for independent weights and groups."""
    layer = GVDEmbedding(1000, 30, log_sigma2_initializer=np.log(0.04), embeddings_initializer="ones", seed=4)
    layer.build((None,))
    layer.word_mean.assign(np.full((1000, 1), 2.0))
    layer.word_log_sigma2.assign(np.full((1000, 1), np.log(0.25)))
    sample = array(layer.technique.training_value(layer.sparse_weights[0]))
    assert sample.mean() == pytest.approx(2.0, abs=0.06)
    assert sample.var() == pytest.approx(1.04 * 4.25 - 4, rel=0.1)
    # A row has one z: its mean deviates by 0.5, not by the 0.65 / sqrt(30) of independent entries.
    assert sample.mean(axis=1).std() == pytest.approx(0.5, rel=0.1)


def test_a_dense_layer_samples_pre_activations_with_one_group_sample_a_batch():
    layer = GVDDense(50, log_sigma2_initializer=np.log(0.09), group_log_sigma2_initializer=-40.0, clip_log_alpha=None)
    layer.build((None, 2))
    layer.kernel.assign(np.ones((2, 50)))
    layer.input_mean.assign([[2.0], [0.0]])
    outputs = array(layer(np.ones((200, 2), "float32"), training=True))
    # Input 1 is gone with its noise. Input 0 has mean 2 and deviation 2 * 0.3, independent in every entry.
    assert outputs.mean() == pytest.approx(2.0, abs=0.03)
    assert outputs.std() == pytest.approx(0.6, rel=0.05)
    assert outputs.mean(axis=0).std() < 0.1
    layer.input_log_sigma2.assign([[0.0], [-40.0]])
    layer.log_sigma2.assign(np.full((2, 50), -60.0))
    outputs = array(layer(np.ones((200, 2), "float32"), training=True))
    np.testing.assert_allclose(outputs, np.full_like(outputs, outputs[0, 0]), atol=2e-3)
    # All steps of a sequence share the noise.
    layer.log_sigma2.assign(np.zeros((2, 50)))
    steps = array(layer(np.ones((3, 5, 2), "float32"), training=True))
    np.testing.assert_allclose(steps, np.repeat(steps[:, :1], 5, axis=1), rtol=1e-5)
    assert np.abs(steps[0] - steps[1]).max() > 0.1


REPLICAS = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from sparsity_tf.layers import GVDEmbedding, GVDLSTM, GVDDense, VDDense

noisy = {"log_sigma2_initializer": 0.0, "clip_log_alpha": None}
groups = {"log_sigma2_initializer": -60.0, "group_log_sigma2_initializer": 0.0, "clip_log_alpha": None}
cases = [
    (GVDLSTM(4, **noisy), (None, 5, 3), tf.ones((1, 5, 3))),
    (GVDLSTM(4, **groups), (None, 5, 3), tf.ones((1, 5, 3))),
    (GVDEmbedding(6, 4, **noisy), (None, 5), tf.ones((1, 5), "int32")),
    (GVDDense(20, **groups), (None, 3), tf.ones((1, 3))),
    # Noise of the examples: each replica has others.
    (GVDDense(20, **noisy), (None, 3), tf.ones((1, 3))),
    (VDDense(20, **noisy), (None, 3), tf.ones((1, 3))),
]
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for layer, shape, inputs in cases:
    with strategy.scope():
        layer = type(layer).from_config(layer.get_config())
        layer.build(shape)
    outputs = tf.function(lambda: strategy.run(lambda: layer(inputs, training=True)))()
    one, other = (output.numpy() for output in strategy.experimental_local_results(outputs))
    # Noise of the examples with a deviation of 1e-4 remains where that of the weights is off.
    print(abs(one - other).max() < 5e-3, abs(one - layer(inputs).numpy()).max() > 1e-2)
"""


@pytest.mark.tensorflow
def test_all_replicas_share_the_sample_of_a_mini_batch():
    # A process of its own: logical devices must be set before TensorFlow starts.
    process = fresh_process.run(REPLICAS)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines() == ["True True"] * 4 + ["False True"] * 2


def test_a_layer_takes_the_groups_that_it_has_of_those_that_are_asked_for():
    names = {
        (): [],
        ("gate",): ["gate_mean", "gate_log_sigma2"],
        ("unit", "word"): ["recurrent_kernel_unit_mean", "recurrent_kernel_unit_log_sigma2"],
    }
    for groups, expected in names.items():
        cell = recurrent(groups=groups).cell
        own = [variable.name for variable in cell.trainable_variables]
        assert [name for name in own if "_mean" in name or name.rpartition("_log")[0].endswith(("gate", "unit"))] == (
            expected
        )
    plain = GVDDense(2, groups=())
    plain(np.ones((1, 3)), training=True)
    assert [variable.name for variable in plain.trainable_variables] == ["kernel", "bias", "log_sigma2"]


@pytest.mark.parametrize("groups", ["word", ["rows"], ["word", "word"], [0], None, 3, [["word"]]])
def test_wrong_groups_are_refused_by_name(groups):
    with pytest.raises(
        ValueError, match="`groups` must be a list or tuple of different names of word.*Received: groups="
    ):
        GroupVariationalDropout(groups=groups)


def test_config_and_file_keep_every_option(tmp_path):
    options = {"groups": ("gate", "word"), "log_alpha_threshold": 2.0, "clip_log_alpha": None, "seed": np.int64(4)}
    layer = GVDLSTM(UNITS, group_log_sigma2_initializer=-5.0, **options, return_sequences=True)
    copy = GVDLSTM.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config() and copy.technique.groups == ("word", "gate")
    assert repr(copy.technique) == repr(layer.technique)
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), layer, GVDDense(2, groups=["input"])])
    kill(layer.cell.sparse_weights[0], "gate", 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(sequences())), array(model(sequences())))
    # Also the draws go on where they were.
    np.testing.assert_array_equal(*(array(net(sequences(), training=True)) for net in (model, loaded)))


@pytest.mark.compiled
def test_training_kills_words_that_say_nothing():
    """Words 0 to 4 mean class 0, words 5 to 9 class 1; the other 20 are noise."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 256)
    ids = rng.integers(10, 30, (256, 3))
    ids[:, 1] = rng.integers(0, 5, 256) + 5 * labels
    inputs = keras.Input((3,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(30, 8, name="embedding")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    sparsity_tf.sparsify(model, "gvd", penalty_weight=1 / 2560, seed=1)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(0.1, 60, 0.0)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(ids, labels, batch_size=256, epochs=60, verbose=0)
    assert model.evaluate(ids, labels, verbose=0)[1] > 0.97
    live = array(model.get_layer("embedding").sparse_weights[0].mask()).any(axis=1)
    assert live[:10].sum() >= 5 and live[10:].sum() <= 4


def test_shrink_removes_dead_units_inputs_and_words_columns():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.LSTM(8, name="lstm")(keras.layers.Embedding(30, 5, name="embedding")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    sparsity_tf.sparsify(model, "gvd", log_sigma2_initializer=-20.0)
    kernel, recurrent_kernel = model.get_layer("lstm").cell.sparse_weights
    kill(kernel, "input", 3)
    for unit in (1, 4, 5):
        kill(model.get_layer("logits").sparse_weights[0], "input", unit)
    for unit in (1, 4):
        kill(recurrent_kernel, "unit", unit)
    small = sparsity_tf.shrink(model)
    # Unit 5 is still read by other units.
    assert small.get_layer("lstm").units == 6 and small.get_layer("embedding").output_dim == 4
    ids = np.random.default_rng(0).integers(0, 30, (7, 6))
    np.testing.assert_allclose(array(small(ids)), array(model(ids)), atol=1e-6)
