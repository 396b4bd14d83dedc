"""MobileNetV1 (Howard et al., arXiv 1704.04861) as STR trains it: plain ReLU, classifier without bias.

Source: Kusupati et al., ICML 2020, arXiv 2002.03231. As there, convolutions pad one pixel on every side.

Names of layers, for `where`: `stem`; `block<1-13>_depthwise` and `block<1-13>_pointwise`; `classifier`. The batch
normalisation after a convolution is `<convolution>_bn`.
"""

import keras

from sparsity_tf.checks import check_choice
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers, variance_scaling
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where

# (filters of the pointwise convolution, stride of the depthwise one)
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def mobilenet_v1(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    width: float = 1.0,
    classifier: str = "conv",
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "mobilenet_v1",
    affine: bool = True,
) -> keras.Model:
    """MobileNetV1: a 3x3 convolution, thirteen depthwise-separable convolutions, global average pooling, a classifier.

    Args:
        input_shape: Shape of one image, channels last.
        num_classes: Number of outputs.
        width: Multiplier of the number of filters, `int(width * filters)`.
        classifier: `"conv"`, a 1x1 convolution without bias (STR), or `"dense"`, with bias.
        kernel_initializer: Keras initializer of every kernel. Default as in the source: uniform within
            1 / sqrt(inputs of a filter), and He normal in the classifier.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net. Variational dropout and L0
            have no form for depthwise convolutions, which stay dense there.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`: `None` for all kernels, or e.g.
            `models.FIRST_AND_DEPTHWISE_DENSE`.
        name: Name of the model.
        affine: Whether batch normalisation has gamma and beta. (Not so with STR's `NonAffineBatchNorm`.)

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 28 kernels of 4,209,088 weights, 4,230,976 trainable parameters and 568,740,352 multiply-accumulates.

    Raises:
        ValueError: An unknown `classifier`, or a `width` that is not positive; `technique_options` or `where` is given
            without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = mobilenet_v1(technique="masked", where=FIRST_AND_DEPTHWISE_DENSE)
    """
    check_choice("classifier", classifier, ("conv", "dense"))
    _building.check_width(width)
    net = Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer, affine=affine)

    inputs = _building.image_input(input_shape, num_classes)
    x = net.conv_bn_relu(inputs, int(32 * width), 3, strides=2, name="stem")
    for index, (filters, strides) in enumerate(_BLOCKS, start=1):
        name_of = f"block{index}_depthwise"
        x = net.depthwise_conv(x, 3, strides, name=name_of)
        x = net.relu(net.batch_norm(x, f"{name_of}_bn"), f"{name_of}_relu")
        x = net.conv_bn_relu(x, int(filters * width), 1, name=f"block{index}_pointwise")
    outputs = net.classifier(x, num_classes, classifier, variance_scaling(2.0, "fan_in"))
    model = keras.Model(inputs, outputs, name=name)
    return _building.apply_technique(model, technique, technique_options, where)
