"""ResNets for ImageNet as three sparsity papers train them, all with the stride on the 3x3 convolution ("v1.5").

The networks of He et al., CVPR 2016 (arXiv 1512.03385), come in the forms of *State of Sparsity* (Gale et al., arXiv
1902.09574), *STR* (Kusupati et al., ICML 2020, arXiv 2002.03231) and *DSR* (Mostafa & Wang, ICML 2019, arXiv
1902.05967). Counts and FLOPs equal the numbers that the papers' code gives.

Names of layers, for `where`: `stem`; `stage<1-4>_block<n>_conv<1-3>` and `stage<s>_block1_projection`; `classifier`.
The batch normalisation after a convolution is `<convolution>_bn`. The layers with kernels stand in the model in the
order of STR's budget tables: a block's projection comes after its last convolution.
"""

from dataclasses import dataclass

import keras
from keras import layers

from sparsity_tf.checks import check_bool, check_choice
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers, variance_scaling
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def _bottleneck(net, x, filters, strides, last_gamma, name):
    """Three convolutions: 1x1, 3x3 with the stride, 1x1 with four times the filters."""
    x = net.conv_bn_relu(x, filters, 1, name=f"{name}_conv1")
    x = net.conv_bn_relu(x, filters, 3, strides, name=f"{name}_conv2")
    x = net.conv(x, 4 * filters, 1, name=f"{name}_conv3")
    return net.batch_norm(x, f"{name}_conv3_bn", last_gamma)


def _basic(net, x, filters, strides, last_gamma, name):
    """Two convolutions: 3x3 with the stride, 3x3."""
    x = net.conv_bn_relu(x, filters, 3, strides, name=f"{name}_conv1")
    x = net.conv(x, filters, 3, name=f"{name}_conv2")
    return net.batch_norm(x, f"{name}_conv2_bn", last_gamma)


# Residual function and number of blocks of each stage.
_DEPTHS = {
    18: (_basic, (2, 2, 2, 2)),
    34: (_basic, (3, 4, 6, 3)),
    50: (_bottleneck, (3, 4, 6, 3)),
    101: (_bottleneck, (3, 4, 23, 3)),
    152: (_bottleneck, (3, 8, 36, 3)),
    200: (_bottleneck, (3, 24, 36, 3)),
}


def _each_stage(width):
    return [int(filters * width) for filters in (64, 128, 256, 512)]


def _doubled(width):
    return [round(64 * width) * 2**stage for stage in range(4)]


@dataclass(frozen=True)
class _Variant:
    """The properties in which the sources differ."""

    classifier: str
    zero_gamma: bool
    always_projects: bool
    pool_padding: object
    stage_filters: object
    conv_initializer: object
    classifier_initializer: object


_VARIANTS = {
    "state_of_sparsity": _Variant(
        classifier="dense",
        zero_gamma=True,
        always_projects=True,
        pool_padding="same",
        stage_filters=_each_stage,
        conv_initializer=lambda: variance_scaling(1.0, "fan_in", "truncated_normal"),
        classifier_initializer=lambda: keras.initializers.RandomNormal(stddev=0.01),
    ),
    "str": _Variant(
        classifier="conv",
        zero_gamma=False,
        always_projects=False,
        pool_padding=1,
        stage_filters=_each_stage,
        conv_initializer=lambda: variance_scaling(2.0, "fan_in"),
        classifier_initializer=lambda: variance_scaling(2.0, "fan_in"),
    ),
    "dsr": _Variant(
        classifier="dense",
        zero_gamma=False,
        always_projects=False,
        pool_padding=1,
        stage_filters=_doubled,
        conv_initializer=lambda: variance_scaling(2.0, "fan_out"),
        classifier_initializer=_building.torch_default,
    ),
}


def resnet(
    depth: int,
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
    affine: bool = True,
) -> keras.Model:
    """A ResNet of any of the usual depths.

    The network has a 7x7 stem with stride 2, 3x3 max-pooling with stride 2, four stages of 64, 128, 256 and 512 filters
    (bottlenecks put out four times as many), global average pooling and a classifier. No convolution has a bias.
    Strided convolutions pad symmetrically, as in all the sources.

    | | `"state_of_sparsity"` | `"str"` | `"dsr"` |
    | --- | --- | --- | --- |
    | classifier | dense, with bias | 1x1 convolution, no bias | dense, with bias |
    | last gamma of a block | 0 | 1 | 1 |
    | projections | first block of every stage | where the shape changes | where the shape changes |
    | max-pooling pads | right and below ("same") | every side | every side |
    | kernels | truncated normal, variance 1/fan-in | He normal, fan-in | He normal, fan-out |
    | classifier's kernel | N(0, 0.01^2) | He normal | uniform within 1/sqrt(fan-in) |
    | width w | int(w * filters) | int(w * filters) | round(64 w), doubled at each stage |

    At width 1 the variants have the same kernels, except for the projection in stage 1 of depths 18 and 34.

    Args:
        depth: 18, 34 (basic blocks), 50, 101, 152 or 200 (bottlenecks).
        input_shape: Shape of one image, channels last.
        num_classes: Number of outputs.
        width: Multiplier of the number of filters of every layer but the classifier.
        variant: `"state_of_sparsity"`, `"str"` or `"dsr"`, see above.
        classifier: `"dense"` or `"conv"`; the default depends on the variant.
        zero_gamma: Whether the last batch normalisation of a block starts at gamma 0, so that the block starts as the
            identity; the default depends on the variant.
        kernel_initializer: Keras initializer of every kernel; the default depends on the variant.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`: `None` for all kernels, or e.g.
            `models.FIRST_LAYER_DENSE`, `models.DSR_RESNET`.
        name: Name of the model, default `resnet_<depth>`.
        affine: Whether batch normalisation has gamma and beta. (STR's `NonAffineBatchNorm` has none.) Without them
            `zero_gamma` must be false, also where the variant's default is true.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). Weights of all
        kernels by depth for 1000 classes: 11,678,912 (18), 21,779,648 (34), 25,502,912 (50), 44,442,816 (101),
        60,040,384 (152), 64,496,832 (200). Depths 18 and 34 have 4,096 more in `"state_of_sparsity"`. ResNet-50 with a
        dense classifier has 25,557,032 trainable parameters and costs 4,089,184,256 multiply-accumulates at 224 x 224.

    Raises:
        ValueError: An unknown `depth`, `variant` or `classifier`, or a `width` that is not positive;
            `technique_options` or `where` is given without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = resnet(50, variant="str", technique="str", technique_options={"threshold_initializer": -3200.0})
    """
    check_choice("depth", depth, _DEPTHS)
    check_choice("variant", variant, _VARIANTS)
    check_choice("classifier", classifier, (None, "conv", "dense"))
    _building.check_width(width)
    residual_of, repeats = _DEPTHS[depth]
    source = _VARIANTS[variant]
    zero_gamma = source.zero_gamma if zero_gamma is None else zero_gamma
    check_bool("zero_gamma", zero_gamma)
    if zero_gamma and affine is False:
        raise ValueError(
            f"`zero_gamma` must be False with affine=False. Received: zero_gamma=True, variant={variant!r}"
        )
    gamma = "zeros" if zero_gamma else "ones"
    stage_filters = source.stage_filters(width)
    net = Layers(source.conv_initializer(), kernel_regularizer, override=kernel_initializer, affine=affine)

    inputs = _building.image_input(input_shape, num_classes)
    x = net.conv_bn_relu(inputs, stage_filters[0], 7, strides=2, name="stem")
    x = net.max_pool(x, 3, 2, padding=source.pool_padding, name="stem_pool")
    for stage, filters in enumerate(stage_filters):
        for index in range(repeats[stage]):
            block_name = f"stage{stage + 1}_block{index + 1}"
            strides = 2 if stage > 0 and index == 0 else 1
            residual = residual_of(net, x, filters, strides, gamma, block_name)
            if index == 0 and (source.always_projects or strides > 1 or x.shape[-1] != residual.shape[-1]):
                x = net.conv(x, residual.shape[-1], 1, strides, name=f"{block_name}_projection")
                x = net.batch_norm(x, f"{block_name}_projection_bn")
            # The residual is the first operand: Keras lists layers in the order of inputs, and STR's tables list the
            # projection last.
            x = net.relu(layers.Add(name=f"{block_name}_add")([residual, x]), f"{block_name}_relu")
    outputs = net.classifier(x, num_classes, classifier or source.classifier, source.classifier_initializer())
    model = keras.Model(inputs, outputs, name=name or f"resnet_{depth}")
    return _building.apply_technique(model, technique, technique_options, where)


def resnet_18(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-18: basic blocks 2-2-2-2, 11,678,912 weights in 21 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_18(variant="str", technique="str")
    """
    return resnet(
        18,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )


def resnet_34(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-34: basic blocks 3-4-6-3, 21,779,648 weights in 37 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_34(technique="masked")
    """
    return resnet(
        34,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )


def resnet_50(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-50: bottlenecks 3-4-6-3, 25,502,912 weights in 54 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_50(technique="masked", where=FIRST_LAYER_DENSE)
    """
    return resnet(
        50,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )


def resnet_101(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-101: bottlenecks 3-4-23-3, 44,442,816 weights in 105 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_101(width=0.5, technique="masked")
    """
    return resnet(
        101,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )


def resnet_152(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-152: bottlenecks 3-8-36-3, 60,040,384 weights in 156 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_152(width=0.25, technique="masked")
    """
    return resnet(
        152,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )


def resnet_200(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    variant: str = "state_of_sparsity",
    classifier: str | None = None,
    zero_gamma: bool | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-200: bottlenecks 3-24-36-3, 64,496,832 weights in 204 kernels. Arguments: see `resnet`.

    Example:

    >>> model = resnet_200(width=0.25, technique="masked")
    """
    return resnet(
        200,
        input_shape,
        num_classes,
        width,
        variant,
        classifier,
        zero_gamma,
        kernel_initializer,
        kernel_regularizer,
        technique,
        technique_options,
        where,
        name,
    )
