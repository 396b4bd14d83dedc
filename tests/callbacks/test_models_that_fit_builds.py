"""Models that nobody has built before `fit`, and models that contain frozen ones."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks as c
from sparsity_tf import layers
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.algorithm_checks import BATCH, Watch, data, fit


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([keras.layers.Dense(9, activation="relu")])
        self.outer = keras.layers.Dense(5)

    def call(self, inputs):
        return self.outer(self.inner(inputs))


def sequential():
    return keras.Sequential([keras.layers.Dense(9, activation="relu"), keras.layers.Dense(5)])


def masked():
    return keras.Sequential([layers.MaskedDense(9, activation="relu"), layers.MaskedDense(5)])


def sparsity_of(model):
    weights = get_sparse_weights(model)
    return 1 - sum(weight.count() for weight in weights) / sum(weight.size for weight in weights)


@pytest.mark.parametrize("make", [sequential, Subclassed, masked])
@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.compiled)])
def test_a_model_that_fit_builds(make, eagerly):
    model, watch, monitor = make(), Watch(), c.SparsityMonitor()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=eagerly, jit_compile=False)
    algorithm = c.RigL(0.75, distribution="uniform", frequency=2, end_step=9)
    history = fit(model, monitor, algorithm, watch)
    assert watch.steps == list(range(1, 13))
    assert sum(algorithm.grown.values()) > 0
    assert history["sparsity"][-1] == sparsity_of(model) == pytest.approx(0.75, abs=0.01)
    assert monitor.rows[-1]["sparsity"] == sparsity_of(model)


def test_a_model_that_fit_builds_trains_as_one_that_was_built():
    results = []
    for built in (True, False):
        keras.utils.set_random_seed(3)
        model = sequential()
        if built:
            model.build((None, 12))
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        algorithm = c.MagnitudePruning(0.8, 1, 6, 1)
        fit(model, algorithm)
        results.append([ops.convert_to_numpy(weight.value()) for weight in get_sparse_weights(model)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_algorithms_on_a_model_that_fit_builds():
    model = keras.Sequential([layers.MaskedDense(9, name="one"), layers.MaskedDense(5, name="two")])
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, c.StaticSparsity(0.5, where="one"), c.MagnitudePruning(0.8, 1, 6, 1, where="two"))
    assert [round(weight.sparsity(), 1) for weight in get_sparse_weights(model)] == [0.5, 0.8]


def test_bad_arguments_of_a_model_that_fit_builds_leave_it_usable():
    model = sequential()
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="match no layer.*'nothing'"):
        fit(model, c.StaticSparsity(0.5, where="nothing"))
    fit(model, c.StaticSparsity(0.5))
    assert sparsity_of(model) == pytest.approx(0.5, abs=0.01)


def test_a_loop_of_ones_own_still_needs_a_built_model():
    model = sequential()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must be built before RigL is used: call it on a batch"):
        c.RigL(0.5).prepare(model)


def net(name):
    return keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(5, name="logits")],
        name=name,
    )


def distiller(teacher, student):
    distillation = pytest.importorskip("keras.distillation")
    model = distillation.Distiller(teacher, student, distillation_losses=distillation.LogitsDistillation())
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("where", [None, "hidden"])
def test_of_a_distiller_the_student_alone_is_pruned(where):
    teacher, student = net("teacher"), net("student")
    before = [ops.convert_to_numpy(weight) for weight in teacher.weights]
    model = distiller(teacher, student)
    algorithm = c.MagnitudePruning(0.8, 1, 6, 1, where=where)
    fit(model, algorithm)
    assert not get_sparse_weights(teacher)
    assert [type(layer) for layer in teacher.layers] == [keras.layers.Dense] * 2
    for now, old in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(now), old)
    found = get_sparse_weights(student)
    assert [weight.name for weight in found] == ["kernel"] * (2 if where is None else 1)
    assert all(weight.sparsity() >= 0.8 for weight in found)
    x, y = data()
    student.compile(loss="mse")
    student.evaluate(x, y, batch_size=BATCH, verbose=0)


def test_a_distiller_of_a_student_that_is_sparse_already():
    from sparsity_tf import sparsify

    teacher, student = net("teacher"), net("student")
    sparsify(student, "masked", where="hidden")
    fit(distiller(teacher, student), c.RigL(0.5, frequency=2, end_step=9))
    assert not get_sparse_weights(teacher)
    assert [weight.layer.name for weight in get_sparse_weights(student)] == ["hidden"]


def test_a_model_of_frozen_layers_is_refused_unchanged():
    model = net("frozen")
    model.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="found no masked layer to work on.*frozen"):
        fit(model, c.StaticSparsity(0.5))
    assert not get_sparse_weights(model)
