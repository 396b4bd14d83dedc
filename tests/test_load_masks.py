"""`load_masks`: from models of any technique and from every kind of file; what does not fit changes nothing."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers, load_masks, sparsify
from sparsity_tf.layers import get_sparse_weights

SHAPES = [(6, 5), (5, 3)]
MASKS = [np.random.default_rng(seed).random(shape) < 0.4 for seed, shape in enumerate(SHAPES)]


def plain(units=(5, 3), names=("one", "two")):
    layers_ = [keras.layers.Dense(n, name=name) for n, name in zip(units, names, strict=True)]
    return keras.Sequential([keras.Input((6,)), *layers_])


def masked(**options):
    return sparsify(plain(**options), "masked")


def with_masks():
    model = masked()
    for weight, mask in zip(get_sparse_weights(model), MASKS, strict=True):
        weight.assign_mask(mask)
    return model


def check(model, initial, expected=None):
    """Masks are those expected; weights inside them are as they were, those outside are zero."""
    weights = get_sparse_weights(model)
    for weight, mask, old in zip(weights, expected or MASKS, initial, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight.mask()), mask)
        np.testing.assert_array_equal(ops.convert_to_numpy(weight.value()), np.where(mask, old, 0))


def values_of(model):
    return [ops.convert_to_numpy(weight.value()).copy() for weight in get_sparse_weights(model)]


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_from_a_file(suffix, tmp_path):
    source, path = with_masks(), str(tmp_path / f"model{suffix}")
    source.save(path) if suffix == ".keras" else source.save_weights(path)
    model = masked()
    initial = values_of(model)
    assert load_masks(model, path) is model
    check(model, initial)


def test_from_a_file_that_a_training_algorithm_wrote(tmp_path):
    """Such files hold more than masks: optimizer slots, and what the algorithm remembers."""
    source = masked()
    source.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=True)
    algorithm = callbacks.DynamicSparseReparameterization(0.5, frequency=1, end_step=3)
    source.fit(np.ones((4, 6)), np.ones((4, 3)), batch_size=1, verbose=0, callbacks=[algorithm])
    source.save(tmp_path / "model.keras")
    model = masked()
    initial = values_of(model)
    load_masks(model, tmp_path / "model.keras")
    check(model, initial, [ops.convert_to_numpy(weight.mask()) for weight in get_sparse_weights(source)])


@pytest.mark.tensorflow
def test_from_a_tensorflow_checkpoint(tmp_path):
    import tensorflow as tf

    source = with_masks()
    path = tf.train.Checkpoint(model=source).save(str(tmp_path / "checkpoint"))
    model = masked()
    initial = values_of(model)
    load_masks(model, path)
    check(model, initial)


@pytest.mark.tensorflow
def test_from_a_checkpoint_of_state_of_sparsity(tmp_path):
    """Named after the weights of a TensorFlow 1 graph, which are not ours: the order decides. Masks are floats."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        for index, mask in enumerate(MASKS):
            v1.get_variable(f"layer{index}/kernel", initializer=np.ones(mask.shape, "float32"))
            v1.get_variable(f"layer{index}/mask", initializer=mask.astype("float32"))
            v1.get_variable(f"layer{index}/threshold", initializer=0.5)
        session.run(v1.global_variables_initializer())
        path = v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    model = masked()
    initial = values_of(model)
    load_masks(model, path)
    check(model, initial)


@pytest.mark.parametrize("technique", ["masked", "str", "vd", "l0"])
def test_from_a_model_of_any_technique(technique):
    source = sparsify(plain(), technique)
    for weight, mask in zip(get_sparse_weights(source), MASKS, strict=True):
        if technique == "masked":
            weight.assign_mask(mask)
        elif technique == "vd":
            weight.extra_variable("log_sigma2").assign(np.where(mask, -20.0, 20.0))
        elif technique == "l0":
            weight.extra_variable("log_alpha").assign(np.where(mask, 5.0, -5.0))
        else:
            weight.variable.assign(np.where(mask, 9.0, 1e-9))
    model = masked()
    initial = values_of(model)
    load_masks(model, source)
    check(model, initial)


def test_names_come_before_the_order():
    source = sparsify(plain(units=(6, 6), names=("b", "a")), "masked")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [keras.layers.Dense(6, name="a")(inputs), keras.layers.Dense(6, name="b")(inputs)])
    sparsify(model, "masked")
    masks = {weight.layer.name: np.eye(6, dtype=bool) for weight in get_sparse_weights(source)}
    masks["b"] = ~masks["a"]
    for weight in get_sparse_weights(source):
        weight.assign_mask(masks[weight.layer.name])
    initial = values_of(model)
    load_masks(model, source)
    check(model, initial, [masks["a"], masks["b"]])


def refuse(model, source, message):
    before = [ops.convert_to_numpy(variable).copy() for variable in model.weights]
    with pytest.raises(ValueError, match=message):
        load_masks(model, source)
    for variable, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), old)


def test_what_does_not_fit_changes_nothing(tmp_path):
    refuse(plain(), with_masks(), "`model` must have masked layers.*sequential")
    refuse(masked(), plain(), "`source` holds no masks.*Sequential")
    dense = plain()
    dense.save(tmp_path / "dense.keras")
    refuse(masked(), tmp_path / "dense.keras", "`source` holds no masks.*dense.keras")
    # The first fits, the second does not.
    other = masked(units=(5, 4))
    refuse(other, with_masks(), r"a mask of shape \(5, 3\) for .*two.* of shape \(5, 4\)")
    one = sparsify(plain(), "masked", where="one")
    refuse(masked(names=("x", "y")), one, "same names or in the same number.* 1 masks .*one.* for 2 weights .*x")
    refuse(masked(), layers.MaskedDense(3), "`source` holds no masks")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises((ValueError, OSError), match="missing"):
        load_masks(masked(), tmp_path / "missing.keras")


def of_one_shape(kind):
    """Models whose masks all have one shape, with other names each time, whose file has an order of its own."""
    dense = lambda: keras.layers.Dense(8, use_bias=False)  # noqa: E731
    if kind == "classes":
        einsum = keras.layers.EinsumDense("ab,bc->ac", output_shape=(8,))
        return keras.Sequential([keras.Input((8,)), dense(), einsum, dense()])
    if kind == "towers":
        inputs = keras.Input((8,))
        towers = [keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="fc"), dense()]) for _ in range(2)]
        return keras.Model(inputs, dense()(towers[1](dense()(towers[0](inputs)))))

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.z, self.a, self.m = dense(), dense(), dense()

        def call(self, inputs):
            return self.m(self.a(self.z(inputs)))

    model = Subclassed()
    model(np.zeros((1, 8)))
    return model


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("kind", ["classes", "towers", "subclassed"])
def test_masks_of_one_shape_and_other_names_go_to_their_places(kind, suffix, tmp_path):
    source, path = sparsify(of_one_shape(kind), "masked"), str(tmp_path / f"model{suffix}")
    for count, weight in enumerate(get_sparse_weights(source), start=1):
        weight.assign_mask(np.arange(64).reshape(8, 8) < count)
    source.save(path) if suffix == ".keras" else source.save_weights(path)
    model = load_masks(sparsify(of_one_shape(kind), "masked"), path)
    weights = get_sparse_weights(model)
    assert [int(ops.convert_to_numpy(weight.mask()).sum()) for weight in weights] == list(range(1, 1 + len(weights)))
    assert not any(weight.technique.states for weight in weights)


def test_an_order_that_is_the_file_s_own_does_not_decide(tmp_path):
    source, path = sparsify(of_one_shape("classes"), "masked"), str(tmp_path / "model.keras")
    source.save(path)
    model = sparsify(keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(3))]), "masked")
    with pytest.raises(ValueError, match="with the same names or in the same number"):
        load_masks(model, path)
