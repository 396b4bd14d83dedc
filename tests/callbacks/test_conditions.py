"""Algorithms under what Keras offers: XLA, several steps in one call, mixed precision, optimizers, replicas."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import callbacks, masks
from sparsity_tf.layers import get_sparse_weights
from tests import fresh_process
from tests.callbacks import algorithm_checks as checks
from tests.callbacks.algorithm_checks import CASES, StopAfter, Watch, fit, make_model, masks_of

SGD_RIGL = CASES["rigl"]


def counts_of(model):
    return [int(mask.sum()) for mask in masks_of(model)]


def promised(case, algorithm, model, step):
    sizes = [weight.size for weight in get_sparse_weights(model)]
    return case.counts(algorithm, sizes, counts_of(model), step)


@pytest.mark.xla
@pytest.mark.not_on_torch("XLA compiles for TensorFlow and JAX only")
@pytest.mark.parametrize("name", ["rigl", "sparse-momentum"])
def test_xla(name):
    case, seen = CASES[name], Watch()
    model, algorithm = make_model(case, jit_compile=True), CASES[name].make()
    fit(model, algorithm, seen)
    checks.check_counts(case, algorithm, [weight.size for weight in get_sparse_weights(model)], seen)


@pytest.mark.compiled
@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
@pytest.mark.parametrize("name", ["rigl", "magnitude"])
def test_several_steps_in_one_execution(name):
    """Masks change at the first boundary at or after a step on the schedule; the last call of an epoch is shorter."""
    case, seen = CASES[name], Watch()
    model, algorithm = make_model(case, steps_per_execution=4), CASES[name].make()
    updates = []
    change_masks = algorithm.change_masks
    algorithm.change_masks = lambda step: (updates.append((step, checks.count_of(model))), change_masks(step))
    fit(model, algorithm, seen)
    assert seen.steps == [4, 6, 10, 12]
    # (step on the schedule, step at which it happened)
    assert updates == [(4, 4), (6, 6), (8, 10)]
    assert promised(case, algorithm, model, 12)


@pytest.mark.compiled
@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
def test_rigl_grows_by_the_gradient_of_the_step_on_the_schedule():
    """With several steps in one execution, too: the gradient is that of step 8, not of step 10."""
    kept = {}
    for steps in (1, 2):
        model = make_model(SGD_RIGL, steps_per_execution=steps)
        algorithm = callbacks.RigL(0.7, begin_step=1, end_step=3, frequency=2, distribution="uniform")
        views = []
        change_masks = algorithm.change_masks

        def change(step, algorithm=algorithm, views=views, change_masks=change_masks):
            views.append((step, [np.array(view.gradient) for view in algorithm.views(step)]))
            if step == 1:
                change_masks(step)

        algorithm.change_masks = change
        fit(model, algorithm, StopAfter(4 // steps))
        kept[steps] = views
    assert [step for step, _ in kept[1]] == [step for step, _ in kept[2]] == [1, 3]
    for one, other in zip(kept[1][0][1], kept[2][0][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "policy,name", [("mixed_bfloat16", "rigl"), ("mixed_float16", "rigl"), ("mixed_float16", "dsr")]
)
def test_mixed_precision(policy, name):
    keras.config.set_dtype_policy(policy)
    case, seen = CASES[name], Watch()
    model, algorithm = make_model(case), case.make()
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    fit(model, algorithm, seen)
    checks.check_counts(case, algorithm, [weight.size for weight in get_sparse_weights(model)], seen)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "lamb": lambda: keras.optimizers.Lamb(0.01),
    "clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
    "averaged": lambda: keras.optimizers.Adam(0.01, use_ema=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer):
    model = make_model(SGD_RIGL, run_eagerly=True)
    model.compile(OPTIMIZERS[optimizer](), "mse", run_eagerly=True)
    names = ["rigl", "magnitude"] if optimizer in ("sgd", "averaged") else ["rigl", "sparse-momentum"]
    for name in names:
        algorithm, watch = CASES[name].make(), Watch()
        if optimizer == "averaged":
            # The averages come back at the end of training, under the masks that hold then.
            fit(model, algorithm)
            for weight, mask in zip(get_sparse_weights(model), masks_of(model), strict=True):
                assert (ops.convert_to_numpy(weight.value())[~mask] == 0).all()
                # Nor does a forward pass in training mode see what the averages held there.
                assert (ops.convert_to_numpy(weight.variable)[~mask] == 0).all()
        else:
            fit(model, algorithm, watch)
        if name == "rigl":
            assert promised(CASES[name], algorithm, model, 12)
        model.compile(OPTIMIZERS[optimizer](), "mse", run_eagerly=True)


@pytest.mark.parametrize("name", ["rigl", "magnitude"])
def test_averages_written_back_after_a_loop_of_ones_own_are_masked(name):
    model, algorithm = make_model(CASES[name], run_eagerly=True), CASES[name].make()
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse", run_eagerly=True)
    algorithm.prepare(model)
    for _ in range(checks.END):
        model.train_on_batch(checks.X, checks.Y)
        algorithm.update(model)
    algorithm.finish()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for weight, mask in zip(get_sparse_weights(model), masks_of(model), strict=True):
        assert (ops.convert_to_numpy(weight.variable)[~mask] == 0).all()


@pytest.mark.parametrize("name", ["rigl", "magnitude"])
def test_gradient_accumulation_counts_updates_of_the_weights(name):
    case = CASES[name]
    model, algorithm = make_model(case, run_eagerly=True), case.make()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2), "mse", run_eagerly=True)
    seen = Watch()
    fit(model, algorithm, seen, epochs=3)
    assert seen.steps == [step // 2 for step in range(1, 19)]
    for step, found in zip(seen.steps, seen.masks, strict=True):
        counts = [int(mask.sum()) for mask in found]
        assert case.counts(algorithm, [weight.size for weight in get_sparse_weights(model)], counts, step)
    changes = [
        step
        for step, old, new in zip(seen.steps[1:], seen.masks, seen.masks[1:], strict=False)
        if not all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    ]
    assert changes and set(changes) <= {2, 4, 6, 8}


def test_an_epoch_is_counted_in_updates_of_the_weights():
    model = make_model(SGD_RIGL, run_eagerly=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2), "mse", run_eagerly=True)
    algorithm = callbacks.SET(0.7)
    updates = []
    algorithm.change_masks = updates.append
    fit(model, algorithm, epochs=3)
    # One update of the weights after the three of an epoch.
    assert updates == [4, 7]


REPLICAS = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import sys
import numpy as np
from tests.callbacks import algorithm_checks as checks

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
for name in ("rigl", "magnitude"):
    case = checks.CASES[name]
    with strategy.scope():
        model = checks.make_model(case)
    algorithm = case.make()
    seen = checks.Watch()
    checks.fit(model, algorithm, seen)
    weights = checks.get_sparse_weights(model)
    checks.check_counts(case, algorithm, [weight.size for weight in weights], seen)
    for weight in weights:
        for variable in (weight.extra_variable("mask"), weight.variable):
            first, second = (value.numpy() for value in variable.value.values)
            np.testing.assert_array_equal(first, second)
    # The same as on one device: the batch is split, and gradients are summed.
    alone = checks.make_model(case, run_eagerly=True)  # To trace its step would take longer than the twelve steps.
    checks.fit(alone, case.make())
    for one, other in zip(checks.masks_of(alone), checks.masks_of(model)):
        np.testing.assert_array_equal(one, other)
print("done")
"""


@pytest.mark.tensorflow
def test_replicas_have_the_same_masks_as_one_device():
    # A process of its own: logical devices must be set before TensorFlow starts.
    process = fresh_process.run(REPLICAS, cwd=fresh_process.ROOT)
    assert process.stdout.splitlines()[-1:] == ["done"], process.stderr[-3000:]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([keras.layers.Dense(9, activation="relu"), keras.layers.Dense(7)])
        self.outer = keras.layers.Dense(5)

    def call(self, inputs):
        return self.outer(self.inner(inputs))


def functional():
    inputs = keras.Input((12,))
    inner = keras.Sequential([keras.Input((12,)), keras.layers.Dense(12, activation="relu")], name="inner")
    hidden = keras.layers.Add()([inner(inputs), inputs])
    return keras.Model(inputs, keras.layers.Dense(5)(inner(hidden)))


def subclassed():
    model = Subclassed()
    model(checks.X)
    return model


def convolutional():
    inputs = keras.Input((12,))
    x = keras.layers.Reshape((2, 2, 3))(inputs)
    x = keras.layers.Conv2D(6, 2, padding="same", activation="relu")(x)
    x = keras.layers.DepthwiseConv2D(2, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


def attention():
    inputs = keras.Input((12,))
    ids = keras.layers.Lambda(lambda x: ops.cast(x > 0, "int32"), output_shape=(12,))(inputs)
    x = keras.layers.Embedding(7, 8)(ids)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.EinsumDense("abc,cd->abd", output_shape=(12, 3))(x)
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


MODELS = {"functional": functional, "subclassed": subclassed, "convolutional": convolutional, "attention": attention}


@pytest.mark.parametrize("kind", MODELS)
def test_a_plain_model_of_any_kind_is_prepared_by_the_callback(kind):
    model = MODELS[kind]()
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    algorithm, seen = callbacks.RigL(0.6, frequency=2, end_step=8, drop_fraction=0.5), Watch()
    fit(model, algorithm, seen)
    weights = get_sparse_weights(model)
    assert len(weights) == {"functional": 2, "subclassed": 3, "convolutional": 3, "attention": 7}[kind]
    assert len({tuple(mask.sum() for mask in found) for found in seen.masks}) == 1
    assert sum(algorithm.grown.values()) > 0 and algorithm.grown == algorithm.dropped
    live = counts_of(model)

    # A second algorithm goes on with what the first left.
    pruning = callbacks.MagnitudePruning(0.9, schedule="constant", frequency=1, begin_step=12, end_step=13)
    fit(model, pruning, epochs=1)
    assert counts_of(model) == [
        min(now, masks.number_to_keep(0.9, weight.size)) for now, weight in zip(live, weights, strict=True)
    ]


def test_two_algorithms_share_a_model():
    model = make_model(SGD_RIGL, run_eagerly=True)
    one, other = (
        callbacks.RigL(s, frequency=2, end_step=8, distribution="uniform", where=name, drop_fraction=0.5)
        for s, name in ((0.5, "first"), (0.8, "second"))
    )
    fit(model, one, other)
    assert counts_of(model) == [96, 16]
    assert len(one.grown) == len(other.grown) == 1
    assert all(sum(algorithm.grown.values()) > 0 for algorithm in (one, other))
    assert "_gradient_taps" not in vars(model.optimizer)


def test_two_algorithms_share_a_model_that_was_dense():
    model = make_model(SGD_RIGL, run_eagerly=True)
    model = sparsity_tf.to_dense(model)
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    one, other = (
        callbacks.MagnitudePruning(s, frequency=2, end_step=8, where=where)
        for s, where in ((0.5, "first"), (0.75, lambda layer: layer.units == model.get_layer("second").units))
    )
    fit(model, one, other)
    # Since Keras 3.16 the path of a variable begins with the name of its model.
    assert [weight.path.split("/")[-2:] for weight in one.weights] == [["first", "kernel"]]
    assert [weight.path.split("/")[-2:] for weight in other.weights] == [["second", "kernel"]]
    assert [one.sparsity, other.sparsity] == [0.5, 0.75]


def test_frozen_layers_are_left_alone():
    model = make_model(SGD_RIGL)
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    fit(model, callbacks.RigL(0.8, frequency=2, end_step=8, distribution="uniform"))
    assert counts_of(model) == [192, 16]
