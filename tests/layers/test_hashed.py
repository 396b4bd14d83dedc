"""HashedNets: the hash functions, the gradient of a shared number, honest counts, and the way back to dense layers."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf.inspection import sparsity_table
from sparsity_tf.layers import Hashed, HashedConv2D, HashedDense
from sparsity_tf.layers.hashed import shared_positions, signs_of_positions


def array(tensor):
    return ops.convert_to_numpy(tensor)


def built(size=(20, 15), **options):
    layer = HashedDense(size[1], use_bias=False, **options)
    layer.build((None, size[0]))
    return layer


def test_the_hash_functions_are_a_part_of_the_file_format():
    """These numbers must never change: files of hashed networks hold the bank alone."""
    assert shared_positions(10, 7, "hash", 0).tolist() == [4, 0, 4, 0, 6, 0, 3, 5, 3, 0]
    assert shared_positions(10, 4, "balanced", 3).tolist() == [2, 3, 2, 0, 3, 0, 1, 0, 1, 1]
    assert signs_of_positions(12, 0).tolist() == [-1, -1, 1, -1, -1, 1, -1, 1, 1, -1, 1, -1]
    assert shared_positions(3, 10**6, "hash", 2**40 + 5).tolist() == [460753, 431463, 900709]


def test_positions_are_uniform_and_signs_are_fair():
    index = shared_positions(200_000, 50, "hash", 1)
    counts = np.bincount(index, minlength=50)
    assert index.dtype == np.int32 and counts.size == 50
    assert ((counts - 4000) ** 2 / 4000).sum() < 95  # chi square with 49 degrees of freedom: 1e-4
    signs = signs_of_positions(200_000, 1)
    assert abs(signs.mean()) < 0.01
    # Neighbours, positions and their signs, and seeds are independent.
    assert abs(np.corrcoef(index[1:], index[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(index, signs)[0, 1]) < 0.01
    assert abs(np.corrcoef(index, shared_positions(200_000, 50, "hash", 2))[0, 1]) < 0.01


@pytest.mark.parametrize("size,count", [(100, 7), (30, 30), (5, 1)])
def test_balanced_numbers_have_the_same_number_of_positions(size, count):
    counts = np.bincount(shared_positions(size, count, "balanced", 0), minlength=count)
    assert counts.size == count and set(counts) <= {size // count, -(-size // count)}


@pytest.mark.parametrize(
    "compression,size,expected", [(50, 235_200, 4704), (50, 30_000, 600), (8, 300, 38), (8, 3, 1), (3, 10, 3)]
)
def test_bank_sizes(compression, size, expected):
    assert Hashed(compression=compression).bank_size(size) == expected


@pytest.mark.parametrize("assignment", ["hash", "balanced"])
@pytest.mark.parametrize("signs", [True, False])
def test_each_weight_is_a_number_of_the_bank_times_its_sign(assignment, signs):
    layer = built(compression=10, assignment=assignment, signs=signs, seed=4)
    bank, value = array(layer.bank), array(layer.sparse_weights[0].value())
    index = shared_positions(300, 30, assignment, 4)
    expected = bank[index] * (signs_of_positions(300, 4) if signs else 1)
    np.testing.assert_array_equal(value, expected.reshape(20, 15))
    np.testing.assert_array_equal(array(layer.kernel), value)
    assert [v.name for v in layer.weights] == ["bank"] and layer.count_params() == 30


def test_weights_start_with_the_distribution_of_the_initializer():
    layer = built((200, 300), compression=20, kernel_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=0))
    assert array(layer.bank).std() == pytest.approx(0.3, rel=0.05)
    assert array(layer.kernel).std() == pytest.approx(0.3, rel=0.05)


def test_numbers_start_as_the_weights_of_the_layer_that_is_made_hashed():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(5, name="a")])
    kernel = array(model.get_layer("a").kernel)
    sparsity_tf.sparsify(model, "hashednet", compression=3)
    layer = model.get_layer("a")
    assert layer.bank.shape == (10,)
    assert np.isin(np.abs(array(layer.bank)), np.abs(kernel)).all()
    assert (array(layer.kernel) == kernel).mean() > 0.2  # at the positions that gave the numbers


def test_the_gradient_of_a_number_is_the_sum_over_its_positions():
    layer = built((6, 4), compression=4, seed=1)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    before, kernel = array(layer.bank).copy(), array(layer.kernel).copy()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)).astype("float32"), rng.normal(size=(8, 4)).astype("float32")
    model.train_on_batch(x, y)
    of_kernel = x.T @ (2 * (x @ kernel - y) / y.size)
    index, signs = shared_positions(24, 6, "hash", 1), signs_of_positions(24, 1)
    expected = np.bincount(index, weights=signs * of_kernel.ravel(), minlength=6)
    np.testing.assert_allclose(before - array(layer.bank), expected, rtol=1e-4, atol=1e-5)


def test_the_table_counts_numbers_stored_and_weights():
    model = keras.Sequential([keras.Input((20,)), kl.Dense(30, name="a"), kl.Dense(10, name="b")])
    sparsity_tf.sparsify(model, Hashed(compression=10), where="a")
    table = sparsity_table(model, include_dense=True)
    assert [(row.size, row.nonzeros, row.stored, row.parameters) for row in table] == [
        (600, 600, 60, 60),
        (300, 300, None, 300),
    ]
    assert (table.sparsity, table.stored, table.compression) == (0.0, 360, 900 / 360)
    assert "compression (all weights / numbers stored): 2.5x" in str(table)
    assert model.count_params() == 60 + 30 + 300 + 10
    # All weights 940, of them 600 hashed; 40 biases and 300 other weights are dense.
    values = sparsity_table(model).summary_table().splitlines()[-1].split()
    assert values == ["940", "600", "340", "600", "400", "0.0000"]


def nested():
    inputs = keras.Input((8, 8, 2))
    x = HashedConv2D(6, 3, compression=4, activation="relu", kernel_regularizer="l2", name="conv")(inputs)
    x = kl.Flatten()(x)
    inner = keras.Sequential([keras.Input((216,)), HashedDense(7, compression=12, name="units")], name="inner")
    return keras.Model(inputs, inner(x))


def test_to_dense_gives_stock_layers_whose_weights_stand_in_keras_order(tmp_path):
    model = nested()
    for layer in sparsity_tf.layers.flatten_layers(model):
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    dense = sparsity_tf.to_dense(model)
    assert type(dense.get_layer("conv")) is kl.Conv2D
    assert [tuple(v.shape) for v in dense.weights] == [(3, 3, 2, 6), (6,), (216, 7), (7,)]
    # Since Keras 3.16 a path begins with the name of the inner model.
    paths = [v.path.removeprefix("inner/") for v in dense.weights]
    assert paths == ["conv/kernel", "conv/bias", "units/kernel", "units/bias"]
    assert dense.get_layer("conv").kernel.regularizer is not None
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    expected = array(model(x))
    np.testing.assert_allclose(array(dense(x)), expected, rtol=1e-5, atol=1e-5)
    dense.save(tmp_path / "dense.keras")
    np.testing.assert_allclose(array(keras.saving.load_model(tmp_path / "dense.keras")(x)), expected, 1e-5, 1e-5)
    # The model itself keeps its banks, and trains on.
    assert model.get_layer("conv").bank.shape == (27,)
    assert sparsity_table(dense, include_dense=True).compression == 1.0


def test_the_regularizer_acts_on_the_bank():
    layer = built(compression=10, kernel_regularizer=keras.regularizers.L2(0.5))
    layer(np.ones((1, 20), "float32"))
    assert float(array(sum(layer.losses))) == pytest.approx(0.5 * (array(layer.bank) ** 2).sum(), rel=1e-5)


def test_a_constraint_of_the_kernel_is_refused_or_skipped():
    with pytest.raises(ValueError, match="`kernel_constraint` must be None.*MaxNorm"):
        built(kernel_constraint=keras.constraints.MaxNorm())
    constrained = kl.Dense(4, kernel_constraint="max_norm", name="a")
    model = keras.Sequential([keras.Input((6,)), constrained, kl.Dense(3, name="b")])
    report = sparsity_tf.sparsify(model, "hashed").sparsify_report
    assert [entry.path.split("/")[-1] for entry in report.changed] == ["b"]
    assert "kernel_constraint can't act" in report.skipped[0].reason


def test_a_network_in_a_file_reads_the_same_numbers_and_other_seeds_read_others(tmp_path):
    model = keras.Sequential([keras.Input((9,)), HashedDense(8, compression=6, seed=5)])
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(array(loaded.layers[0].kernel), array(model.layers[0].kernel))
    other = HashedDense(8, compression=6, seed=6)
    other.build((None, 9))
    other.bank.assign(model.layers[0].bank)
    assert (array(other.kernel) != array(model.layers[0].kernel)).mean() > 0.5


def three_of_a_shape(seed=5, **options):
    inputs = x = keras.Input((8,))
    for name in "abc":
        x = kl.Dense(8, name=name)(x)
    return sparsity_tf.sparsify(keras.Model(inputs, x), "hashed", compression=6, seed=seed, **options)


def hashed_layers(model):
    return [model.get_layer(name) for name in "abc"]


def patterns(model):
    return [np.stack([layer.technique._index, layer.technique._signs]) for layer in hashed_layers(model)]


def test_layers_of_one_shape_have_patterns_of_their_own_that_the_model_alone_decides(tmp_path):
    model = three_of_a_shape()
    a, b, c = patterns(model)
    for one, other in ((a, b), (a, c), (b, c)):
        assert (one[0] == other[0]).mean() < 0.4 and (one[1] == other[1]).mean() < 0.8
    for layer, seed in zip(hashed_layers(model), (5, 6, 7), strict=True):
        np.testing.assert_array_equal(layer.technique._index, shared_positions(64, 11, "hash", seed))
    # A copy and a file keep them.
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for again in (three_of_a_shape(), loaded, keras.models.clone_model(model)):
        for one, other in zip(patterns(again), (a, b, c), strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(hashed_layers(loaded), hashed_layers(model), strict=True):
        np.testing.assert_array_equal(array(one.kernel), array(other.kernel))


def test_a_file_of_weights_is_refused_by_layers_of_other_seeds(tmp_path):
    path = tmp_path / "m.weights.h5"
    three_of_a_shape(seed=2**40 + 5).save_weights(path)
    again = three_of_a_shape(seed=2**40 + 5)
    again.load_weights(path)
    other = three_of_a_shape(seed=2)
    with pytest.raises(ValueError, match=rf"`seed` of layer 'a' must be .*: {2**40 + 5}. Received: seed=2$"):
        hashed_layers(other)[0].load_own_variables(stored(hashed_layers(again)[0]))
    with pytest.raises(ValueError, match="seed"):
        other.load_weights(path)


@pytest.mark.parametrize("options", [{"assignment": "balanced"}, {"signs": False}])
def test_weights_are_refused_by_layers_of_another_pattern(options, tmp_path):
    from sparsity_tf.train.load_weights import load_weights

    source, model = three_of_a_shape(), three_of_a_shape(**options)
    before = model.get_weights()
    source.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="`load_weights` must be .*'a/kernel' .*'hash'.*Received: load_weights="):
        load_weights(model, tmp_path / "m.keras")
    with pytest.raises(ValueError, match="`assignment` and `signs` of layer 'a' must be .*: 'hash' and True. Received"):
        hashed_layers(model)[0].load_own_variables(stored(hashed_layers(source)[0]))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Files hold only the seed if an earlier version wrote them.
    old = stored(hashed_layers(model)[0])
    hashed_layers(model)[0].load_own_variables({**old, "hash_seed": old["hash_seed"][:2]})


def stored(layer):
    store = {}
    layer.save_own_variables(store)
    return {name: array(value) for name, value in store.items()}


@pytest.mark.parametrize("position", [0, 2])
def test_files_without_seeds_keep_their_one_pattern(position, tmp_path):
    model = three_of_a_shape()
    layer = hashed_layers(model)[position]
    # As files were written before: the bank and the bias, and one seed for all layers.
    old = {name: value for name, value in stored(layer).items() if name in ("bank", "bias")}
    layer.load_own_variables(old)
    np.testing.assert_array_equal(layer.technique._index, shared_positions(64, 11, "hash", 5))
    kernel = old["bank"][shared_positions(64, 11, "hash", 5)] * signs_of_positions(64, 5)
    np.testing.assert_array_equal(array(layer.kernel), kernel.reshape(8, 8))
    assert layer.get_config()["seed"] == 5
    # A model that is saved from here on has the pattern, too.
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(array(hashed_layers(loaded)[position].kernel), array(layer.kernel))


def test_weights_loaded_by_a_program_bring_their_pattern(tmp_path):
    from sparsity_tf.train.load_weights import load_weights

    source, model = three_of_a_shape(seed=40), three_of_a_shape()
    source.save(tmp_path / "m.keras")
    load_weights(model, tmp_path / "m.keras")
    for one, other in zip(hashed_layers(source), hashed_layers(model), strict=True):
        np.testing.assert_array_equal(array(one.kernel), array(other.kernel))


def test_a_model_that_fit_builds():
    model = keras.Sequential([HashedDense(8, compression=4, activation="relu"), HashedDense(1, compression=2)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    losses = model.fit(x, x[:, :1], epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and model.layers[0].bank.shape == (10,)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"compression": 0.5}, "`compression` must be a finite number at least 1.*compression=0.5"),
        ({"compression": float("nan")}, "`compression` must be"),
        ({"assignment": "xxhash"}, "`assignment` must be one of .*assignment='xxhash'"),
        ({"signs": "yes"}, "`signs` must be True or False.*signs='yes'"),
        ({"seed": -1}, "`seed` must be an integer of at least 0.*seed=-1"),
        ({"seed": None}, "`seed` must be an integer"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hashed(**arguments)
