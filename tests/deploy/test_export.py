"""`export`: files that are right in their runtime, or one sentence and no file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf import extras
from sparsity_tf.deploy import export, litert
from sparsity_tf.deploy import export as export_function
from sparsity_tf.deploy.export import FORMATS
from sparsity_tf.deploy.runtimes import RUNTIMES, _litert_interpreter, open_runtime
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.masks import structures
from tests.deploy.models import images, predictions, randomize, zero_channels

pytestmark = pytest.mark.compiled

tensorflow_only = pytest.mark.tensorflow
PATHS = {"litert": "m.tflite", "onnx": "m.onnx", "openvino": "m.xml", "tf_saved_model": "m"}


def prune(model, sparsity=0.8, structure=None):
    """Sparse and with exact zeros, of random weights."""
    sparsity_tf.sparsify(model, "masked", structure=structure)
    rng = np.random.default_rng(0)
    for weight in get_sparse_weights(model):
        weight.assign_mask(structures.get(structure).keep_highest(rng.random(weight.shape), sparsity))
    return model


def convnet():
    inputs = keras.Input((8, 8, 3), name="picture")
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="second")(x)
    model = randomize(keras.Model(inputs, layers.Dense(5, name="last")(layers.GlobalAveragePooling2D()(x))))
    zero_channels(model.get_layer("first"), [1, 2, 5])
    return model


def mlp(units=64):
    return randomize(
        keras.Sequential(
            [keras.Input((units,)), layers.Dense(units, "relu"), layers.Dense(units, "relu"), layers.Dense(8)]
        )
    )


@pytest.fixture(scope="module")
def masked():
    return prune(convnet())


def skip_without(format):
    module = {"onnx": "onnxruntime", "openvino": "openvino"}.get(format)
    if module:
        pytest.importorskip(module)
    if format == "onnx":
        pytest.importorskip("tf2onnx")


@tensorflow_only
@pytest.mark.parametrize("format", PATHS)
def test_a_masked_network_is_right_in_every_runtime(masked, tmp_path, format):
    skip_without(format)
    path = tmp_path / PATHS[format]
    before = masked.get_weights()
    report = export(masked, path, format=format)
    assert report.difference < 1e-5 and report.parameters == sparsity_tf.to_dense(masked).count_params()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert report.bytes == sum(file.stat().st_size for file in files) > 0
    x = images((3, 8, 8, 3), seed=5)
    np.testing.assert_allclose(open_runtime(format, path)([x])[0], predictions(masked, x)[0], rtol=1e-4, atol=1e-5)
    assert [file.name for file in sorted(tmp_path.iterdir())] == (
        ["m.bin", "m.xml"] if format == "openvino" else [path.name]
    )
    assert str(path) in str(report)
    for one, two in zip(before, masked.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert get_sparse_weights(masked)


@tensorflow_only
@pytest.mark.parametrize(
    "format", ["litert", *(pytest.param(one, marks=pytest.mark.slow) for one in PATHS if one != "litert")]
)
def test_inputs_and_outputs_keep_their_order(tmp_path, format):
    skip_without(format)
    # Names whose order is not that of the model, and one shape: a mix-up would go unseen but by its values.
    z, a = keras.Input((6,), name="z"), keras.Input((6,), name="a")
    first, second = layers.Dense(3, name="y_first")(z), layers.Dense(3, name="b_second")(a)
    model = randomize(keras.Model([z, a], [first, second, layers.Add()([first, second])]))
    report = export(model, tmp_path / PATHS[format], format=format)
    assert report.difference < 1e-5


@tensorflow_only
def test_shrinking_first_makes_the_file_smaller(tmp_path):
    model = prune(convnet(), 0.5, "filter")
    large = export(model, tmp_path / "large.tflite")
    small = export(model, tmp_path / "small.tflite", shrink=True)
    assert small.parameters < 0.7 * large.parameters
    assert small.difference < 1e-5


@tensorflow_only
def test_blocks_of_four_inputs_are_computed_sparsely_and_random_zeros_are_unpacked(tmp_path):
    blocks = export(prune(mlp(128), 0.9, "4x1"), tmp_path / "blocks.tflite")
    assert (blocks.densify, blocks.sparse_tensors) == (0, 3)
    assert blocks.notes == ()
    scattered = export(prune(mlp(128), 0.9), tmp_path / "scattered.tflite")
    assert scattered.densify == scattered.sparse_tensors > 0
    assert "DENSIFY" in scattered.notes[0] and "4x1" in scattered.notes[0]
    plain = export(prune(mlp(128), 0.9), tmp_path / "plain.tflite", sparse=False)
    assert (plain.sparse_tensors, plain.densify) == (0, 0)
    assert blocks.bytes < 0.5 * plain.bytes and scattered.bytes < 0.5 * plain.bytes


@tensorflow_only
def test_int8_for_litert_needs_data_and_is_never_sparse(tmp_path):
    model = prune(convnet(), 0.5, "filter")
    plain = export(model, tmp_path / "plain.tflite", shrink=True)
    small = export(model, tmp_path / "m.tflite", shrink=True, quantize="int8", data=images((32, 8, 8, 3)))
    assert small.sparse_tensors == 0
    assert 1e-5 < small.difference < 0.1
    assert small.bytes < plain.bytes or plain.bytes < 8000
    with pytest.raises(ValueError, match="both int8 and sparse"):
        export(model, tmp_path / "n.tflite", quantize="int8", data=images(), sparse=True)
    with pytest.raises(ValueError, match="`quantize` needs `data`"):
        export(model, tmp_path / "n.tflite", quantize="int8")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["m.tflite", "plain.tflite"]


def test_int8_of_a_shrunk_network_keeps_its_zeros():
    model = prune(mlp(), 0.9)
    small = sparsity_tf.shrink(model)
    zeros = [ops.convert_to_numpy(layer.kernel) == 0 for layer in small.layers]
    x = np.random.default_rng(1).normal(size=(8, 64)).astype("float32")
    expected = predictions(small, x)[0]
    small.quantize("int8")
    for layer, dead in zip(small.layers, zeros, strict=True):
        kernel = ops.convert_to_numpy(layer._kernel)
        assert kernel.dtype == np.int8
        assert (kernel[dead] == 0).all() and dead.any()
    np.testing.assert_allclose(predictions(small, x)[0], expected, atol=0.05 * np.abs(expected).max())


def mobile_head():
    """As in the original MobileNet: the classifier is a 1x1 convolution on the pooled map."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return prune(randomize(keras.Model(inputs, layers.Conv2D(4, 1, name="head")(x))))


@tensorflow_only
def test_a_convolution_after_the_pooling_is_not_stored_sparsely(tmp_path):
    model = mobile_head()
    with pytest.raises(
        ValueError, match="`sparse` must not be True .* would not load. head: a sparse file with a 1x1 convolution"
    ):
        export(model, tmp_path / "m.tflite", sparse=True)
    assert list(tmp_path.iterdir()) == []
    report = export(model, tmp_path / "m.tflite")
    assert report.sparse_tensors == 0
    assert "a sparse file would not load: head" in report.notes[0]


@tensorflow_only
def test_a_fixed_batch(tmp_path):
    report = export(mlp(), tmp_path / "m.tflite", batch_size=1)
    assert report.difference < 1e-5
    details = _litert_interpreter()(model_path=report.path).get_input_details()[0]
    assert list(details["shape_signature"]) == [1, 64]


def refuse(error, match, *arguments, **options):
    with pytest.raises(error, match=match):
        export_function(*arguments, **options)


@tensorflow_only
@pytest.mark.parametrize("format", ["litert", "onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_ending_of_the_path_decides_the_format(tmp_path, format):
    skip_without(format)
    report = export_function(mlp(), tmp_path / PATHS[format])
    assert report.format == format


@tensorflow_only
def test_bad_input_is_refused_and_nothing_appears(tmp_path):
    model, path = mlp(), tmp_path / "m.tflite"
    refuse(ValueError, "`model` must be a Keras model", layers.Dense(3), path)
    refuse(ValueError, "`model` must be built", keras.Sequential([layers.Dense(3)]), path)
    refuse(ValueError, "`format` must be one of.*'coreml'", model, path, format="coreml")
    refuse(ValueError, "a file that ends in .tflite", model, tmp_path / "m.onnx", format="litert")
    refuse(ValueError, r"`path` must end in .*'.onnx'.*unless `format` is given.*m.bin", model, tmp_path / "m.bin")
    refuse(ValueError, r"'.onnx'.*unless `format` is given", model, tmp_path / "folder")
    refuse(ValueError, "`path` must be a path", model, 3)
    refuse(ValueError, "a folder, without an ending", model, tmp_path / "m.pb", format="tf_saved_model")
    refuse(ValueError, "in a folder that exists", model, tmp_path / "no" / "m.tflite")
    refuse(ValueError, "`shrink` must be True or False", model, path, shrink="yes")
    refuse(ValueError, "`quantize` must be one of", model, path, quantize="int4")
    refuse(ValueError, "`sparse` must be True or False", model, path, sparse=1)
    refuse(ValueError, "`batch_size` must be an integer", model, path, batch_size=0)
    refuse(
        ValueError,
        "`quantize` must be None unless format='litert'",
        model,
        tmp_path / "m",
        format="tf_saved_model",
        quantize="int8",
    )
    refuse(ValueError, r"`data` must hold inputs of the shapes \[\(64,\)\]", model, path, data=images())
    refuse(
        ValueError,
        "format='torch' can be written only with the torch backend",
        model,
        tmp_path / "m.pt2",
        format="torch",
    )
    assert list(tmp_path.iterdir()) == []


class Noise(layers.Layer):
    """Noise at inference, too."""

    def call(self, inputs):
        return inputs + keras.random.normal(ops.shape(inputs))


@tensorflow_only
def test_models_that_no_file_could_equal_are_refused(tmp_path):
    path = tmp_path / "m.tflite"
    open_shape = keras.Input((None, 3))
    refuse(ValueError, "inputs whose sizes are known", keras.Model(open_shape, layers.Conv1D(2, 3)(open_shape)), path)
    inputs = keras.Input((6,))
    by_batch = keras.Model(inputs, inputs - ops.mean(inputs, axis=0, keepdims=True))
    refuse(ValueError, "whatever other examples the batch holds", by_batch, path)
    random = keras.Model(inputs, Noise()(inputs))
    refuse(ValueError, "same outputs in every call", random, path)
    text = keras.Input((1,), dtype="string")
    refuse(ValueError, "numeric inputs", keras.Model(text, layers.StringLookup(vocabulary=["a"])(text)), path)
    broken = mlp()
    broken.layers[0].kernel.assign(np.full((64, 64), np.nan))
    refuse(ValueError, "finite outputs", broken, path)
    assert list(tmp_path.iterdir()) == []


@tensorflow_only
def test_a_file_that_computes_otherwise_never_appears(tmp_path, monkeypatch):
    import importlib

    module = importlib.import_module("sparsity_tf.deploy.export")
    path = tmp_path / "m.tflite"
    path.write_text("mine")

    def wrong(model):
        dense = sparsity_tf.to_dense(model)
        dense.layers[-1].bias.assign(np.ones(8))
        return dense

    monkeypatch.setattr(module, "to_dense", wrong)
    refuse(RuntimeError, "does not compute the same as the model.*Nothing is written", mlp(), path)
    assert path.read_text() == "mine" and [file.name for file in tmp_path.iterdir()] == ["m.tflite"]


@tensorflow_only
def test_what_the_converter_refuses_is_one_sentence(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))

    def fail(*_, **__):
        raise KeyError("no such\n  operator")

    model.export = fail
    sparsity_tf.to_dense(model)
    import importlib

    module = importlib.import_module("sparsity_tf.deploy.export")
    with pytest.raises(ValueError, match=r"`model` can't be written as 'litert': KeyError: .*operator"):
        module._write(model, tmp_path / "m.tflite", "litert", None, {})


def test_every_package_that_a_format_needs_belongs_to_an_extra():
    writers = {one.writer for one in FORMATS.values() if one.writer}
    assert writers | set(RUNTIMES.values()) <= set(extras.EXTRAS)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="formats that TensorFlow writes")
def test_other_backends_say_where_to_go(tmp_path):
    refuse(ValueError, "KERAS_BACKEND=tensorflow", mlp(), tmp_path / "m.tflite")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="needs KERAS_BACKEND=torch")
def test_torch_export(tmp_path):
    report = export(prune(mlp(), 0.5), tmp_path / "m.pt2", format="torch")
    assert report.difference < 1e-5
    run = open_runtime("torch", report.path)
    for batch in (1, 7):
        assert run([np.ones((batch, 64), "float32")])[0].shape == (batch, 8)
    z, a = keras.Input((6,), name="z"), keras.Input((6,), name="a")
    model = randomize(keras.Model([z, a], [layers.Dense(3)(z), layers.Dense(3)(a)]))
    assert export(model, tmp_path / "two.pt2", format="torch").difference < 1e-5
    assert export(mlp(), tmp_path / "one.pt2", format="torch", batch_size=1).difference < 1e-5


def rules(model):
    return {(finding.layer.rpartition("/")[2], finding.rule.split(":")[0][:40]) for finding in litert.lint(model)}


def test_the_lint_knows_what_litert_runs_densely():
    assert litert.lint(mlp()) == []
    [finding, *_] = litert.lint(sparsity_tf.to_dense(prune(mlp(), 0.9)))
    assert "structure='4x1'" in finding.rule and not finding.blocks and finding.source.startswith("measured")
    assert litert.lint(sparsity_tf.to_dense(prune(mlp(), 0.9, "4x1"))) == []
    head = litert.lint(sparsity_tf.to_dense(mobile_head()))
    assert head[0].blocks and head[0].layer == "head"
    quantized = sparsity_tf.to_dense(prune(mlp(), 0.9, "4x1"))
    quantized.quantize("int8")
    assert "int8 or sparse" in litert.lint(quantized)[0].rule and litert.lint(quantized)[0].blocks


def mobile(stride_padding="valid"):
    inputs = keras.Input((33, 33, 3))
    x = layers.Conv2D(8, 3, strides=2, name="entry")(layers.ZeroPadding2D()(inputs))
    x = layers.Conv2D(16, 1, name="wide")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding=stride_padding, name="deep")(layers.ZeroPadding2D()(x))
    x = layers.Conv2D(16, 1, name="wider")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def test_the_lint_knows_the_networks_that_arm_runs_sparsely():
    def pruned(model, zeros=0.9):
        for name in ("wide", "wider"):
            kernel = np.array(ops.convert_to_numpy(model.get_layer(name).kernel))
            kernel[..., : round(zeros * kernel.shape[-1])] = 0
            model.get_layer(name).kernel.assign(kernel)
        return model

    def broken(model):
        return [f.layer for f in litert.lint(model) if f.source.startswith("read:")]

    assert broken(pruned(mobile())) == []
    assert broken(pruned(mobile("same"))) == ["deep"]
    model = pruned(mobile(), 0.55)
    assert broken(model) == [model.name]
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3, name="b")(layers.Conv2D(4, 3, name="a")(inputs)))
    for layer in model.layers[1:]:
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    assert broken(model) == ["a", "b"]
