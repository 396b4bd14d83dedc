"""Residual networks for small ImageNet images, with a spatial bottleneck or masks like it, of DSR's `dst` package.

The networks of He et al., CVPR 2016 (arXiv 1512.03385), with a stem of one 3x3 convolution with stride 1 and without
max-pooling, for images of 64 x 64 pixels. `spatial_blocks.py` describes the spatial bottleneck and the masks. (`resnet`
builds the networks for images of 224 x 224 pixels.)

The newest version of `dst` cannot build its networks with bottleneck blocks, and always has a density of a half. Here
these blocks are as its code seems to mean: two 3x3 convolutions with half the filters between them replace the one
3x3 convolution, and have as many weights.

Names of layers, for `where`: `stem`; `stage<1-4>_block<n>_conv<1-4>` and `stage<s>_block1_projection`; `classifier`.
The batch normalisation after a convolution is `<convolution>_bn`. The one between the two 3x3 convolutions of a block
has the mask (`.sparse_activation`).
"""

import keras

from sparsity_tf.checks import check_choice
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers
from sparsity_tf.models.spatial_blocks import Positions, add_shortcut, basic_block, pair
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def _bottleneck_block(net, x, filters, strides, positions, name):
    """1x1 convolution, 3x3 convolution (or a pair of them), 1x1 convolution, plus the shortcut."""
    residual = net.conv_bn_relu(x, filters, 1, name=f"{name}_conv1")
    if positions.are_masked or positions.spatial_bottleneck:
        names, last = (f"{name}_conv2", f"{name}_conv3"), f"{name}_conv4"
        residual = pair(net, residual, filters // 2, filters, strides, positions, *names)
        residual = net.relu(residual, f"{names[1]}_relu")
    else:
        residual, last = net.conv_bn_relu(residual, filters, 3, strides, name=f"{name}_conv2"), f"{name}_conv3"
    residual = net.batch_norm(net.conv(residual, 4 * filters, 1, name=last), f"{last}_bn")
    return add_shortcut(net, x, residual, strides, name)


# Kind of block, and number of blocks of each stage.
_DEPTHS = {
    18: (basic_block, (2, 2, 2, 2)),
    34: (basic_block, (3, 4, 6, 3)),
    50: (_bottleneck_block, (3, 4, 6, 3)),
    101: (_bottleneck_block, (3, 4, 23, 3)),
    152: (_bottleneck_block, (3, 8, 36, 3)),
}


def i1k_resnet(
    depth: int,
    input_shape: Shape = (64, 64, 3),
    num_classes: int = 1000,
    spatial_mask: str | None = "none",
    quarters: int = 2,
    spatial_bottleneck: bool = False,
    seed: int | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet-depth for images of 64 x 64 pixels: 3x3 stem, four stages, global average pooling, dense classifier.

    The stages have 64, 128, 256 and 512 filters (bottleneck blocks put out four times as many), and the last three
    begin with stride 2. Where the shape changes the shortcut is a 1x1 convolution with batch normalisation. No
    convolution has a bias. Strided convolutions pad symmetrically.

    With a `spatial_mask` or a `spatial_bottleneck` the one 3x3 convolution of a bottleneck block becomes a pair: 3x3
    with half the filters and the block's stride, batch normalisation, ReLU, 3x3, batch normalisation, ReLU. In basic
    blocks the two 3x3 convolutions are the pair. The mask, or the halved maps, are between the two.

    Kernels and the classifier's bias start uniform within 1 / sqrt(fan-in), the default of PyTorch.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        input_shape: Shape of one image, channels last. With a mask its height and width must be known.
        num_classes: Number of outputs.
        spatial_mask: `"none"` (or `None`), `"structured"`, `"static"` or `"dynamic"`: the mode of `SparseActivation`.
            Each block has a mask of its own, of the size of the block's output.
        quarters: Number of quarters of the positions that are live, 1, 2 or 3. It has no effect without a mask.
        spatial_bottleneck: Whether every block halves its maps between the two convolutions of the pair: the first has
            twice the stride, the second is a transposed convolution with stride 2. Height and width must be multiples
            of 16. Only without a `spatial_mask`.
        seed: Integer seed of the random masks, from which each block derives its own seed. `None` draws the seeds.
        kernel_initializer: Keras initializer of every kernel. For the default see above.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for dense weights.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`: `None` for all kernels, or e.g.
            `models.FIRST_LAYER_DENSE`.
        name: Name of the model, default e.g. `i1k_resnet_50`.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). Trainable parameters
        by depth for 1000 classes: 11,681,832 (18), 21,789,992 (34), 25,549,352 (50), 44,541,480 (101), 60,185,128
        (152). A pair in bottleneck blocks adds the parameters of one batch normalisation a block.

    Raises:
        ValueError: `depth`, `spatial_mask` or `quarters` is unknown; `spatial_bottleneck` is given with a
            `spatial_mask`, or with an `input_shape` that it does not fit; `technique_options` or `where` is given
            without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = i1k_resnet(18, (32, 32, 3), num_classes=10, spatial_mask="structured")
    """
    check_choice("depth", depth, _DEPTHS)
    positions = Positions(spatial_mask, quarters, spatial_bottleneck, seed)
    block, repeats = _DEPTHS[depth]
    net = Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer, uniform_biases=True)

    inputs = _building.image_input(input_shape, num_classes)
    if spatial_bottleneck:
        _building.check_multiples(input_shape, 16)
    x = net.conv_bn_relu(inputs, 64, 3, name="stem")
    for stage, count in enumerate(repeats):
        for index in range(count):
            strides = 2 if stage > 0 and index == 0 else 1
            x = block(net, x, 64 * 2**stage, strides, positions, f"stage{stage + 1}_block{index + 1}")
    outputs = net.classifier(x, num_classes, "dense")
    model = keras.Model(inputs, outputs, name=name or f"i1k_resnet_{depth}")
    return _building.apply_technique(model, technique, technique_options, where)
