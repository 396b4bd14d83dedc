"""Rules that say how each kind of call treats channels. `analysed_graph` gives every call of a model its rule.

A new kind of layer needs one line in `_LAYERS`, or one class in a file of this folder. `rule.py` lists the questions
that a rule answers.
"""

import inspect

from keras import layers

from sparsity_tf.backend import is_keras_operation
from sparsity_tf.deploy.graph import read_graph
from sparsity_tf.deploy.rules import attention, channelwise, grouped, kernels, recurrent, reshaping
from sparsity_tf.deploy.rules.rule import OpaqueRule, Rebuilt, Rule, weight_value
from sparsity_tf.layers import SparseLayer
from sparsity_tf.layers.composite import SparseComposite

__all__ = ["analysed_graph"]

_LAYERS = {
    layers.Dense: [kernels.DenseRule],
    layers.EinsumDense: [grouped.EinsumDenseRule],
    layers.MultiHeadAttention: [attention.AttentionRule],
    layers.SimpleRNN: [recurrent.RecurrentRule],
    layers.LSTM: [recurrent.RecurrentRule],
    layers.GRU: [recurrent.RecurrentRule],
    layers.Embedding: [kernels.EmbeddingRule],
    layers.BatchNormalization: [channelwise.BatchNormalizationRule],
    layers.Activation: [channelwise.ActivationRule],
    layers.PReLU: [channelwise.PReLURule],
    layers.Softmax: [channelwise.SoftmaxRule],
    layers.Add: [channelwise.AddRule],
    layers.Multiply: [channelwise.MultiplyRule],
    layers.Concatenate: [channelwise.ConcatenateRule],
    layers.Flatten: [reshaping.ReshapeRule],
    layers.Reshape: [reshaping.ReshapeRule],
    layers.Permute: [reshaping.PermuteRule],
    layers.RepeatVector: [reshaping.RepeatVectorRule],
}


def _add(rules, names):
    _LAYERS.update({getattr(layers, name): rules for name in names.split()})


_add([kernels.ConvRule, channelwise.GroupedChannelsRule, grouped.GroupedConvRule], "Conv1D Conv2D Conv3D")
_add([kernels.ConvTransposeRule], "Conv1DTranspose Conv2DTranspose Conv3DTranspose")
_add([kernels.SeparableConvRule], "SeparableConv1D SeparableConv2D")
_add([channelwise.DepthwiseConvRule], "DepthwiseConv1D DepthwiseConv2D")
_add([channelwise.ElementwiseRule], "ReLU LeakyReLU ELU Identity ActivityRegularization Rescaling")
_add([channelwise.ElementwiseRule], "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D")
_add([channelwise.ElementwiseRule], "GaussianNoise GaussianDropout AlphaDropout")
_add([channelwise.ElementwiseRule], "Subtract Average Maximum Minimum")
_add([channelwise.SpatialRule], "MaxPooling1D MaxPooling2D MaxPooling3D")
_add([channelwise.SpatialRule], "AveragePooling1D AveragePooling2D AveragePooling3D")
_add([channelwise.SpatialRule], "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D")
_add([channelwise.SpatialRule], "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D")
_add([channelwise.SpatialRule], "ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D")
_add([channelwise.SpatialRule], "UpSampling1D UpSampling2D UpSampling3D")

# The keys are the names of classes behind `keras.ops`: the classes themselves are not public.
_OPERATIONS = {
    "Add": channelwise.AddRule,
    "Multiply": channelwise.MultiplyRule,
    "Concatenate": channelwise.ConcatenateRule,
    "Reshape": reshaping.ReshapeRule,
    "Transpose": reshaping.PermuteRule,
    **dict.fromkeys(["Mean", "Max", "Min", "Sum", "Amax", "Amin"], reshaping.ReduceRule),
    **dict.fromkeys(["Softmax", "LogSoftmax"], channelwise.SoftmaxRule),
    **dict.fromkeys(
        "Relu Relu6 Sigmoid Softplus Softsign SoftShrink SparsePlus SparseSigmoid Silu Squareplus LogSigmoid LeakyRelu "
        "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Erf Rsqrt Absolute Abs Clip "
        "Cast Ceil Copy Cos Exp Expm1 Floor Identity Log Log1p Negative Reciprocal Round Sign Sin Sqrt Square Tan Tanh "
        "Divide DivideNoNan TrueDivide Maximum Minimum Power Subtract Equal NotEqual Greater GreaterEqual Less "
        "LessEqual LogicalAnd LogicalNot LogicalOr Where StopGradient".split(),
        channelwise.ElementwiseRule,
    ),
}


def analysed_graph(model):
    """Reads the graph of a model's calls, gives every call its rule, and every tensor its channel axis.

    Args:
        model: Built Keras model. This may add inbound nodes to its layers, see `read_graph`.

    Returns:
        `Graph`.

    Raises:
        ValueError: the model's calls can't be read, or a call has `training=True`, so that the outputs depend on the
            batch or on chance.
    """
    graph = read_graph(model)
    for call in graph.calls:
        _check_inference(call)
        call.rule = _rule_for(call)
        call.rule.graph = graph
        call.rule.set_axes()
    return graph


def _rule_for(call):
    reasons = []
    if not call.inputs:
        return OpaqueRule(call, "it has no input")
    reason, rules = _candidates(call)
    for rule in rules:
        reason = rule.reason_against(call)
        if reason is None:
            return rule(call)
        reasons.append(reason)
    return OpaqueRule(call, reasons[0] if reasons else reason)


def _candidates(call):
    """`(reason, rules)`: the rules that may fit a call, or the reason why none does."""
    operation = call.operation
    kind = type(operation)
    if not call.is_layer:
        rule = _OPERATIONS.get(kind.__name__) if is_keras_operation(operation) else None
        return f"no rule for the operation {kind.__name__}", [rule] if rule else []
    if isinstance(operation, SparseLayer):
        kind = operation.keras_class
    if isinstance(operation, SparseComposite):
        kind = kind.plain_class
    if getattr(operation, "quantization_mode", None):
        return f"it is quantized ({operation.quantization_mode})", []
    if getattr(operation, "lora_enabled", False):
        return "LoRA is enabled", []
    if kind in _LAYERS:
        return "", _LAYERS[kind]
    base = next((cls for cls in kind.__mro__[1:] if cls in _LAYERS), None)
    if base is not None:
        return f"a subclass of {base.__name__} may compute something else", []
    return _NEEDS_ALL.get(kind, f"no rule for layers of this kind ({kind.__name__})"), []


_NEEDS_ALL = {
    layers.LayerNormalization: "it normalises over all channels",
    layers.RMSNormalization: "it normalises over all channels",
    layers.UnitNormalization: "it normalises over all channels",
    layers.GroupNormalization: "it normalises over groups of channels",
}


def _check_inference(call):
    if call.is_layer and call.arguments[1].get("training") and not _trains_by_default(call.operation):
        raise ValueError(
            f"`model` calls layer {call.path!r} with `training=True`: its outputs depend on the batch or on chance, so "
            "no smaller model equals it. Build the model without that argument."
        )


def _trains_by_default(layer):
    """Whether `training=True` is the default, which nobody asked for, as it is for image layers (`RandomFlip`)."""
    parameter = inspect.signature(layer.call).parameters.get("training")
    return parameter is not None and parameter.default is True


def __dir__():
    return __all__
