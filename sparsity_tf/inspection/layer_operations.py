"""How often a call of a layer uses each of its weights: the arithmetic of `count_flops`, one function for each kind.

These functions look at shapes only, not at weights and their zeros. A kind of layer that is not listed is not counted
by guessing.
"""

import math
from collections import namedtuple

import keras
from keras import layers as kl

from sparsity_tf.backend import ConvLSTMCell
from sparsity_tf.inspection.tracing import size_of
from sparsity_tf.inspection.weights import own_matrices, weight_records
from sparsity_tf.layers import flatten_layers
from sparsity_tf.layers.fast_grnn import FastGRNNCell
from sparsity_tf.models.transformer_layers import DotProductAttention

Operation = namedtuple("Operation", ["layer", "weight", "uses", "outputs", "note"], defaults=[""])
Operation.__doc__ = """One product of a call.

Args:
    layer: the layer whose row it belongs to.
    weight: name of the weight, or `None` for a product without weights.
    uses: how many multiply-accumulates each entry of the weight takes part in; without a weight,
        all of them.
    outputs: number of output elements, of which each is one sum.
    note: what to say in the row.
"""

LayerOperations = namedtuple("LayerOperations", ["layers", "operations", "problem"])
LayerOperations.__doc__ = """What a call costs.

Args:
    layers: the layers that the call accounts for.
    operations: list of `Operation`.
    problem: `None`, or why the call cannot be counted.
"""


def operations_of(call, convention):
    """Finds the operations of one recorded call.

    Args:
        call: a `LayerCall`.
        convention: `"mac"` or `"rigl"`.

    Returns:
        A `LayerOperations`.
    """
    layer = call.layer
    for classes, function in _KINDS:
        if isinstance(layer, classes):
            attended = [call.arguments.get("key"), call.arguments.get("value")]
            shapes = keras.tree.flatten([call.input_shape, call.output_shape] + [x for x in attended if x is not None])
            if any(size is None for size in shapes):
                return LayerOperations(flatten_layers(layer), [], "its shapes are not known")
            return function(call, convention)
    if own_matrices(layer) or weight_records(layer):
        return LayerOperations([layer], [], f"{type(layer).__name__} is not a known kind")
    return LayerOperations([], [], None)


def _counted(*operations):
    return LayerOperations([operation.layer for operation in operations], list(operations), None)


def _spatial(layer, shape):
    """The sizes of a tensor's positions: its shape without batch and channels."""
    return shape[1:-1] if layer.data_format == "channels_last" else shape[2:]


def _convolution_positions(layer, input_shape, output_shape, convention):
    """Number of outputs of one filter of a convolution, for all examples."""
    positions = _spatial(layer, output_shape)
    if convention == "rigl" and layer.padding == "same":
        # Strides and dilations are tuples with one entry for each dimension, also in depthwise and separable layers.
        spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
        positions = [
            math.ceil((size - span + 1 + 2 * (span // 2)) / stride)
            for size, span, stride in zip(_spatial(layer, input_shape), spans, layer.strides, strict=True)
        ]
    return input_shape[0] * math.prod(positions)


def _dense(call, convention):
    outputs = size_of(call.output_shape)
    return _counted(Operation(call.layer, "kernel", outputs // call.layer.units, outputs))


def _einsum_dense(call, convention):
    layer = call.layer
    left, right = layer.equation.replace(" ", "").split("->")[0].split(",")
    front, _, back = left.partition("...")
    shape = call.input_shape
    # An ellipsis has no labels. Labels before it count from the front, labels after it from the back.
    labels = dict(zip(front, shape[: len(front)], strict=True))
    labels |= dict(zip(back, shape[len(shape) - len(back) :], strict=True))
    free = [size for label, size in labels.items() if label not in right]
    if "..." in left:
        free += shape[len(front) : len(shape) - len(back)]
    return _counted(Operation(layer, "kernel", math.prod(free), size_of(call.output_shape)))


def _convolution(call, convention):
    positions = _convolution_positions(call.layer, call.input_shape, call.output_shape, convention)
    return _counted(Operation(call.layer, "kernel", positions, positions * call.layer.filters))


def _depthwise_convolution(call, convention):
    positions = _convolution_positions(call.layer, call.input_shape, call.output_shape, convention)
    channels = math.prod(call.layer.kernel.shape[-2:])
    return _counted(Operation(call.layer, "kernel", positions, positions * channels))


def _separable_convolution(call, convention):
    layer = call.layer
    positions = _convolution_positions(call.layer, call.input_shape, call.output_shape, convention)
    channels = math.prod(layer.depthwise_kernel.shape[-2:])
    return _counted(
        Operation(layer, "depthwise_kernel", positions, positions * channels),
        Operation(layer, "pointwise_kernel", positions, positions * layer.filters),
    )


def _transposed_convolution(call, convention):
    # Each weight is used once for every *input* position. Products that fall outside the output count, as the zeros of
    # padding do in a convolution.
    uses = call.input_shape[0] * math.prod(_spatial(call.layer, call.input_shape))
    return _counted(Operation(call.layer, "kernel", uses, size_of(call.output_shape)))


def _lookup(call, convention):
    return LayerOperations([call.layer], [], None)


def _reversible_embedding(call, convention):
    layer = call.layer
    if not call.arguments.get("reverse", False):
        return _lookup(call, convention)
    outputs = size_of(call.output_shape)
    weight = "embeddings" if layer.tie_weights else "reverse_embeddings"
    return _counted(Operation(layer, weight, outputs // layer.input_dim, outputs))


_CELLS = (kl.SimpleRNNCell, kl.LSTMCell, kl.GRUCell, FastGRNNCell)


def _cell_step(cell, steps):
    if isinstance(cell, FastGRNNCell):
        return _matrix_step(cell, "kernel", steps) + _matrix_step(cell, "recurrent", steps)
    # The sum over the state is added to the sum over the inputs. V counts both, so the outputs are counted once.
    return [
        Operation(cell, "kernel", steps, steps * cell.kernel.shape[-1]),
        Operation(cell, "recurrent_kernel", steps, 0),
    ]


def _matrix_step(cell, prefix, steps):
    """The products of a `FastGRNNCell` with W ("kernel") or U ("recurrent"), stored as one matrix or as two factors."""
    outputs = steps * cell.units if prefix == "kernel" else 0
    left = getattr(cell, f"{prefix}_left", None)
    if left is None:
        return [Operation(cell, "kernel" if prefix == "kernel" else "recurrent_kernel", steps, outputs)]
    rows, rank = left.shape
    gain = f"{prefix}_gain"
    if gain in {record.name for record in weight_records(cell)}:
        # A gain of zero saves its column of the left factor, its row of the right factor, and its own product.
        return [Operation(cell, gain, steps * (rows + 1 + cell.units), outputs, "products of each rank")]
    operations = [
        Operation(cell, f"{prefix}_left", steps, steps * rank),
        Operation(cell, f"{prefix}_right", steps, outputs),
    ]
    return operations + [Operation(cell, None, steps * rank, 0)] * cell.gains


def _cell(call, convention):
    return _counted(*_cell_step(call.layer, call.input_shape[0]))


def _recurrent_convolution(call, convention):
    """A `ConvLSTM`. Each step convolves its inputs, and the last outputs, with kernels for all four gates."""
    layer, cell, steps = call.layer, call.layer.cell, call.input_shape[1]
    # The recurrent convolution works on the positions that the convolution of a step's inputs puts out.
    inputs = (call.input_shape[0], *call.input_shape[2:])
    outputs = cell.compute_output_shape(inputs)[0]
    positions = steps * _convolution_positions(cell, inputs, outputs, convention)
    # The recurrent sum is added to the sum over the inputs, so the outputs are counted once.
    return _counted(
        Operation(cell, "kernel", positions, positions * 4 * layer.filters),
        Operation(cell, "recurrent_kernel", positions, 0),
    )


def _recurrent(call, convention):
    cell = call.layer.cell
    if isinstance(cell, ConvLSTMCell):
        return _recurrent_convolution(call, convention)
    cells = cell.cells if isinstance(cell, kl.StackedRNNCells) else [cell]
    if not all(isinstance(cell, _CELLS) for cell in cells):
        layers = [layer for cell in cells for layer in flatten_layers(cell)]
        return LayerOperations(layers, [], "its recurrent cell is not a known kind")
    steps = call.input_shape[0] * call.input_shape[1]
    return _counted(*[operation for cell in cells for operation in _cell_step(cell, steps)])


def _attention(layer, query, key, heads, key_dim, value_dim, axes):
    """Q K^T and A V: every query position meets every key position, in every head."""
    queries = math.prod(query[:-1])
    keys = math.prod(key[axis] for axis in axes)
    macs = queries * keys * heads * (key_dim + value_dim)
    outputs = queries * heads * (keys + value_dim)
    return _counted(Operation(layer, None, macs, outputs, "products of queries, keys and values"))


def _multi_head_attention(call, convention):
    layer, key = call.layer, call.arguments.get("key") or call.arguments["value"]
    return _attention(
        layer,
        call.arguments["query"],
        key,
        layer.num_heads,
        layer.key_dim,
        layer.value_dim,
        layer.attention_axes or (1,),
    )


def _group_query_attention(call, convention):
    layer, key = call.layer, call.arguments.get("key") or call.arguments["value"]
    head = layer.head_dim
    return _attention(layer, call.arguments["query"], key, layer.num_query_heads, head, head, (1,))


def _dot_product_attention(call, convention):
    layer, query, key = call.layer, call.arguments["query"], call.arguments["key"]
    head = query[-1] // layer.num_heads
    return _attention(layer, query, key, layer.num_heads, head, head, (1,))


def _global_average_pooling(call, convention):
    if convention != "mac":
        return LayerOperations([], [], None)
    return _counted(Operation(call.layer, None, size_of(call.input_shape), 0, "additions of the average"))


# The first match wins, so a subclass stands before its parent.
_KINDS = [
    (kl.ReversibleEmbedding, _reversible_embedding),
    (kl.Dense, _dense),
    (kl.EinsumDense, _einsum_dense),
    ((kl.Conv1D, kl.Conv2D, kl.Conv3D), _convolution),
    ((kl.DepthwiseConv1D, kl.DepthwiseConv2D), _depthwise_convolution),
    ((kl.SeparableConv1D, kl.SeparableConv2D), _separable_convolution),
    ((kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose), _transposed_convolution),
    (kl.Embedding, _lookup),
    (kl.RNN, _recurrent),
    (_CELLS, _cell),
    (kl.MultiHeadAttention, _multi_head_attention),
    (kl.GroupQueryAttention, _group_query_attention),
    (DotProductAttention, _dot_product_attention),
    (
        (kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D, kl.GlobalAveragePooling3D),
        _global_average_pooling,
    ),
]
