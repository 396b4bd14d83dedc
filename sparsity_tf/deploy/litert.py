"""Lists the operators of a LiteRT file and finds parts that LiteRT runs slowly or not at all: `read_operators`, `lint`.

The rules were measured on x86 or read in XNNPACK's documentation. The `source` of each rule says which.
"""

import collections
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as kl

from sparsity_tf.extras import import_optional
from sparsity_tf.inspection.tracing import trace_calls
from sparsity_tf.inspection.weights import kernel_value
from sparsity_tf.layers import flatten_layers

# The converter stores a constant sparsely from about this fraction of zeros on.
SPARSE_FROM = 0.5
_XNNPACK = "read: XNNPACK delegate's README, section Sparse Inference"


def read_operators(content):
    """Counts the operators of a LiteRT file.

    Args:
        content: bytes of the file.

    Returns:
        `(operators, sparse_tensors)`: dict from the name of an operator to the number of times that it occurs, and the
        number of tensors that are stored sparsely. If a `DENSIFY` operator unpacks such a tensor when the file is
        loaded, the tensor saves disk space, but neither memory nor time.
    """
    schema = _schema()
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.Model.GetRootAsModel(content, 0)
    operators, sparse = collections.Counter(), 0
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for i in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(i).OpcodeIndex())
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            custom = code.CustomCode()
            operators[custom.decode() if custom else names.get(number, str(number))] += 1
        sparse += sum(graph.Tensors(i).Sparsity() is not None for i in range(graph.TensorsLength()))
    return dict(operators), sparse


def _schema():
    try:
        return import_optional("ai_edge_litert.schema_py_generated")
    except ImportError:
        from tensorflow.lite.python import schema_py_generated

        return schema_py_generated


@dataclass(frozen=True)
class Finding:
    """One rule of LiteRT that a model breaks.

    Args:
        layer: path of the layer, or the model's name.
        rule: a sentence that says what is wrong and what to do.
        blocks: whether the file would not load (or only on some machines). Otherwise it would only be slow.
        source: "measured: ..." or "read: ...".
    """

    layer: str
    rule: str
    blocks: bool
    source: str

    def __str__(self):
        return f"{self.layer}: {self.rule} ({self.source})"


def lint(model):
    """Checks a model against the rules by which LiteRT runs sparse kernels.

    Args:
        model: Built Keras model of plain layers, with zeros.

    Returns:
        List of `Finding`, blocking findings first. Empty if no kernel of the model is at least half zero.
    """
    sparse = [layer for layer in flatten_layers(model) if sparsity_of(layer) >= SPARSE_FROM]
    if not sparse:
        return []
    found = []
    for layer in flatten_layers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            found.append(
                Finding(
                    layer.path,
                    "a quantized kernel that is stored sparsely does not load in the default runtime: int8 or sparse, "
                    "not both",
                    True,
                    "measured: TF 2.21 and LiteRT 2.3, x86",
                )
            )
    found += [_convolution_after_pooling(layer) for layer in convolutions_after_pooling(model)]
    for layer in sparse:
        if type(layer) is kl.Dense and not is_blocked(layer):
            rule = (
                "the zeros of this kernel do not form blocks of 4 inputs, so LiteRT unpacks it: retrain with "
                "structure='4x1' for speed"
            )
            found.append(Finding(layer.path, rule, False, "measured: LiteRT 2.3, x86, batch 1"))
    found += _xnnpack_rules(model, [layer for layer in sparse if isinstance(layer, kl.Conv2D)])
    return sorted(found, key=lambda finding: not finding.blocks)


def _convolution_after_pooling(layer):
    return Finding(
        layer.path,
        "a sparse file with a 1x1 convolution after the global pooling does not load on processors where "
        "convolutions have sparse kernels (x86 without AVX; probably ARM): use Flatten and Dense in place of the "
        "convolution",
        True,
        "measured: LiteRT 2.3 on an emulated x86 without AVX",
    )


def convolutions_after_pooling(model):
    """Convolutions on maps of one pixel, as in the head of the original MobileNet; [] if shapes are not known."""
    try:
        calls = trace_calls(model)
    except ValueError:
        return []
    found = {}
    for call in calls:
        if type(call.layer) is kl.Conv2D and tuple(call.layer.kernel_size) == (1, 1):
            axes = (1, 2) if call.layer.data_format == "channels_last" else (2, 3)
            if all(call.input_shape[axis] == 1 for axis in axes):
                found[id(call.layer)] = call.layer
    return list(found.values())


def _xnnpack_rules(model, sparse):
    """Rules for whole networks with 1x1 convolutions, some of which are sparse."""
    if not sparse:
        return []
    convolutions = [layer for layer in flatten_layers(model) if isinstance(layer, kl.Conv2D | kl.DepthwiseConv2D)]
    found = [
        Finding(
            model.name,
            "x86 processors with AVX compute all convolutions densely: sparse convolutions only make the file "
            "smaller there",
            False,
            "measured, and read: github.com/google/XNNPACK/issues/3170",
        )
    ]
    first = convolutions[0]
    right = type(first) is kl.Conv2D and tuple(first.kernel_size) == (3, 3) and tuple(first.strides) == (2, 2)
    if not right or first.kernel.shape[-2] != 3:
        rule = "for sparse inference on ARM, the first convolution must be 3x3 with stride 2 on 3 channels"
        found.append(Finding(first.path, rule, False, _XNNPACK))
    for layer in convolutions[1:]:
        size, strides = tuple(layer.kernel_size), tuple(layer.strides)
        if isinstance(layer, kl.DepthwiseConv2D):
            if size not in ((3, 3), (5, 5)) or (strides == (2, 2) and layer.padding != "valid"):
                rule = (
                    "for sparse inference on ARM, a depthwise convolution must be 3x3 or 5x5: with stride 1 and 'same' "
                )
                rule += "padding, or with stride 2 and 'valid' padding after a ZeroPadding2D"
                found.append(Finding(layer.path, rule, False, _XNNPACK))
        elif size != (1, 1) or strides != (1, 1):
            rule = (
                "for sparse inference on ARM, all convolutions between the first one and the pooling must be 1x1 "
                "with stride 1"
            )
            found.append(Finding(layer.path, rule, False, _XNNPACK))
    pointwise = [layer for layer in sparse if tuple(layer.kernel_size) == (1, 1)]
    every = [layer for layer in convolutions if type(layer) is kl.Conv2D and tuple(layer.kernel_size) == (1, 1)]
    if every:
        zeros = 1 - sum(np.count_nonzero(kernel_value(layer)) for layer in every) / sum(
            kernel_value(layer).size for layer in every
        )
        if not pointwise or zeros < 2 / 3:
            rule = (
                f"for sparse inference on ARM, two thirds of all 1x1 weights must be zero; {100 * zeros:.0f} % are zero"
            )
            found.append(Finding(model.name, rule, False, _XNNPACK))
    return found


def sparsity_of(layer):
    """Fraction of zeros in the kernel of a dense layer or convolution; 0.0 for any other layer."""
    if not isinstance(layer, kl.Dense | kl.EinsumDense | kl.Conv1D | kl.Conv2D | kl.Conv3D):
        return 0.0
    kernel = kernel_value(layer)
    return 1 - np.count_nonzero(kernel) / kernel.size


def is_blocked(layer, size=4):
    """Whether a dense kernel's zeros lie in blocks of `size` consecutive inputs of one output.

    This is so if blocks that are all zero hold nine tenths of the zeros.
    """
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    whole = kernel[: len(kernel) // size * size].reshape(-1, size, kernel.shape[1])
    zeros = np.count_nonzero(whole == 0)
    return bool(zeros) and size * np.count_nonzero(~whole.any(axis=1)) >= 0.9 * zeros
