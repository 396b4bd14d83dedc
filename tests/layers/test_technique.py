"""What every technique inherits: mask, value in training, configuration, repr."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import layers
from sparsity_tf.layers import technique


class Cutoff(technique.Technique):
    """The example of the base class's docstring."""

    name = "cutoff"

    def __init__(self, cutoff=0.5, start="zeros"):
        self.cutoff = cutoff
        self.start = technique.initializer_or_number("start", start)

    def value(self, weight, select=None):
        kernel = weight.tensor(select)
        return ops.where(ops.abs(kernel) > self.cutoff, kernel, 0)


@pytest.fixture
def weight():
    layer = layers.MaskedDense(2)
    layer.build((None, 2))
    layer.kernel.assign([[-1.0, 0.25], [0.0, 0.75]])
    return layer.sparse_weights[0]


def test_what_is_not_zero_at_inference_is_live(weight):
    assert ops.convert_to_numpy(Cutoff().mask(weight)).tolist() == [[True, False], [False, True]]
    assert Cutoff().threshold(weight) is None
    assert Cutoff().over_time(weight, ops.matmul, 1) is None


@pytest.mark.parametrize("training", [False, True])
def test_without_a_value_of_its_own_training_uses_that_of_inference(weight, training):
    outputs = Cutoff().apply(weight, ops.matmul, ops.ones((1, 2)), training)
    assert ops.convert_to_numpy(outputs).tolist() == [[-1.0, 0.75]]


def test_a_technique_must_say_what_its_values_are(weight):
    with pytest.raises(TypeError, match="Technique must define `value"):
        technique.Technique().value(weight)
    with pytest.raises(TypeError, match="Cutoff has no penalty"):
        Cutoff().penalty(weight)
    with pytest.raises(ValueError, match="mask of .*kernel' can't be assigned"):
        Cutoff().assign_mask(weight, np.ones((2, 2)))


def test_options_are_written_and_read():
    option = keras.initializers.RandomNormal(0.5, 0.1, seed=3)
    config = Cutoff(0.25, option).get_config()
    assert config["cutoff"] == 0.25 and config["start"]["class_name"] == "RandomNormal"
    again = Cutoff.from_config(config)
    assert again.cutoff == 0.25 and again.start.get_config() == option.get_config()


def test_a_technique_prints_its_options_and_theirs():
    assert repr(Cutoff()) == "Cutoff(cutoff=0.5, start=Zeros())"
    assert repr(Cutoff(1, 0.5)) == "Cutoff(cutoff=1, start=Constant(value=0.5))"
    text = repr(Cutoff(start=keras.initializers.RandomNormal(0.5, 0.1, seed=3)))
    assert all(part in text for part in ("start=RandomNormal(", "mean=0.5", "stddev=0.1", "seed=3"))
    assert "None" not in repr(Cutoff(start=keras.initializers.Constant(None)))


def test_a_number_is_a_constant_and_none_is_the_default():
    assert technique.initializer_or_number("a", 2).value == 2.0
    assert technique.initializer_or_number("a", None, -10.0).value == -10.0
    assert technique.initializer_or_number("a", None) is None
    assert isinstance(technique.initializer_or_number("a", "ones"), keras.initializers.Ones)
    function = lambda shape, dtype=None: ops.ones(shape, dtype)  # noqa: E731
    assert technique.initializer_or_number("a", function) is function
    for wrong in (True, np.ones(2)):
        with pytest.raises(ValueError):
            technique.initializer_or_number("a", wrong)


def test_a_seed_is_an_integer_or_none():
    seed = layers.VDDense(2, seed=np.int64(3)).get_config()["seed"]
    assert layers.VDDense(2).get_config()["seed"] is None
    assert seed == 3 and type(seed) is int
    with pytest.raises(ValueError, match="`seed` must be an integer.*Received: seed=1.5"):
        layers.VDDense(2, seed=1.5)


# A user's own layer: the class is checked when it is made.


class Scale(keras.layers.Layer):
    """A layer of the user's own: inputs times a vector."""

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.kernel


class ScaleWithFilters(layers.SparseLayer, Scale):
    def filter_axes(self, name="kernel"):
        return (0,)


class SparseScale(ScaleWithFilters):
    def call(self, inputs, training=False):
        return self.apply_weight("kernel", ops.multiply, inputs, training)


class MaskedScale(layers.MaskedLayer, SparseScale):
    pass


def test_a_layer_of_the_users_own_has_a_sparse_form():
    assert SparseScale.keras_class is Scale and layers.LAYER_CLASSES["masked", Scale] is MaskedScale
    model = keras.Sequential([keras.Input((4,)), Scale(name="scale")])
    sparsity_tf.sparsify(model, "masked")
    layer = model.get_layer("scale")
    assert type(layer) is MaskedScale
    layer.sparse_weights[0].assign_mask(np.array([True, False, True, False]))
    assert ops.convert_to_numpy(model(np.ones((1, 4)))).tolist() == [[1, 0, 1, 0]]
    layers.make_plain(layer)
    assert type(layer) is Scale and ops.convert_to_numpy(layer.kernel).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("bases", [(layers.MaskedLayer, ScaleWithFilters), (ScaleWithFilters,)])
def test_a_sparse_class_that_never_asks_for_its_weight_is_refused(bases):
    with pytest.raises(
        TypeError, match=r"Dense must ask .*apply_weight\('kernel', linear.*`call` is the method of Scale"
    ):
        type("Dense", bases, {"technique_class": layers.Masked})

    def call(self, inputs, training=False):
        return inputs * self.kernel

    with pytest.raises(
        TypeError, match=r"Own must ask .*no method that calls `apply_weight`; `call` is the method of Own"
    ):
        type("Own", bases, {"technique_class": layers.Masked, "call": call})
    assert not [cls for cls in layers.LAYER_CLASSES.values() if cls.__name__ in ("Dense", "Own")]


def test_a_sparse_class_without_filter_axes_is_refused():
    def call(self, inputs, training=False):
        return self.apply_weight("gain", ops.multiply, inputs, training)

    members = {"technique_class": layers.Masked, "call": call, "sparse_weight_names": ("gain",)}
    with pytest.raises(TypeError, match=r"NoFilters must define `filter_axes\(self, name='gain'\)`.*Received"):
        type("NoFilters", (layers.SparseLayer, Scale), members)


def test_a_sparse_class_without_a_keras_layer_is_refused():
    with pytest.raises(TypeError, match=r"NoLayer must have the Keras layer .*Received: bases \['SparseLayer'\]"):
        type("NoLayer", (layers.SparseLayer,), {"technique_class": layers.Masked})


def test_a_weight_may_be_asked_for_in_any_method_and_within_other_functions():
    def helper(self, inputs, training):
        return [self.apply_weight("kernel", ops.multiply, x, training) for x in [inputs]][0]

    def call(self, inputs, training=False):
        return self.helper(inputs, training)

    members = {"technique_class": Cutoff, "helper": helper, "call": call}
    assert type("Delegating", (ScaleWithFilters,), members).technique_class is Cutoff


def test_a_sparse_weight_that_the_layer_does_not_have_is_named_when_the_layer_is_built():
    class Misnamed(SparseScale):
        technique_class = Cutoff
        sparse_weight_names = ("weight",)

    with pytest.raises(ValueError, match=r"`sparse_weight_names` of Misnamed .*Received: 'weight' with .*'kernel'"):
        Misnamed().build((None, 3))
