"""Residual networks for CIFAR (He et al., CVPR 2016, arXiv 1512.03385), with a spatial bottleneck or masks like it.

The networks follow DSR's `dst` package; `spatial_blocks.py` describes the spatial bottleneck and the masks.

Names of layers, for `where`: `stem`; `stage<1-3>_block<n>_conv<1-2>`, `stage2_block1_projection` and
`stage3_block1_projection`; `classifier`. The batch normalisation after a convolution is `<convolution>_bn`. The one
after the first convolution of a block, `stage<s>_block<n>_conv1_bn`, has the mask (`.sparse_activation`).
"""

import keras

from sparsity_tf.checks import check_integer
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers
from sparsity_tf.models.spatial_blocks import Positions, basic_block
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def cifar_resnet(
    depth: int,
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    spatial_mask: str | None = "none",
    quarters: int = 2,
    seed: int | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
    spatial_bottleneck: bool = False,
) -> keras.Model:
    """ResNet-depth for small images: 3x3 stem, three stages of basic blocks, global average pooling, dense classifier.

    The stages have 16, 32 and 64 filters. A block is 3x3 convolution (stride 2 in the first block of stages 2 and 3),
    batch normalisation, ReLU, 3x3 convolution, batch normalisation, plus the shortcut, ReLU. Where the shape changes
    the shortcut is a 1x1 convolution with batch normalisation. No convolution has a bias. Strided convolutions pad
    symmetrically.

    With a `spatial_mask` the first batch normalisation of every block is a `layers.SparseBatchNormalization`. Each has
    its own mask, of the size of the block's output: 9, 15, 21, 27 and 54 masks for the usual depths. Masks add no
    trainable parameters.

    Kernels and the classifier's bias start uniform within 1 / sqrt(fan-in), the default of PyTorch.

    Args:
        depth: Number of layers, 6 n + 2 for n blocks a stage: 20, 32, 44, 56, 110, ...
        input_shape: Shape of one image, channels last. With a mask its height and width must be known.
        num_classes: Number of outputs.
        spatial_mask: `"none"` (or `None`), `"structured"`, `"static"` or `"dynamic"`: the mode of `SparseActivation`.
        quarters: Number of quarters of the positions that are live, 1, 2 or 3. It has no effect without a mask.
        seed: Integer seed of the random masks, from which each block derives its own seed. `None` draws the seeds.
        kernel_initializer: Keras initializer of every kernel. For the default see above.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for dense weights.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`: `None` for all kernels, or e.g.
            `models.FIRST_LAYER_DENSE`.
        name: Name of the model, default e.g. `cifar_resnet_20`.
        spatial_bottleneck: Whether every block halves its maps between its convolutions, which then have a quarter of
            the operations: the first has twice the stride, the second is a transposed convolution with stride 2. Height
            and width must be multiples of 8. The parameters are the same in number. Only without a `spatial_mask`.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). Trainable parameters
        by depth for 10 classes: 272,474 (20), 466,906 (32), 661,338 (44), 855,770 (56), 1,730,714 (110). For 100
        classes there are 5,850 more.

    Raises:
        ValueError: `depth` is not 6 n + 2; `spatial_mask` or `quarters` is unknown; `spatial_bottleneck` is given with
            a `spatial_mask`, or with an `input_shape` that it does not fit; `technique_options` or `where` is
            given without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = cifar_resnet(20, spatial_mask="structured", quarters=2)
    """
    check_integer("depth", depth)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6 n + 2 with n at least 1, e.g. 20 or 110. Received: depth={depth!r}")
    positions = Positions(spatial_mask, quarters, spatial_bottleneck, seed)
    net = Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer, uniform_biases=True)

    inputs = _building.image_input(input_shape, num_classes)
    if spatial_bottleneck:
        _building.check_multiples(input_shape, 8)
    x = net.conv_bn_relu(inputs, 16, 3, name="stem")
    for stage in range(3):
        for index in range((depth - 2) // 6):
            strides = 2 if stage > 0 and index == 0 else 1
            x = basic_block(net, x, 16 * 2**stage, strides, positions, f"stage{stage + 1}_block{index + 1}")
    outputs = net.classifier(x, num_classes, "dense")
    model = keras.Model(inputs, outputs, name=name or f"cifar_resnet_{depth}")
    return _building.apply_technique(model, technique, technique_options, where)
