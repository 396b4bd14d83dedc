"""Draws have the variance of the formula, masked entries are exactly zero, and every weight draws its own numbers."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import initializers
from sparsity_tf.initializers import (
    PerLayerScaled,
    PerUnitScaled,
    ScaledConstant,
    SparseEmbeddingNormal,
    SparseGlorotUniform,
    SparseHeNormal,
    reinitialize,
)


def draw(initializer, shape, **options):
    return ops.convert_to_numpy(initializer(shape, **options)).astype("float64")


def check_moments(values, stddev):
    """Mean and standard deviation of independent entries, within five standard errors."""
    n = values.size
    assert abs(values.mean()) < 5 * stddev / math.sqrt(n)
    # The kurtosis of a normal distribution, the largest of the three used.
    assert abs(values.std() / stddev - 1) < 5 / math.sqrt(2 * n)


def random_mask(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


# Per layer.


@pytest.mark.parametrize(("sparsity", "limit"), [(0.0, 0.048412), (0.5, 0.068465), (0.9, 0.153093)])
def test_sparse_glorot_uniform(sparsity, limit):
    values = draw(SparseGlorotUniform(sparsity, seed=1), (512, 2048))
    nnz = 512 * 2048 * (1 - sparsity)
    assert math.sqrt(6 / (nnz / 2048 + nnz / 512)) == pytest.approx(limit, abs=5e-7)
    assert 0.9999 * limit < np.abs(values).max() <= limit * 1.0001
    check_moments(values, limit / math.sqrt(3))


def test_without_sparsity_it_is_glorot_uniform():
    glorot = draw(keras.initializers.GlorotUniform(seed=5), (51, 102))
    np.testing.assert_allclose(draw(SparseGlorotUniform(0.0, seed=5), (51, 102)), glorot, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("sparsity", "stddev"), [(0.0, 0.058926), (0.5, 0.083333), (0.9, 0.186339)])
def test_sparse_he_normal_counts_outputs(sparsity, stddev):
    assert math.sqrt(2 / (3 * 3 * 64 * (1 - sparsity))) == pytest.approx(stddev, abs=5e-7)
    check_moments(draw(SparseHeNormal(sparsity, seed=2), (3, 3, 16, 64)), stddev)
    assert np.abs(draw(SparseHeNormal(sparsity, seed=2), (3, 3, 64, 64))).max() > 3 * stddev


@pytest.mark.parametrize(("sparsity", "stddev"), [(0.0, 0.044194), (0.5, 0.062500), (0.9, 0.139754)])
def test_sparse_embedding_normal(sparsity, stddev):
    assert (512 * (1 - sparsity)) ** -0.5 == pytest.approx(stddev, abs=5e-7)
    check_moments(draw(SparseEmbeddingNormal(sparsity, seed=3), (700, 512)), stddev)


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "untruncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("shape", [(300, 100), (3, 3, 20, 50)])
def test_per_layer_scaled_is_variance_scaling_over_the_root_of_the_density(distribution, mode, shape):
    dense = draw(keras.initializers.VarianceScaling(2.0, mode, distribution, seed=4), shape)
    sparse = draw(PerLayerScaled(0.75, 2.0, mode, distribution, seed=4), shape)
    np.testing.assert_allclose(sparse, 2.0 * dense, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), None, "0.5"])
@pytest.mark.parametrize("cls", [PerLayerScaled, SparseGlorotUniform, SparseHeNormal, SparseEmbeddingNormal])
def test_a_sparsity_out_of_range_is_refused(cls, sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be a number in \[0, 1\)"):
        cls(sparsity)


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (SparseGlorotUniform, (3, 3, 4, 4)),
        (SparseGlorotUniform, (3,)),
        (SparseHeNormal, (3, 4)),
        (SparseEmbeddingNormal, (3, 4, 5)),
        (PerLayerScaled, (3,)),
        (PerLayerScaled, ()),
    ],
)
def test_a_shape_of_the_wrong_rank_is_refused(cls, shape):
    with pytest.raises(ValueError, match="`shape` must"):
        cls(0.5)(shape)


# Per unit.


def expected_stddev(mask, scale, mode):
    """Entry by entry, without any of the code under test."""
    expected = np.zeros(mask.shape)
    for index in np.ndindex(mask.shape):
        fan_in, fan_out = mask[..., index[-1]].sum(), mask[..., index[-2], :].sum()
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        expected[index] = math.sqrt(scale / max(1, fan)) if mask[index] else 0.0
    return expected


@pytest.mark.parametrize("distribution", ["normal", "untruncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("shape", [(60, 40), (3, 3, 12, 16)])
def test_each_live_weight_has_the_variance_of_its_units(distribution, mode, shape):
    # From almost dense to almost dead units.
    mask = random_mask(shape, np.linspace(0.02, 0.95, shape[-1]))
    values = draw(PerUnitScaled(mask, 2.0, mode, distribution, seed=5), shape)
    stddev = expected_stddev(mask, 2.0, mode)
    np.testing.assert_array_equal(values[~mask], 0.0)
    assert np.all(values[mask] != 0)
    check_moments(values[mask] / stddev[mask], 1.0)
    bound = {"uniform": math.sqrt(3), "normal": 2 / 0.8796256610342398, "untruncated_normal": math.inf}[distribution]
    assert np.all(np.abs(values[mask]) <= 1.0001 * bound * stddev[mask])


def test_a_full_mask_gives_variance_scaling():
    shape = (3, 3, 8, 16)
    dense = draw(keras.initializers.VarianceScaling(1.5, "fan_avg", "uniform", seed=6), shape)
    np.testing.assert_allclose(
        draw(PerUnitScaled(np.ones(shape), 1.5, "fan_avg", "uniform", seed=6), shape), dense, rtol=1e-4, atol=1e-7
    )


def test_the_output_of_a_sparse_unit_keeps_its_variance():
    mask = random_mask((400, 3000), 0.03, seed=1)
    kernel = draw(PerUnitScaled(mask, seed=7), mask.shape)
    outputs = np.random.default_rng(2).normal(size=(500, 400)) @ kernel
    live = mask.any(axis=0)
    assert outputs[:, live].var() == pytest.approx(1.0, rel=0.03)
    assert draw(keras.initializers.VarianceScaling(seed=7), mask.shape)[mask].var() < 0.05 * kernel[mask].var()


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_dead_units_and_empty_masks_give_zeros(mode):
    mask = np.zeros((5, 4), bool)
    np.testing.assert_array_equal(draw(PerUnitScaled(mask, mode=mode, seed=1), (5, 4)), 0.0)
    mask[2, 1] = True
    values = draw(PerUnitScaled(mask, mode=mode, seed=1), (5, 4))
    assert np.isfinite(values).all() and np.count_nonzero(values) == 1


def test_fewer_than_one_connection_on_average_counts_as_one():
    mask = np.zeros((5, 4))
    mask[2, 1] = 1
    unit = draw(PerUnitScaled(mask, distribution="uniform", seed=1), (5, 4))
    np.testing.assert_array_equal(
        draw(PerUnitScaled(mask, mode="fan_out", distribution="uniform", seed=1), (5, 4)), unit
    )
    assert abs(unit[2, 1]) <= math.sqrt(3)


def test_axes_say_which_units_an_entry_joins():
    # Depthwise: each channel is read by its own filters alone.
    mask = random_mask((3, 3, 50, 2), 0.5)
    values = draw(PerUnitScaled(mask, seed=8, input_axes=(2,), output_axes=(2, 3)), mask.shape)
    stddev = np.broadcast_to(1 / np.sqrt(np.maximum(1, mask.sum((0, 1), keepdims=True))), mask.shape)
    check_moments(values[mask] / stddev[mask], 1.0)


def test_a_shape_other_than_the_mask_is_refused():
    with pytest.raises(ValueError, match=r"`shape` must be the shape of the mask, \(2, 3\). Received: shape=\(3, 2\)"):
        PerUnitScaled(np.ones((2, 3)))((3, 2))


@pytest.mark.parametrize("mask", [1.0, [1, 0, 1]])
def test_a_mask_without_units_is_refused(mask):
    with pytest.raises(ValueError, match="`mask` must have at least two dimensions"):
        PerUnitScaled(mask)


def test_axes_that_the_mask_lacks_are_refused():
    with pytest.raises(ValueError, match="`mask` must have .* axes"):
        PerUnitScaled(np.ones((2, 3)), input_axes=(2,))


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"mode": "fan"}, {"distribution": "cauchy"}])
def test_bad_scaling_is_refused(options):
    [name] = options
    for cls, first in ((PerLayerScaled, 0.5), (PerUnitScaled, np.ones((2, 3)))):
        with pytest.raises(ValueError, match=name):
            cls(first, **options)


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 54), ("fan_out", 36), ("fan_avg", 45)])
def test_constants_have_one_magnitude_and_half_of_each_sign(mode, fan):
    shape, scaled = (3, 3, 6, 4), ScaledConstant(sparsity=0.75, mode=mode, seed=3)
    values = draw(scaled, shape)
    # STR: gain / sqrt(fan (1 - prune rate)), the gain of ReLU is sqrt(2).
    np.testing.assert_allclose(np.abs(values), math.sqrt(2 / (fan * 0.25)), rtol=1e-6)
    assert 0.35 < (values > 0).mean() < 0.65
    assert (draw(ScaledConstant(False, 0.75, mode=mode), shape) == np.abs(values)).all()
    with pytest.raises(ValueError, match="VarianceScaling family"):
        reinitialize(masked_model(kernel_initializer=scaled)[0])


@pytest.mark.parametrize("change", [{"signed": 1}, {"sparsity": 1.0}, {"scale": 0}, {"mode": "fan"}])
def test_constants_refuse_other_arguments(change):
    with pytest.raises(ValueError, match=f"`{next(iter(change))}`"):
        ScaledConstant(**change)


# As Keras initializers.

ALL = [
    (PerLayerScaled(0.5, 2.0, "fan_avg", "uniform", seed=1), (6, 4)),
    (PerLayerScaled(0.5, seed=1, input_axes=(0,), output_axes=(1, 2)), (6, 4, 2)),
    (SparseGlorotUniform(0.9, seed=1), (6, 4)),
    (SparseHeNormal(0.9, seed=1), (3, 3, 6, 4)),
    (SparseEmbeddingNormal(0.9, seed=1), (6, 4)),
    (ScaledConstant(sparsity=0.5, seed=1), (6, 4)),
    (ScaledConstant(signed=False, mode="fan_out"), (3, 3, 6, 4)),
    (PerUnitScaled(random_mask((7, 5), 0.5), 2.0, "fan_out", "untruncated_normal", seed=1), (7, 5)),
]
names = [type(initializer).__name__ for initializer, _ in ALL]


@pytest.mark.parametrize(("initializer", "shape"), ALL, ids=names)
def test_seeded_draws_repeat_also_from_a_clone_or_config(initializer, shape):
    values = draw(initializer, shape)
    config = keras.saving.serialize_keras_object(initializer)
    assert config["registered_name"].startswith("sparsity_tf>")
    for other in (
        initializer,
        initializer.clone(),
        type(initializer).from_config(initializer.get_config()),
        keras.saving.deserialize_keras_object(config),
        keras.initializers.get(config),
    ):
        np.testing.assert_array_equal(draw(other, shape), values)
        assert other.get_config() == initializer.get_config()


@pytest.mark.parametrize(("initializer", "shape"), ALL, ids=names)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_draws_have_the_dtype_that_is_asked_for(initializer, shape, dtype):
    values = initializer(shape, dtype=dtype)
    assert keras.backend.standardize_dtype(values.dtype) == dtype
    assert tuple(values.shape) == shape


def test_unseeded_draws_differ():
    assert not np.array_equal(draw(SparseGlorotUniform(0.5), (6, 4)), draw(SparseGlorotUniform(0.5), (6, 4)))


def test_a_layer_with_its_mask_and_initializer_is_saved_and_loaded(tmp_path):
    mask = random_mask((8, 5), 0.4)
    layer = sparsity_tf.layers.MaskedDense(5, kernel_initializer=PerUnitScaled(mask, seed=1), name="a")
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.sparse_weights[0].assign_mask(mask)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.layers[0].kernel_initializer.mask, mask)
    values = [ops.convert_to_numpy(m.sparse_weights[0].value()) for m in (loaded.layers[0], layer)]
    np.testing.assert_array_equal(*values)
    assert layer.sparse_weights[0].count() == mask.sum()


# Models.

KINDS = ["per_unit", "per_layer", "augmented"]


def masked_model(density=0.3, kernel_initializer="he_normal"):
    """Every kind of layer that can be masked; returns the model and the masks by path."""
    inputs = keras.Input((12,), dtype="int32")
    options = {"kernel_initializer": kernel_initializer}
    x = keras.layers.Reshape((4, 3, 20))(keras.layers.Embedding(30, 20, name="table")(inputs))
    x = keras.layers.Conv2D(24, 3, padding="same", name="conv", **options)(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", depthwise_initializer="he_normal")(x)
    x = keras.layers.EinsumDense("abcd,def->abcef", (2, 1, 4, 16), name="einsum", **options)(x)
    x = keras.layers.Dense(40, name="dense_a", **options)(keras.layers.Flatten()(x))
    x = keras.layers.Dense(40, name="dense_b", **options)(x)
    outputs = keras.layers.Dense(40, name="dense_c", **options)(x)
    model = sparsity_tf.sparsify(keras.Model(inputs, outputs), "masked")
    masks = {}
    for position, weight in enumerate(sparsity_tf.get_sparse_weights(model)):
        masks[weight.layer.name] = random_mask(weight.shape, density, seed=position)
        weight.assign_mask(masks[weight.layer.name])
    return model, masks


def values_of(model):
    return {
        w.layer.name: ops.convert_to_numpy(w.variable).astype("float64") for w in sparsity_tf.get_sparse_weights(model)
    }


def of_units(mask, axes):
    """The number of live entries that share the position along `axes`, at each entry."""
    others = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    return np.broadcast_to(np.maximum(mask.sum(others, keepdims=True), 1), mask.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_reinitialize_draws_each_layer_with_the_variance_of_its_kind(kind):
    model, masks = masked_model()
    assert reinitialize(model, kind, seed=3) is model
    values = values_of(model)
    assert list(values) == ["table", "conv", "depthwise", "einsum", "dense_a", "dense_b", "dense_c"]
    density = {name: mask.mean() for name, mask in masks.items()}
    if kind == "per_unit":
        output_axes = {"conv": (3,), "depthwise": (2, 3), "einsum": (1, 2)}
        variance = {name: 2 / of_units(mask, output_axes.get(name, (1,))) for name, mask in masks.items()}
        variance["table"] = 1 / of_units(masks["table"], (0,))
    elif kind == "per_layer":
        fan_in = {"conv": 9 * 20, "depthwise": 9, "einsum": 48, "dense_a": 128, "dense_b": 40, "dense_c": 40}
        variance = {name: 2 / (fan * density[name]) for name, fan in fan_in.items()}
        variance["table"] = 1 / (20 * density["table"])
    else:
        variance = {"conv": 2 / (9 * 24), "depthwise": 2 / (9 * 2), "einsum": 2 / (48 + 64)}
        variance |= {"dense_a": 2 / (128 + 40), "dense_b": 2 / (40 + 40), "dense_c": 2 / (40 + 40), "table": 1 / 20}
        variance = {name: value / density[name] for name, value in variance.items()}
    for name, mask in masks.items():
        np.testing.assert_array_equal(values[name] != 0, mask)
        stddev = np.broadcast_to(np.sqrt(variance[name]), mask.shape)
        check_moments(values[name][mask] / stddev[mask], 1.0)
    for weight in sparsity_tf.get_sparse_weights(model):
        np.testing.assert_array_equal(weight.mask(), masks[weight.layer.name])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_draws_its_own_numbers_and_a_seed_repeats_them(kind):
    model, masks = masked_model(density=1.0)
    values = values_of(reinitialize(model, kind, seed=3))
    assert not np.allclose(values["dense_b"], values["dense_c"])
    again, other = values_of(reinitialize(model, kind, seed=3)), values_of(reinitialize(model, kind, seed=4))
    for name in masks:
        np.testing.assert_array_equal(values[name], again[name])
        assert not np.allclose(values[name], other[name])
    # A neighbouring seed must not repeat the numbers one weight later.
    assert not np.allclose(other["dense_b"], values["dense_c"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_without_live_entries_is_zero(kind):
    model, _ = masked_model(density=0.0)
    assert all(not value.any() for value in values_of(reinitialize(model, kind, seed=1)).values())


def test_an_initializer_replaces_the_layers_own():
    model, masks = masked_model(kernel_initializer="zeros")
    with pytest.raises(ValueError, match="VarianceScaling family.*Zeros.*'conv'"):
        reinitialize(model, seed=1)
    reinitialize(model, "per_unit", keras.initializers.VarianceScaling(3.0, "fan_in", "uniform"), seed=1)
    values = values_of(model)
    stddev = np.sqrt(3 / of_units(masks["dense_a"], (1,)))[masks["dense_a"]]
    check_moments(values["dense_a"][masks["dense_a"]] / stddev, 1.0)
    reinitialize(model, "per_layer", "lecun_normal")
    reinitialize(model, "augmented")


def test_the_density_is_not_counted_twice():
    model, masks = masked_model(kernel_initializer=PerLayerScaled(0.99, 2.0))
    values, mask = values_of(reinitialize(model, "per_unit", seed=1))["dense_a"], masks["dense_a"]
    check_moments(values[mask] / np.sqrt(2 / of_units(mask, (1,)))[mask], 1.0)


def test_a_refused_model_is_unchanged():
    model, _ = masked_model(kernel_initializer="zeros")
    model.get_layer("dense_a").kernel_initializer = keras.initializers.HeNormal()
    before = values_of(model)
    with pytest.raises(ValueError, match="`initializer`"):
        reinitialize(model)
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_other_variables_and_layers_stay():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="a", bias_initializer="ones")])
    model.add(keras.layers.Dense(4, name="b"))
    model.add(keras.layers.Dense(3, name="c"))
    sparsity_tf.sparsify(model, "masked", where="a")
    sparsity_tf.sparsify(model, "vd", where="b")
    before = [ops.convert_to_numpy(variable) for variable in model.variables]
    reinitialize(model, seed=1)
    changed = [
        variable.path.split("/", 1)[1]
        for variable, old in zip(model.variables, before, strict=True)
        if not np.array_equal(ops.convert_to_numpy(variable), old)
    ]
    assert changed == ["a/kernel"]


def test_bad_arguments_are_refused():
    model, _ = masked_model()
    with pytest.raises(ValueError, match="`kind` must be .*'per_neuron'"):
        reinitialize(model, "per_neuron")
    with pytest.raises(ValueError, match="`initializer` must be a Keras initializer of the VarianceScaling family"):
        reinitialize(model, initializer="ones")
    with pytest.raises(ValueError, match="`initializer` must be None with kind='augmented'"):
        reinitialize(model, "augmented", "he_normal")
    for other in (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), keras.Sequential()):
        with pytest.raises(ValueError, match="`model` must have masked layers"):
            reinitialize(other)
    learned = sparsity_tf.sparsify(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), "str")
    with pytest.raises(ValueError, match="`model` must have masked layers"):
        initializers.reinitialize(learned)


def test_recurrent_kernels_have_an_initializer_of_another_name():
    layer = keras.layers.LSTM(8, recurrent_initializer="glorot_uniform")
    model = sparsity_tf.sparsify(keras.Sequential([keras.Input((6, 4)), layer]), "masked")
    initializers.reinitialize(model, seed=1)
    recurrent = ops.convert_to_numpy(model.layers[0].cell.recurrent_kernel)
    # Glorot's limit is that of the whole matrix of four gates.
    assert 0.9 < np.abs(recurrent).max() / math.sqrt(6 / (8 + 32)) <= 1
