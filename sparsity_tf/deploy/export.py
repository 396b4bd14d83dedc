"""Exports a sparse model to a file of another runtime and checks the file in that runtime: `export`."""

import contextlib
import os
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as kl

from sparsity_tf.atomic_files import appearing
from sparsity_tf.backend import backend_name
from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_bool, check_built, check_choice, check_integer, check_model, check_path, shown
from sparsity_tf.deploy import litert
from sparsity_tf.deploy.export_report import ExportReport
from sparsity_tf.deploy.runtimes import open_runtime, require_runtime
from sparsity_tf.deploy.shrink import shrink as shrink_model
from sparsity_tf.extras import import_optional
from sparsity_tf.inspection.forward import batches_of
from sparsity_tf.inspection.tracing import symbolic_inputs
from sparsity_tf.layers import flatten_layers
from sparsity_tf.to_dense import to_dense
from sparsity_tf.type_names import Data, PathLike


@dataclass(frozen=True)
class _Format:
    """One format: ending of the path ("" for a folder), Keras backends that can write it, package that writes it."""

    ending: str
    backends: tuple
    writer: str | None = None


FORMATS = {
    "litert": _Format(".tflite", ("tensorflow",)),
    "onnx": _Format(".onnx", ("tensorflow",), "tf2onnx"),
    "openvino": _Format(".xml", ("tensorflow",)),
    "tf_saved_model": _Format("", ("tensorflow",)),
    "torch": _Format(".pt2", ("torch",)),
}
_EXAMPLES = 4
_TOLERANCES = {"float16": 2e-2, "bfloat16": 8e-2, "mixed": 8e-2}
_TOLERANCE = 1e-4
# Quantisation after training rounds. A difference of more than this fraction of the largest output is an error.
_TOLERANCE_OF_INT8 = 0.5
_BATCH_TOLERANCE = 1e-3


def export(
    model: keras.Model,
    path: PathLike,
    format: str | None = None,
    shrink: bool = False,
    quantize: str | None = None,
    data: Data | None = None,
    sparse: bool | None = None,
    batch_size: int | None = None,
) -> ExportReport:
    """Writes a model as a file of another runtime, runs the file there, and compares the outputs.

    `to_dense` first converts a sparse model, because a converter that sees masks and thresholds writes a large, slow or
    wrong file. The file appears under its name only after the check. It replaces an older file of the same name. The
    model is left as it is.

    The gain from zeros depends on the format. LiteRT stores a kernel that is mostly zero sparsely (`sparse`), and also
    computes sparsely in dense layers with `structure="4x1"`. ONNX, OpenVINO, SavedModel and torch store and multiply
    zeros as any other weight: there only `shrink=True` gains.

    Args:
        model: Built Keras model, sparse or dense, whose input shapes are fixed except for the batch.
        path: Where to write. The ending must fit the format: `.tflite`, `.onnx`, `.xml` (OpenVINO, which writes a
            `.bin` beside it), `.pt2` (torch); a SavedModel is a folder.
        format: "litert", "onnx", "openvino", "tf_saved_model", or "torch" (`torch.export`); `None` (default): the
            ending of `path` decides. A SavedModel is a folder, has no ending, and so needs the argument. The first
            four need the TensorFlow backend of Keras, the last the torch backend. The runtimes are separate packages;
            if one is missing, the error says what to install.
        shrink: Whether to remove units and filters that do nothing (`sparsity_tf.shrink`).
        quantize: `None`, or "int8" for LiteRT: quantisation of weights and activations after training. Inputs and
            outputs stay float32. It needs `data`. (A model that Keras's `quantize("int8")` made is exported as it is.)
        data: Representative inputs: an array, or an iterable of batches, as for `estimate_speedup`. The check of the
            outputs uses the first examples, or random inputs if there are no data.
        sparse: Whether a LiteRT file stores kernels sparsely. `None` (default): yes if at least one kernel is half zero
            and the file will load; otherwise a note in the report says why not. It can't be combined with `quantize`:
            LiteRT does not load such files.
        batch_size: Fixed batch size, or `None` for any batch size.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: `model` is not built, has inputs of unknown shape, or has outputs that depend on other examples of
            the batch or on chance; `path` has another ending, or its folder does not exist; this backend can't write
            the format, or the file would not load; or the converter refuses the model.
        ImportError: a package is missing.
        RuntimeError: the outputs of the file differ from the model's. No file is left then.

    Example:

    ```python
    report = sparsity_tf.export(model, "model.tflite", shrink=True)
    print(report)
    ```
    """
    check_model("model", model)
    check_built("model", model)
    if format is None:
        format = _format_of(path)
    check_choice("format", format, FORMATS)
    path = _checked_path(path, format)
    check_bool("shrink", shrink)
    if quantize is not None:
        check_choice("quantize", quantize, ["int8"])
    if sparse is not None:
        check_bool("sparse", sparse)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    _check_combination(format, quantize, data, sparse)
    _check_packages(format)
    shapes = _input_specs(model)
    inputs = example_inputs(model, data, batch_size or _EXAMPLES)
    expected = _outputs(model, inputs)
    _check_outputs(model, inputs, expected)
    dense = shrink_model(model) if shrink else to_dense(model)
    options, notes = {}, []
    if format == "litert":
        options, notes = _litert_options(dense, quantize, data, sparse)
    elif format == "torch" and batch_size is None:
        options = _any_batch(shapes)
    with appearing(path) as unfinished:
        signature = None if batch_size is None else _signature(dense, shapes, batch_size)
        _write(dense, unfinished, format, signature, options)
        difference = _difference_in_runtime(unfinished, format, dense, inputs, expected, quantize)
        operators, sparse_tensors = {}, 0
        if format == "litert":
            with open(unfinished, "rb") as file:
                operators, sparse_tensors = litert.read_operators(file.read())
            notes += _litert_notes(operators, sparse_tensors, options)
        size = _size(unfinished)
        if format == "openvino":
            size += _move_weights(unfinished, path)
    return ExportReport(path, format, size, difference, dense.count_params(), operators, sparse_tensors, tuple(notes))


def _format_of(path):
    """The format that the ending of a path means."""
    check_path("path", path)
    endings = {one.ending: name for name, one in FORMATS.items() if one.ending}
    ending = os.path.splitext(os.fspath(path))[1]
    if ending not in endings:
        raise ValueError(
            f"`path` must end in one of {list(endings)} unless `format` is given, which is one of {list(FORMATS)}. "
            f"Received: path={shown(os.fspath(path))}"
        )
    return endings[ending]


def _checked_path(path, format):
    check_path("path", path)
    path, ending = os.fspath(path), FORMATS[format].ending
    right = path.endswith(ending) if ending else not os.path.splitext(path)[1]
    right = right and os.path.isdir(os.path.dirname(os.path.abspath(path)))
    right = right and (not os.path.exists(path) or os.path.isdir(path) == (not ending))
    if not right:
        what = f"a file that ends in {ending}" if ending else "a folder, without an ending"
        raise ValueError(
            f"`path` must be the name of {what} for format={format!r}, in a folder that exists. Received: path={path!r}"
        )
    return path


def _check_combination(format, quantize, data, sparse):
    if format != "litert" and (quantize is not None or sparse is not None):
        name, value = ("quantize", quantize) if quantize is not None else ("sparse", sparse)
        raise ValueError(
            f"`{name}` must be None unless format='litert'. Received: {name}={value!r}, format={format!r}"
            + (" (For other formats, call `model.quantize` of Keras before `export`.)" if name == "quantize" else "")
        )
    if quantize is not None and sparse:
        raise ValueError(
            "`quantize` and `sparse` exclude each other, because LiteRT does not load kernels that are both int8 and "
            f"sparse: give only one of them. Received: quantize={quantize!r}, sparse={sparse}"
        )
    if quantize is not None and data is None:
        raise ValueError(f"`quantize` needs `data`, a few representative batches. Received: quantize={quantize!r}")


def _check_packages(format):
    backend, allowed = backend_name(), FORMATS[format].backends
    if backend not in allowed:
        raise ValueError(
            f"format={format!r} can be written only with the {' or '.join(allowed)} backend of Keras. Save the model, "
            f"start Python anew with KERAS_BACKEND={allowed[0]}, load the model and export it. Received: "
            f"backend={backend!r}"
        )
    if FORMATS[format].writer is not None:
        import_optional(FORMATS[format].writer)
    require_runtime(format)


def _input_specs(model):
    """The model's inputs as symbolic tensors of batch size 1, in the structure that the model's call takes."""
    try:
        args, kwargs = symbolic_inputs(model)
    except ValueError as error:
        raise ValueError(
            "`model` must have inputs whose sizes are known, except the batch size. Build it with these sizes. "
            f"Received: model={model.name!r}, {one_line(error)}"
        ) from error
    if len(args) != 1 or kwargs:
        raise ValueError(
            "`model` must be called with one argument: an input, or a list or dict of inputs. Received: "
            f"model={model.name!r}, called with {len(args)} arguments and {sorted(kwargs)}"
        )
    for spec in keras.tree.flatten(args[0]):
        if not ("float" in spec.dtype or "int" in spec.dtype):
            raise ValueError(f"`model` must have numeric inputs. Received: an input of dtype {spec.dtype}")
    return args[0]


def example_inputs(model, data, count):
    """Makes inputs on which to run a model.

    Args:
        model: Built Keras model.
        data: Batches from which the first examples are taken, or `None` for random inputs.
        count: Number of examples.

    Returns:
        List of arrays, the flattened inputs.

    Raises:
        ValueError: the model's input shapes are not known, or `data` has other shapes.
    """
    specs = _input_specs(model)
    flat = keras.tree.flatten(specs)
    if data is not None:
        inputs = next(iter(_batches(data)))
        if len(inputs) != len(flat) or any(
            tuple(x.shape[1:]) != tuple(spec.shape[1:]) for x, spec in zip(inputs, flat, strict=True)
        ):
            raise ValueError(
                f"`data` must hold inputs of the shapes {[tuple(spec.shape[1:]) for spec in flat]}. "
                f"Received: {[tuple(x.shape[1:]) for x in inputs]}"
            )
        rows = np.arange(count) % len(inputs[0])
        return [x[rows].astype(spec.dtype) for x, spec in zip(inputs, flat, strict=True)]
    rng = np.random.default_rng(0)
    rows = [layer.input_dim for layer in flatten_layers(model) if isinstance(layer, kl.Embedding)]
    arrays = []
    for spec in flat:
        shape = (count, *spec.shape[1:])
        if rows or "int" in spec.dtype:
            arrays.append(rng.integers(0, min(rows, default=2), shape).astype(spec.dtype))
        else:
            arrays.append(rng.normal(size=shape).astype(spec.dtype))
    return arrays


def _batches(data):
    """Batches of `data` as lists of arrays."""
    for inputs, _ in batches_of(data):
        yield [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(inputs)]


def packed(model, inputs):
    """Packs flattened inputs into the structure that the model's call takes."""
    return keras.tree.pack_sequence_as(_input_specs(model), inputs)


def _outputs(model, inputs):
    """Outputs of inference as a flat list of arrays."""
    outputs = model(packed(model, [keras.ops.convert_to_tensor(x) for x in inputs]), training=False)
    return [keras.ops.convert_to_numpy(x).astype("float64") for x in keras.tree.flatten(outputs)]


def _check_outputs(model, inputs, expected):
    """Refuses outputs that depend on chance or on other examples: no file could be compared with them."""
    if not all(np.isfinite(x).all() for x in expected):
        raise ValueError(
            f"`model` must have finite outputs on its inputs. Received: model={model.name!r}, with outputs that are "
            "NaN or infinite"
        )
    if _difference(expected, _outputs(model, inputs)) > _BATCH_TOLERANCE:
        raise ValueError(
            f"`model` must give the same outputs in every call. Received: model={model.name!r}, whose outputs are "
            "partly random"
        )
    if any(x.ndim == 0 or len(x) != len(inputs[0]) for x in expected) or len(inputs[0]) == 1:
        return
    alone = _outputs(model, [x[:1] for x in inputs])
    if _difference([x[:1] for x in expected], alone) > max(_BATCH_TOLERANCE, _tolerance(model)):
        raise ValueError(
            "`model` must give an example the same outputs, whatever other examples the batch holds. Received: "
            f"model={model.name!r}, whose outputs depend on the other examples (is a layer called with training=True?)"
        )


def _tolerance(model):
    dtypes = {str(getattr(layer, "compute_dtype", None)) for layer in flatten_layers(model)}
    return max((_TOLERANCES.get(dtype, _TOLERANCE) for dtype in dtypes), default=_TOLERANCE)


def _difference(one, two):
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape or not np.isfinite(b).all():
            return np.inf
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
    return worst


def _signature(model, specs, batch_size):
    names = _input_names(model, specs)
    flat = keras.tree.flatten(specs)
    signature = [
        keras.InputSpec(shape=(batch_size, *spec.shape[1:]), dtype=spec.dtype, name=name)
        for spec, name in zip(flat, names or [None] * len(flat), strict=True)
    ]
    return [keras.tree.pack_sequence_as(specs, signature)]


def _input_names(model, specs):
    """Flat list of the input names of a functional or sequential model; [] for other models."""
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != len(keras.tree.flatten(specs)):
        return []
    return [x.name for x in inputs]


def _litert_options(model, quantize, data, sparse):
    """Options of Keras's LiteRT export, and notes on options that are left out."""
    import tensorflow as tf

    if quantize is not None:
        return {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: _one_by_one(data),
        }, []
    findings = litert.lint(model)
    blocking = [finding for finding in findings if finding.blocks]
    if sparse and blocking:
        raise ValueError(f"`sparse` must not be True for this model, because the file would not load. {blocking[0]}")
    wanted = any(litert.sparsity_of(layer) >= litert.SPARSE_FROM for layer in flatten_layers(model))
    if sparse or (sparse is None and wanted and not blocking):
        return {"optimizations": [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]}, []
    if sparse is None and blocking:
        return {}, [f"the file stores zeros like other numbers, because a sparse file would not load: {blocking[0]}"]
    return {}, []


def _any_batch(specs):
    """Options of Keras's torch export for any batch size; without them the export fixes the batch size."""
    import torch

    batch = torch.export.Dim("batch")
    shapes = keras.tree.map_structure(lambda _: {0: batch}, specs)
    # The call of a Keras model takes `*args`. For torch this is one argument, a tuple.
    return {"dynamic_shapes": [(shapes,)]}


def _one_by_one(data):
    for batch in _batches(data):
        for row in range(len(batch[0])):
            yield [x[row : row + 1].astype("float32") for x in batch]


def _litert_notes(operators, sparse_tensors, options):
    densify = operators.get("DENSIFY", 0)
    if densify:
        return [
            f"{densify} of {sparse_tensors} sparse kernels are unpacked when the file is loaded (DENSIFY): the file is "
            "smaller, but not faster. Only Dense layers with structure='4x1' are computed sparsely"
        ]
    return []


def _write(model, path, format, signature, options):
    try:
        with _quiet():
            model.export(path, format=format, verbose=False, input_signature=signature, **options)
    except ImportError:
        raise
    except Exception as error:  # Converters raise many kinds of errors.
        raise ValueError(
            f"`model` can't be written as {format!r}: {type(error).__name__}: {one_line(error)}. "
            f"Received: model={model.name!r}"
        ) from error


@contextlib.contextmanager
def _quiet():
    """Silences converters: they print to the process's own streams, and their warnings concern their own code."""
    import logging
    import warnings

    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _difference_in_runtime(path, format, model, inputs, expected, quantize):
    names = _input_names(model, _input_specs(model))
    try:
        with _quiet():
            found = [np.asarray(x, "float64") for x in open_runtime(format, path, names)(inputs)]
    except Exception as error:
        raise RuntimeError(
            f"The {format!r} file of {model.name!r} does not run in its runtime: {one_line(error)}. Nothing is written."
        ) from error
    if len(found) != len(expected):
        raise RuntimeError(
            f"The {format!r} file of {model.name!r} has {len(found)} outputs, the model has {len(expected)}. "
            "Nothing is written."
        )
    difference = _difference(expected, found)
    allowed = _TOLERANCE_OF_INT8 if quantize else _tolerance(model)
    if not difference <= allowed:
        raise RuntimeError(
            f"The {format!r} file of {model.name!r} does not compute the same as the model: the largest difference is "
            f"{difference:.2g} of the largest output, and {allowed:g} is allowed. Nothing is written."
        )
    return difference


def _size(path):
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _move_weights(unfinished, path):
    """Moves OpenVINO's weights, which lie beside the `.xml`, to their final place before it. Returns their size."""
    weights = os.path.splitext(unfinished)[0] + ".bin"
    size = os.path.getsize(weights)
    with appearing(os.path.splitext(path)[0] + ".bin") as target:
        os.replace(weights, target)
    return size
