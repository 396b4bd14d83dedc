"""Sparse models that are exported or converted as they are: right, or refused in one sentence."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf.layers import DNWDense, get_sparse_weights

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 64)).astype("float32")
OPTIONS = {"masked": {}, "str": {"threshold_initializer": -3.0}, "vd": {}, "l0": {}}


def sparse_model(technique):
    """Large enough that a converter does not compute just anything in advance; about 80 % zeros, biases not zero."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(300)])
    for layer in model.layers:
        layer.bias.assign(RNG.normal(size=layer.bias.shape))
    sparsity_tf.sparsify(model, technique, **OPTIONS[technique])
    for weight in get_sparse_weights(model):
        live = RNG.random(weight.shape) > 0.8
        if technique == "masked":
            weight.assign_mask(live)
        elif technique == "vd":
            weight.extra_variable("log_sigma2").assign(np.where(live, -10.0, 5.0))
        elif technique == "l0":
            weight.extra_variable("log_alpha").assign(np.where(live, 3.0, -5.0))
    return model


def converted(model):
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.mark.tensorflow
@pytest.mark.parametrize("technique", OPTIONS)
def test_litert_holds_the_plain_kernel_and_predicts_the_same(technique):
    model = sparse_model(technique)
    file = converted(model)
    for weight in get_sparse_weights(model):
        # LiteRT keeps the kernel of a dense layer transposed.
        assert ops.convert_to_numpy(weight.value()).T.tobytes() in file
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_content=file)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(outputs, model(X), rtol=1e-4, atol=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("file, format", [("saved", "tf_saved_model"), ("m.onnx", "onnx"), ("m.tflite", "litert")])
def test_wirings_that_are_chosen_in_every_call_are_refused(tmp_path, file, format):
    model = keras.Sequential([keras.Input((4,)), DNWDense(3, sparsity=0.5, name="wired")])
    model(X[:, :4])
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    if format == "litert" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        pytest.skip("Keras has this format since 3.13")
    with pytest.raises(ValueError, match=r"'wired'.*`sparsity_tf.to_dense\(model\)` first"):
        model.export(tmp_path / file, format=format, verbose=False)
    sparsity_tf.to_dense(model).export(tmp_path / file, format=format, verbose=False)
    # What is no export goes on.
    model.save(tmp_path / "model.keras")


@pytest.mark.tensorflow
def test_a_converter_that_swallows_errors_leaves_the_sentence_as_a_warning():
    model = keras.Sequential([keras.Input((4,)), DNWDense(3, sparsity=0.5, name="wired")])
    with pytest.warns(UserWarning, match="'wired'.*`sparsity_tf.to_dense"), pytest.raises(Exception):  # noqa: B017
        converted(model)
    assert converted(sparsity_tf.to_dense(model))


@pytest.mark.tensorflow
def test_a_dense_model_is_exported_to_onnx_before_its_first_call(tmp_path):
    pytest.importorskip("tf2onnx")
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3)])
    sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked")).export(tmp_path / "m.onnx", format="onnx")
    assert (tmp_path / "m.onnx").exists()
