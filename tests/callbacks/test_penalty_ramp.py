"""PenaltyRamp: the right weight at every step, in per-example units, however training runs."""

import keras
import numpy as np
import pytest

from sparsity_tf.callbacks import PenaltyRamp
from sparsity_tf.layers import VDDense
from sparsity_tf.schedules import Cosine, Cubic, ExponentialMovingAverage
from tests import fresh_process


@keras.saving.register_keras_serializable(package="penalty_ramp_test")
class PenalizedDense(VDDense):
    """A layer with a penalty; `seen[i]` is the `penalty_weight` of its i-th training step."""

    def build(self, input_shape):
        def variable(name, shape, dtype="float32"):
            return self.add_weight(shape=shape, initializer="zeros", trainable=False, dtype=dtype, name=name)

        super().build(input_shape)
        self.seen = variable("seen", (64,))
        self.count = variable("count", (), "int32")

    def call(self, inputs, training=False):
        if training:
            here = keras.ops.one_hot(self.count, 64, dtype="float32")
            self.seen.assign(self.seen + here * self.penalty_weight)
            self.count.assign(self.count + 1)
        return super().call(inputs, training=training)


X = np.linspace(-1, 1, 40, dtype="float32").reshape(20, 2)
Y = X.sum(axis=1, keepdims=True)


def make_model(**compile_options):
    inputs = keras.Input((2,))
    inner = keras.Sequential([keras.Input((4,)), PenalizedDense(3, seed=1, name="nested")])
    hidden = PenalizedDense(4, seed=2, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(inner(hidden)))
    model.compile(keras.optimizers.SGD(0.01), "mse", **compile_options)
    return model


def layers_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, PenalizedDense)]


def seen_by(model):
    """Weight in force at each training step, one row a layer."""
    return np.stack(
        [
            keras.ops.convert_to_numpy(layer.seen)[: int(keras.ops.convert_to_numpy(layer.count))]
            for layer in layers_of(model)
        ]
    )


def fit(model, ramp, epochs=2, **options):
    # 20 examples in batches of 4: 5 steps an epoch.
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[ramp], **options)


def test_weight_is_in_units_of_one_example():
    # The Transformer of Gale et al.: 1 / 4.5e6; its published L0 script: 0.000000778.
    assert PenaltyRamp(num_examples=4_500_000).penalty_weight(0) == 1 / 4.5e6
    l0 = PenaltyRamp(3.5, num_examples=4_500_000, schedule="none")
    assert l0.penalty_weight(0) == pytest.approx(7.78e-7, rel=1e-3)


@pytest.mark.parametrize(
    ("step", "linear", "cubic"),
    [(10, 0.01, 0.01232), (100, 0.1, 0.248664), (500, 0.5, 0.867989), (1000, 1.0, 0.999995)],
)
def test_ramps_have_the_published_values(step, linear, cubic):
    options = dict(num_examples=1, begin_step=0, end_step=1000)
    assert PenaltyRamp(**options).penalty_weight(step) == pytest.approx(linear)
    smooth = PenaltyRamp(**options, schedule="cubic").penalty_weight(step)
    assert smooth == pytest.approx(cubic, abs=5e-7)


def test_every_layer_sees_the_linear_ramp_at_every_step():
    model = make_model()
    fit(model, PenaltyRamp(10.0, num_examples=20, begin_step=2, end_step=6))
    expected = 0.5 * np.clip((np.arange(10) - 2) / 4, 0, 1)
    assert seen_by(model).shape == (2, 10)
    np.testing.assert_allclose(seen_by(model), np.stack([expected] * 2), rtol=1e-6)


@pytest.mark.usefixtures("uncompiled")
def test_cubic_ramp_is_smoothed():
    model = make_model()
    fit(model, PenaltyRamp(num_examples=1, begin_step=1, end_step=8, schedule="cubic"))
    expected = ExponentialMovingAverage(Cubic(0.0, 1.0, 1, 8), decay=0.9)(np.arange(10))
    np.testing.assert_allclose(seen_by(model)[0], expected, rtol=1e-6)


@pytest.mark.usefixtures("uncompiled")
def test_without_a_ramp_the_full_weight_is_on_from_the_start():
    for ramp in (
        PenaltyRamp(3.0, num_examples=6, schedule="none"),
        PenaltyRamp(3.0, num_examples=6, schedule="none", begin_step=5, end_step=1),
        PenaltyRamp(3.0, num_examples=6),
    ):
        model = make_model()
        fit(model, ramp, epochs=1)
        np.testing.assert_array_equal(seen_by(model), np.full((2, 5), 0.5))


@pytest.mark.usefixtures("uncompiled")
def test_ramp_of_no_length_is_a_jump():
    model = make_model()
    fit(model, PenaltyRamp(num_examples=2, begin_step=3, end_step=3))
    np.testing.assert_array_equal(seen_by(model)[0], [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.usefixtures("uncompiled")
def test_schedule_objects_and_functions_of_the_step_are_taken():
    model = make_model()
    fit(model, PenaltyRamp(num_examples=1, schedule=Cosine(1.0, 0, 8)))
    np.testing.assert_allclose(seen_by(model)[0], Cosine(1.0, 0, 8)(np.arange(10)), atol=1e-7)
    model = make_model()
    fit(model, PenaltyRamp(num_examples=1, schedule=lambda step: 1 / (1 + step)))
    np.testing.assert_allclose(seen_by(model)[0], 1 / np.arange(1, 11), rtol=1e-6)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("schedule", ["linear", "cubic"])
def test_a_resumed_run_continues_exactly(schedule, tmp_path):
    def ramp():
        return PenaltyRamp(num_examples=7, begin_step=1, end_step=9, schedule=schedule)

    whole = make_model()
    initial = whole.get_weights()
    fit(whole, ramp(), epochs=2)

    model = make_model()
    model.set_weights(initial)
    fit(model, ramp(), epochs=1)
    model.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    fit(resumed, ramp(), epochs=2, initial_epoch=1)
    np.testing.assert_array_equal(seen_by(resumed), seen_by(whole))
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_restored_by_another_callback_do_not_bring_an_old_penalty_back():
    model = make_model()
    stale = model.get_weights()

    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.set_weights(stale)

    ramp = PenaltyRamp(num_examples=4, schedule="none")
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0, callbacks=[ramp, Restore()])
    np.testing.assert_array_equal(seen_by(model)[0], np.full(5, 0.25))


@pytest.mark.compiled
@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_steps_per_execution_share_the_weight_of_the_first(jit_compile):
    model = make_model(steps_per_execution=2, jit_compile=jit_compile)
    model.fit(
        X,
        Y,
        batch_size=5,  # 4 steps an epoch
        epochs=2,
        verbose=0,
        callbacks=[PenaltyRamp(num_examples=1, begin_step=0, end_step=8)],
    )
    np.testing.assert_allclose(seen_by(model)[0], np.array([0, 0, 2, 2, 4, 4, 6, 6]) / 8)


def test_the_weight_in_force_is_logged_at_the_end_of_each_epoch():
    history = fit(make_model(), PenaltyRamp(num_examples=1, begin_step=0, end_step=8)).history
    assert history["penalty_weight"] == [4 / 8, 1.0]


def test_each_layer_has_its_own_factor():
    """SBPa of the authors' program: ten times the divergence in some layers, five times in others, once in the rest."""
    model = make_model()
    ramp = PenaltyRamp(num_examples=20, begin_step=0, end_step=4, factors={"first": 10, "nes.*": 5.0})
    history = fit(model, ramp, epochs=1).history
    ramped = np.array([0, 0.25, 0.5, 0.75, 1]) / 20
    by_name = dict(zip((layer.name for layer in layers_of(model)), seen_by(model), strict=True))
    np.testing.assert_allclose(by_name["first"], 10 * ramped, rtol=1e-6)
    np.testing.assert_allclose(by_name["nested"], 5 * ramped, rtol=1e-6)
    assert history["penalty_weight"] == [1 / 20]  # without the factors
    PenaltyRamp(num_examples=20, factors={"first/kernel": 0}).update(model)
    weights = {layer.name: float(keras.ops.convert_to_numpy(layer.penalty_weight)) for layer in layers_of(model)}
    assert weights == {"first": 0.0, "nested": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"second": 2.0}, "`factors` must hold entries that match a tensor.*'second'.*first/kernel"),
        (
            {"fir.*": 2.0, "first": 3.0},
            r"`factors` must match each layer at most once.*'first/kernel', matched by \['fir",
        ),
    ],
)
def test_factors_that_do_not_fit_the_model_are_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        PenaltyRamp(num_examples=20, factors=factors).update(make_model())


def test_update_serves_a_loop_of_ones_own():
    model = make_model()
    ramp = PenaltyRamp(num_examples=1, begin_step=0, end_step=4)
    for step in range(6):
        assert ramp.update(model) == min(step / 4, 1.0)
        model.train_on_batch(X[:4], Y[:4])
    np.testing.assert_allclose(seen_by(model)[0], [0, 0.25, 0.5, 0.75, 1, 1])


def test_variables_are_assigned_only_when_the_value_changes(monkeypatch):
    model = make_model()
    assigned = []
    variable = layers_of(model)[0].penalty_weight
    assign = variable.assign
    ramp = PenaltyRamp(num_examples=1, begin_step=0, end_step=2)
    monkeypatch.setattr(variable, "assign", lambda value: (assigned.append(np.asarray(value)), assign(value)))
    monkeypatch.setattr(type(ramp), "on_epoch_begin", lambda self, epoch, logs=None: None)
    ramp.set_model(model)
    ramp.on_train_begin()
    for step in range(6):
        ramp.on_train_batch_begin(step)
        model.optimizer.iterations.assign_add(1)
    assert assigned == [0.0, 0.5, 1.0]


def test_a_model_without_a_penalty_is_refused_before_training():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="plain")
    model.compile("sgd", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="penalty_weight.*plain"):
        fit(model, PenaltyRamp(num_examples=20))
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


REPLICAS = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras, numpy, sparsity_tf

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = keras.Sequential([keras.Input((2,)), sparsity_tf.layers.VDDense(3)])
    model.compile("sgd", "mse")
ramp = sparsity_tf.callbacks.PenaltyRamp(num_examples=8, begin_step=0, end_step=2)
x, y = numpy.ones((8, 2)), numpy.ones((8, 3))
history = model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[ramp]).history
assert isinstance(model.optimizer.iterations.value, tf.distribute.DistributedValues)
print(history["penalty_weight"], *(float(v) for v in model.layers[0].penalty_weight.value.values))
ramp.update(model)
print(*(float(v) for v in model.layers[0].penalty_weight.value.values))
"""


@pytest.mark.tensorflow
def test_every_replica_of_a_distributed_model_gets_the_weight():
    # A process of its own: logical devices must be set before TensorFlow starts.
    process = fresh_process.run(REPLICAS)
    assert process.returncode == 0, process.stderr[-2000:]
    # The second of two steps is half way up the ramp to 1/8; a third would be at its end.
    assert process.stdout.splitlines() == ["[0.0625] 0.0625 0.0625", "0.125 0.125"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "`num_examples` must be an integer of at least 1.*num_examples=None"),
        (dict(num_examples=0), "num_examples=0"),
        (dict(num_examples=2.5), "num_examples=2.5"),
        (dict(num_examples=True), "num_examples=True"),
        (dict(num_examples=5, weight=-1), "weight=-1"),
        (dict(num_examples=5, weight=float("nan")), "weight=nan"),
        (dict(num_examples=5, weight="1"), "weight='1'"),
        (dict(num_examples=5, schedule="quadratic"), "schedule='quadratic'"),
        (dict(num_examples=5, schedule=None), "None"),
        (dict(num_examples=5, begin_step=7, end_step=6), "begin_step=7, end_step=6"),
        (dict(num_examples=5, begin_step=-1, end_step=6), "begin_step=-1"),
        (dict(num_examples=5, begin_step=0.5, end_step=6), "begin_step=0.5"),
        (dict(num_examples=5, end_step=None), "end_step=None"),
        (dict(num_examples=5, factors=3.0), "`factors` must be a dict from strings.*factors=3.0"),
        (dict(num_examples=5, factors={1: 3.0}), "`factors` must be a dict from strings.*factors={1: 3.0}"),
        (dict(num_examples=5, factors={"a": -1.0}), r"`factors\['a'\]` must be a finite number at least 0.*-1.0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PenaltyRamp(**options)


def test_a_factor_outside_0_to_1_is_an_error():
    with pytest.raises(ValueError, match=r"schedule\(0\) = 2.0"):
        fit(make_model(), PenaltyRamp(num_examples=5, schedule=lambda step: 2.0))


@pytest.mark.parametrize("factor", [-0.5, 1.5, float("nan")])
def test_a_factor_is_from_0_to_1(factor):
    with pytest.raises(ValueError, match=rf"a factor in \[0, 1\].*schedule\(3\) = {factor}"):
        PenaltyRamp(num_examples=5, schedule=lambda step: factor).penalty_weight(3)
    for allowed in (0.0, 1.0):
        assert PenaltyRamp(num_examples=5, schedule=lambda step, a=allowed: a).penalty_weight(3) == allowed / 5


def test_after_its_end_a_ramp_costs_nothing_but_a_look_at_each_epoch():
    class Ramp:
        settled_from = 2

        def __init__(self):
            self.asked = []

        def __call__(self, step):
            self.asked.append(step)
            return min(step / 2, 1.0)

    model, schedule = make_model(), Ramp()
    ramp = PenaltyRamp(num_examples=1, schedule=schedule)
    schedule.asked.clear()
    ramp.set_model(model)
    ramp.on_train_begin()
    for epoch in range(2):
        ramp.on_epoch_begin(epoch)
        for batch in range(5):
            ramp.on_train_batch_begin(batch)
            model.optimizer.iterations.assign_add(1)
    assert schedule.asked == [0, 0, 0, 1, 2, 5]
