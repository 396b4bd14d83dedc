"""The variables of sparse layers in Keras's files: layers that are never called, files that do not fit the model."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf.layers import MaskedDense, MaskedLSTM, SparseLayer, VDDense

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "troubleshooting.md"


@keras.saving.register_keras_serializable("tests")
class Net(keras.Model):
    """A subclassed model without a `build`. Its `call` leaves some of its layers out."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(6, activation="relu", name="hidden")
        self.spare = layers.Dense(5, name="spare")
        self.spare_cells = [layers.LSTM(3, name="spare_cells")]
        self.logits = layers.Dense(3, name="logits")

    def call(self, inputs):
        return self.logits(self.hidden(inputs))


@keras.saving.register_keras_serializable("tests")
class NetOfSparseLayers(keras.Model):
    """A model whose code makes the sparse layers itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = VDDense(6, name="hidden")
        self.spare = MaskedDense(5, name="spare")
        self.spare_cells = MaskedLSTM(3, name="spare_cells")

    def call(self, inputs, training=False):
        return self.hidden(inputs, training=training)


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A composite layer that is no model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


def rows():
    return np.random.default_rng(0).normal(size=(4, 7)).astype("float32")


def called(model):
    model(rows())
    return model


def functional():
    return keras.Sequential([keras.Input((7,)), layers.Dense(6, name="hidden"), layers.Dense(3, name="logits")])


def with_block():
    return keras.Sequential([keras.Input((7,)), Block(name="block")])


def marked_as_built():
    """A model that Keras takes for built although its layers are not: Keras warns of it."""
    model = Net()
    with pytest.warns(UserWarning, match="does not have a `build\\(\\)` method implemented"):
        model.build((None, 7))
    assert model.built and not model.hidden.built
    return model


@pytest.fixture
def weights(tmp_path):
    """A function that saves the weights of a model, and returns the path of the file."""

    def save(model):
        model.save_weights(tmp_path / "model.weights.h5")
        return tmp_path / "model.weights.h5"

    return save


# Layers that the model never calls.


@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str", "hashed"])
def test_a_layer_that_is_never_called_is_saved_and_loaded(technique, tmp_path, weights):
    model = sparsity_tf.sparsify(called(Net()), technique)
    assert isinstance(model.spare, SparseLayer) and not model.spare.built
    expected = model.predict(rows(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.spare, SparseLayer)
    np.testing.assert_array_equal(loaded.predict(rows(), verbose=0), expected)
    again = sparsity_tf.sparsify(called(Net()), technique)
    again.load_weights(weights(model))
    np.testing.assert_array_equal(again.predict(rows(), verbose=0), expected)


def test_so_is_a_sparse_layer_that_the_code_of_the_model_makes(tmp_path, weights):
    model = called(NetOfSparseLayers())
    expected = model.predict(rows(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(rows(), verbose=0), expected)
    again = called(NetOfSparseLayers())
    again.load_weights(weights(model))
    np.testing.assert_array_equal(again.predict(rows(), verbose=0), expected)


def test_a_layer_that_is_never_called_becomes_plain_and_can_then_be_called():
    model = sparsity_tf.sparsify(called(Net()), "l0")
    dense = sparsity_tf.to_dense(model)
    np.testing.assert_allclose(dense.predict(rows(), verbose=0), model.predict(rows(), verbose=0), rtol=1e-5, atol=1e-6)
    assert type(dense.spare) is layers.Dense
    assert tuple(dense.spare(rows()).shape) == (4, 5) and len(dense.spare.weights) == 2
    assert len(dense.spare_cells[0](rows()[None]).shape) == 2


def test_a_layer_that_was_never_called_gives_a_called_one_no_variables(weights):
    path = weights(sparsity_tf.sparsify(called(Net()), "masked"))
    model = sparsity_tf.sparsify(called(Net()), "masked")
    model.spare(rows())
    with pytest.raises(ValueError, match="no variables for layer 'spare'"):
        model.load_weights(path)


# Models that are marked as built, and whose layers are not.


@pytest.mark.parametrize("sparse_file", [True, False], ids=["sparse file", "dense file"])
@pytest.mark.parametrize("built_first", [True, False], ids=["build, sparsify", "sparsify, build"])
def test_weights_for_layers_that_are_not_built_are_refused(sparse_file, built_first, weights):
    source = called(Net())
    path = weights(sparsity_tf.sparsify(source, "masked") if sparse_file else source)
    if built_first:
        model = sparsity_tf.sparsify(marked_as_built(), "masked")
    else:
        model = sparsity_tf.sparsify(Net(), "masked")
        with pytest.warns(UserWarning, match="does not have a `build\\(\\)` method implemented"):
            model.build((None, 7))
    with pytest.raises(
        ValueError, match="is not built, so no variables can be loaded into it. Call the model on a batch"
    ):
        model.load_weights(path)
    model(rows())
    if sparse_file:
        model.load_weights(path)
        np.testing.assert_array_equal(model.predict(rows(), verbose=0), source.predict(rows(), verbose=0))


def test_a_layer_that_is_not_built_takes_no_variables_whatever_the_file_holds():
    for stored in ({}, {"0": np.zeros((2, 4))}, {"kernel": np.zeros((2, 4)), "mask": np.ones((2, 4), bool)}):
        with pytest.raises(ValueError, match="is not built, so no variables can be loaded into it"):
            MaskedDense(4).load_own_variables(stored)


# A file of the dense model in the sparse one, and the reverse.


@pytest.mark.parametrize("make", [functional, lambda: called(Net()), with_block], ids=["functional", "own", "block"])
def test_a_file_of_the_dense_model_is_refused_and_the_message_says_so(make, weights):
    path = weights(make())
    with pytest.raises(ValueError, match="from the dense model .load its weights before `sparsify`"):
        sparsity_tf.sparsify(make(), "masked").load_weights(path)


@pytest.mark.parametrize("make", [functional, lambda: called(Net()), with_block], ids=["functional", "own", "block"])
@pytest.mark.parametrize("technique", ["masked", "dnw"])
def test_what_keras_says_of_a_sparse_file_in_a_dense_model_is_in_the_documentation(make, technique, weights):
    """The package can't add a hint: layers of Keras read the file."""
    said = "expected 2 variables, but received 0 variables during loading"
    path = weights(sparsity_tf.sparsify(make(), technique))
    with pytest.raises(ValueError, match=said):
        make().load_weights(path)
    assert said in " ".join(PAGE.read_text(encoding="utf-8").split())
