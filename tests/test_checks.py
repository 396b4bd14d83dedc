"""Bad arguments are refused in one form of words: which argument, what is allowed, what was received."""

import re

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import (
    checks,
    datasets,
    decoding,
    distributions,
    initializers,
    inspection,
    layers,
    masks,
    models,
    schedules,
)
from sparsity_tf.distributions import budgets

NAN, INF = float("nan"), float("inf")
TENSORS = [distributions.TensorSpec("a", (4, 3))]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda v: checks.check_integer("x", v, 1), [1, np.int64(3)], [0, True, 1.0, "1", None, NAN, 10**400]),
        (lambda v: checks.check_integer("x", v, 0, 3), [0, 3], [-1, 4]),
        (lambda v: checks.check_number("x", v, above=0), [1, 0.5, np.float32(2)], [0, NAN, INF, True, "1", 10**400]),
        (lambda v: checks.check_fraction("x", v), [0, 0.5], [1, -0.1, NAN, True, "0.5", None]),
        (lambda v: checks.check_fraction("x", v, closed=True), [0, 1], [1.1, NAN]),
        (
            lambda v: checks.check_bool("x", v),
            [True, False, np.True_],
            ["false", 1, 0, None, np.array(True), np.int64(1)],
        ),
        (
            lambda v: checks.check_selection("x", v, "layer"),
            [None, "a", re.compile("a"), ["a", re.compile("b.*")], {"a"}, callable],
            [3, [], "(", ["("], [3], [None], keras.layers.Dense(2), [keras.layers.Dense(2)], np.ones(2)],
        ),
        (lambda v: checks.check_choice("x", v, ("a", 2)), ["a", 2], ["b", True, 2.0, None, [], {}]),
        (lambda v: checks.check_string("x", v), ["a"], ["", b"a", None, 3]),
        (lambda v: checks.check_callable("x", v, "step"), [abs, lambda step: 1], [lambda: 1, int, "abs", None]),
        (lambda v: checks.check_callable("x", v), [print, lambda: 1], [3, None, keras.layers.Dense(2)]),
        (lambda v: checks.check_integers("x", v, 1), [(3,), [2, 2]], [(), 3, None, "33", (0, 1), (True,), {1, 2}]),
        (lambda v: checks.check_integers("x", v, 1, length=2, unknown=True), [(None, 3)], [(3, None), (1, 2, 3)]),
        (lambda v: checks.check_array("x", v), [[1, 2], np.ones(2), 3.0], [None, "a", [[1], [2, 3]], object()]),
        (lambda v: checks.check_array("x", v, (2,)), [[True, False]], [[1, 2, 3]]),
        (lambda v: checks.check_seed("x", v), [None, 0], [-1, 1.5, "0"]),
        (lambda v: checks.check_model("x", v), [keras.Sequential()], [keras.layers.Dense(2), keras.Model, None]),
        (lambda v: checks.check_layer("x", v), [keras.layers.Dense(2)], [keras.layers.Dense, None]),
        (lambda v: checks.check_initializer("x", v), ["zeros", None], ["zeroes", 3, [], int, np.ones(2)]),
        (lambda v: checks.check_regularizer("x", v), ["l2", None], ["l3", 3, [], keras.layers.Dense(2)]),
        (lambda v: checks.check_activation("x", v), ["relu", None], ["rely", 3, []]),
    ],
)
def test_a_check_names_argument_and_value(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=r"(?s)`x` must .*\. Received: "):
            check(value)


def net():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: sparsity_tf.sparsify(net(), "masked", where=3), "where"),
        (lambda: sparsity_tf.sparsify(net(), "masked", where=lambda: True), "where"),
        (lambda: sparsity_tf.get_sparse_weights(None), "model"),
        (lambda: sparsity_tf.load_masks(None, "net.keras"), "model"),
        (lambda: sparsity_tf.load_masks(sparsity_tf.sparsify(net(), "masked"), None), "source"),
        (lambda: sparsity_tf.to_dense(None), "model"),
        (lambda: initializers.reinitialize(None), "model"),
        (lambda: initializers.PerLayerScaled(0.5, scale=NAN), "scale"),
        (lambda: initializers.PerLayerScaled(0.5, input_axes=3), "input_axes"),
        (lambda: initializers.PerUnitScaled("mask"), "mask"),
        (lambda: distributions.allocate(TENSORS, 0.5, lambda *arguments: None), "distribution"),
        (lambda: distributions.get({}), "distribution"),
        (lambda: distributions.get(lambda tensors: [0.5]), "distribution"),
        (lambda: distributions.allocate(TENSORS, 0.5, dense=lambda: True), "dense"),
        (lambda: distributions.allocate([3], 0.5), "tensors"),
        (lambda: distributions.TensorSpec(3, (4,)), "path"),
        (lambda: distributions.TensorSpec("a", 4), "shape"),
        (lambda: schedules.Piecewise(None, (1.0,)), "boundaries"),
        (lambda: schedules.Exponential(1.0, 0.5, 10, staircase="no"), "staircase"),
        (lambda: schedules.get({"class_name": "Cosine"}), "identifier"),
        (lambda: schedules.get(lambda: 1.0), "identifier"),
        (lambda: schedules.Linear(0.0, 1.0, 0, 9)("3"), "step"),
        (lambda: masks.number_of_zeros("abc", 10), "sparsity"),
        (lambda: masks.number_of_zeros(-1, 10), "sparsity"),
        (lambda: masks.number_of_zeros(1.5, 10), "sparsity"),
        (lambda: masks.number_of_zeros(0.5, -10), "size"),
        (lambda: masks.top_k_mask(np.ones(3, "float32"), NAN), "k"),
        (lambda: masks.highest(None, 0), "scores"),
        (lambda: masks.random_mask((2,), 1, None), "rng"),
        (lambda: budgets.Budget({"a": 0.5}, {"a": 1.5}), "sizes"),
        (lambda: budgets.write_csv("", {"a": 0.5}), "path"),
        (lambda: datasets.mnist(data_dir=-1), "data_dir"),
        (lambda: datasets.array_batches(None, 4), "data"),
        (lambda: datasets.parallel_corpus("tsv", "folder", reverse="no"), "reverse"),
        (lambda: inspection.sparsity_table(net(), include_dense="no"), "include_dense"),
        (lambda: inspection.specialization_anova(None, None), "dense"),
        (lambda: decoding.Decoder(None), "model"),
        (lambda: layers.Masked(mask_initializer="no_such"), "mask_initializer"),
        (lambda: layers.Masked(dense_gradient="false"), "dense_gradient"),
        (lambda: layers.SoftThreshold(threshold_initializer=NAN), "threshold_initializer"),
        (lambda: layers.VariationalDropout(log_sigma2_initializer=INF), "log_sigma2_initializer"),
        (lambda: layers.VariationalDropout(seed=-1), "seed"),
        (lambda: layers.FastGRNN(2, kernel_initializer="no_such"), "kernel_initializer"),
        (lambda: models.DotProductAttention(0), "num_heads"),
        (lambda: models.lenet_300_100(input_shape=None), "input_shape"),
        (lambda: models.resnet_50(input_shape=(224, 224)), "input_shape"),
        (lambda: models.lenet_5_caffe(num_classes=0), "num_classes"),
        (lambda: models.vgg_d(kernel_initializer="no_such"), "kernel_initializer"),
        (lambda: models.alexnet_s(kernel_initializer=""), "kernel_initializer"),
        (lambda: models.mobilenet_v1(width=INF), "width"),
        (lambda: models.lenet_300_100(technique="masked", technique_options=3), "technique_options"),
        (lambda: models.resnet(18, zero_gamma="no"), "zero_gamma"),
        (lambda: models.all_but(3), "patterns"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_the_argument(call, argument):
    with pytest.raises(ValueError, match=re.escape(f"`{argument}")):
        call()


@pytest.mark.parametrize(
    "value,bounds,right",
    [
        (0, {"least": 0}, True),
        (-1e-9, {"least": 0}, False),
        (0, {"above": 0}, False),
        (1e-9, {"above": 0}, True),
        (1, {"below": 1}, False),
        (0.999, {"below": 1}, True),
        (2, {"above": 0, "below": 1}, False),
        (-1, {"above": 0, "below": 1}, False),
        (True, {}, False),
        (float("inf"), {}, False),
        (float("nan"), {"least": 0}, False),
        ("1", {}, False),
        (np.float32(3), {}, True),
    ],
)
def test_a_number_lies_within_its_bounds(value, bounds, right):
    if right:
        checks.check_number("n", value, **bounds)
    else:
        with pytest.raises(ValueError, match="`n` must be a finite number.*Received: n="):
            checks.check_number("n", value, **bounds)


def test_long_values_are_shown_in_short():
    assert (
        checks.shown(0.5) == "0.5"
        and checks.shown("0.5") == "'0.5'"
        and checks.shown(np.float32(2)) == repr(np.float32(2))
    )
    assert checks.shown(np.zeros((3, 4), "float32")) == "<ndarray of shape (3, 4), float32>"
    text = checks.shown(list(range(1000)))
    assert len(text) == 200 and text.startswith("[0, 1, 2") and text.endswith("...")
    with pytest.raises(ValueError, match=r"Received: x=<ndarray of shape \(1000,\), float64>"):
        checks.check_number("x", np.zeros(1000))


def test_a_value_that_can_not_be_shown_does_not_hide_the_message():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no text")

    with pytest.raises(ValueError, match="`x` must be an integer.*Received: x=<Broken>"):
        checks.check_integer("x", Broken())


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: checks.check_choice("x", "masekd", ["masked", "vd"]), "(Did you mean 'masked'?)"),
        (lambda: sparsity_tf.sparsify(net(), "maksed"), "(Did you mean 'masked'?)"),
        (lambda: sparsity_tf.sparsify(net(), "masked", structur="channel"), "(Did you mean 'structure'?)"),
        (lambda: sparsity_tf.prune(net(), 0.5, by="magnitud"), "(Did you mean 'magnitude'?)"),
        (lambda: sparsity_tf.prune(net(), 0.5, distribution="unifrom"), "(Did you mean 'uniform'?)"),
        (lambda: sparsity_tf.callbacks.RigL(0.9, grow="gradiant"), "(Did you mean 'gradient'?)"),
    ],
)
def test_a_misspelt_name_gets_the_right_one(call, hint):
    with pytest.raises(ValueError, match=re.escape(hint) + "$"):
        call()


@pytest.mark.parametrize("value", ["quantum", 3, None, []])
def test_a_value_that_is_like_no_choice_gets_no_hint(value):
    with pytest.raises(ValueError, match="must be one of") as refused:
        checks.check_choice("x", value, ["masked", 2])
    assert "Did you mean" not in str(refused.value)
