"""Wide residual networks for CIFAR (Zagoruyko & Komodakis, BMVC 2016, arXiv 1605.07146), in three published forms.

The forms come from *Sparse Networks from Scratch* (Dettmers & Zettlemoyer, arXiv 1907.04840), from *DSR* (Mostafa &
Wang, ICML 2019, arXiv 1902.05967) and from DSR's `dst` package.

Names of layers, for `where`: `stem`; `stage<1-3>_block<n>_conv<1-2>` and `stage<s>_block1_projection`; `classifier`.
The batch normalisation before a convolution is `stage<s>_block<n>_bn<1-2>`, the last one `final_bn`.
"""

from dataclasses import dataclass

import keras
from keras import layers

from sparsity_tf.checks import check_bool, check_choice, check_fraction, check_integer
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers, variance_scaling
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


@dataclass(frozen=True)
class _Variant:
    """The properties in which the sources differ. `projects` names the tensor that a block's 1x1 shortcut reads."""

    projects: str
    dropout: float
    conv_initializer: object


def _he_normal():
    return variance_scaling(2.0, "fan_out")


_VARIANTS = {
    "sparse_momentum": _Variant("activated", 0.3, _he_normal),
    "dsr": _Variant("activated", 0.0, _he_normal),
    "dst": _Variant("raw", 0.0, _building.torch_default),
}


def wide_resnet(
    depth: int,
    width: float,
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    variant: str = "sparse_momentum",
    dropout: float | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
    spatial_bottleneck: bool = False,
) -> keras.Model:
    """WRN-depth-width: a 3x3 stem, three stages of pre-activation blocks, global average pooling, dense classifier.

    A block is BN, ReLU, 3x3 convolution (stride 2 in the first block of stages 2 and 3), BN, ReLU, dropout, 3x3
    convolution, plus the shortcut. If the number of channels changes, the shortcut is a 1x1 convolution; otherwise it
    is the block's unchanged input. No convolution has a bias.

    | `variant` | 1x1 shortcut reads | dropout | kernels of convolutions |
    | --- | --- | --- | --- |
    | `"sparse_momentum"` | the input after BN, ReLU | 0.3 | He normal, fan-out |
    | `"dsr"` | the input after BN, ReLU | 0 | He normal, fan-out |
    | `"dst"` | the input as it came | 0 | uniform within 1/sqrt(fan-in) |

    Args:
        depth: Number of layers, 6 n + 4 for n blocks a stage: 16, 22, 28, 40, ...
        width: Multiplier of the 16, 32 and 64 filters of the stages, rounded to the nearest integer. It does not apply
            to the stem.
        input_shape: Shape of one image, channels last.
        num_classes: Number of outputs.
        variant: `"sparse_momentum"`, `"dsr"` or `"dst"`, see above.
        dropout: Dropout rate between the convolutions of a block, 0 to 1; the default depends on the variant.
        kernel_initializer: Keras initializer of every kernel. The default depends on the variant; in the classifier it
            is uniform within 1 / sqrt(fan-in).
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`: `None` for all kernels, shortcuts included (sparse
            momentum), or e.g. `models.DSR_WIDE_RESNET`.
        name: Name of the model, default e.g. `wide_resnet_28_2`.
        spatial_bottleneck: Whether every block halves its maps between its convolutions, which then have a quarter of
            the operations (Peng et al., 2018, arXiv 1809.02601; in the `dst` package): the first has twice the stride,
            the second is a transposed convolution with stride 2. Height and width must be multiples of 8.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). Trainable parameters
        for 10 classes: 1,467,610 (28-2), 17,158,106 (22-8), 10,961,370 (16-8), 17,116,634 (16-10).

    Raises:
        ValueError: A `depth` that is not 6 n + 4, an unknown `variant`, or a `width` that is not positive;
            `spatial_bottleneck` is given with an `input_shape` that it does not fit;
            `technique_options` or `where` is given without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = wide_resnet(28, 2, variant="dsr", technique="masked", where=DSR_WIDE_RESNET)
    """
    check_integer("depth", depth)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"`depth` must be 6 n + 4 with n at least 1, e.g. 16 or 28. Received: depth={depth!r}")
    check_choice("variant", variant, _VARIANTS)
    _building.check_width(width)
    source = _VARIANTS[variant]
    dropout = source.dropout if dropout is None else dropout
    check_fraction("dropout", dropout, closed=True)
    check_bool("spatial_bottleneck", spatial_bottleneck)
    net = Layers(source.conv_initializer(), kernel_regularizer, override=kernel_initializer)

    inputs = _building.image_input(input_shape, num_classes)
    if spatial_bottleneck:
        _building.check_multiples(input_shape, 8)
    x = net.conv(inputs, 16, 3, name="stem")
    for stage in range(3):
        filters = round(16 * 2**stage * width)
        for index in range((depth - 4) // 6):
            strides = 2 if stage > 0 and index == 0 else 1
            block_name = f"stage{stage + 1}_block{index + 1}"
            x = _block(net, x, filters, strides, dropout, source.projects, spatial_bottleneck, block_name)
    x = net.relu(net.batch_norm(x, "final_bn"), "final_relu")
    outputs = net.classifier(x, num_classes, "dense", _building.torch_default())
    model = keras.Model(inputs, outputs, name=name or f"wide_resnet_{depth}_{width}")
    return _building.apply_technique(model, technique, technique_options, where)


def _block(net, x, filters, strides, dropout, projects, spatial_bottleneck, name):
    activated = net.relu(net.batch_norm(x, f"{name}_bn1"), f"{name}_relu1")
    residual = net.conv(activated, filters, 3, 2 * strides if spatial_bottleneck else strides, name=f"{name}_conv1")
    residual = net.relu(net.batch_norm(residual, f"{name}_bn2"), f"{name}_relu2")
    if dropout:
        residual = layers.Dropout(dropout, name=f"{name}_dropout")(residual)
    if spatial_bottleneck:
        residual = net.conv_transpose(residual, filters, name=f"{name}_conv2")
    else:
        residual = net.conv(residual, filters, 3, name=f"{name}_conv2")
    shortcut = x
    if x.shape[-1] != filters:
        projected = activated if projects == "activated" else x
        shortcut = net.conv(projected, filters, 1, strides, name=f"{name}_projection")
    return layers.Add(name=f"{name}_add")([residual, shortcut])
