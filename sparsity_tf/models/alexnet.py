"""AlexNet for CIFAR, small and big, as in *Sparse Networks from Scratch* (Dettmers & Zettlemoyer, arXiv 1907.04840).

The network has five strided convolutions without any pooling, each followed by batch normalisation, and three dense
layers. All of these layers have biases.

Names of layers, for `where`: `stem` is the first convolution, then `conv2` to `conv5`; `fc1`, `fc2`; `classifier`. The
batch normalisation after a layer is `<layer>_bn`.
"""

import keras

from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where

# (filters, size, zeros on every side). Maps of 32 x 32 shrink to widths of 13, 7, 4, 2 and 1.
_CONVOLUTIONS = ((96, 11, 2), (256, 5, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1))


def alexnet_s(
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "alexnet_s",
) -> keras.Model:
    """AlexNet-s: dense layers of 1,024 units.

    Args:
        input_shape: Shape of one image, channels last.
        num_classes: Number of outputs.
        kernel_initializer: Keras initializer of every kernel. Default as in the source: kernels and biases are uniform
            within 1 / sqrt(fan-in).
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`. Defaults to `None`: all (as in the source).
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 8 kernels of 5,066,784 weights, 5,077,066 trainable parameters.

    Raises:
        ValueError: `technique_options` or `where` is given without `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = alexnet_s(technique="masked")
    """
    model = _alexnet(1024, input_shape, num_classes, kernel_initializer, kernel_regularizer, name)
    return _building.apply_technique(model, technique, technique_options, where)


def alexnet_b(
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "alexnet_b",
) -> keras.Model:
    """AlexNet-b: dense layers of 2,048 units.

    Args:
        input_shape: As for `alexnet_s`.
        num_classes: As for `alexnet_s`.
        kernel_initializer: As for `alexnet_s`.
        kernel_regularizer: As for `alexnet_s`.
        technique: As for `alexnet_s`.
        technique_options: As for `alexnet_s`.
        where: As for `alexnet_s`.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 8 kernels of 8,484,896 weights, 8,501,322 trainable parameters.

    Raises:
        ValueError: As for `alexnet_s`.

    Example:
        >>> model = alexnet_b(technique="masked")
    """
    model = _alexnet(2048, input_shape, num_classes, kernel_initializer, kernel_regularizer, name)
    return _building.apply_technique(model, technique, technique_options, where)


def _alexnet(hidden, input_shape, num_classes, kernel_initializer, kernel_regularizer, name):
    net = Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer, uniform_biases=True)
    inputs = x = _building.image_input(input_shape, num_classes)
    for index, (filters, size, padding) in enumerate(_CONVOLUTIONS, start=1):
        layer = "stem" if index == 1 else f"conv{index}"
        x = net.conv_bn_relu(x, filters, size, strides=2, padding=padding, use_bias=True, name=layer)
    x = net.flatten(x)
    for layer in ("fc1", "fc2"):
        x = net.dense(x, hidden, name=layer)
        x = net.relu(net.batch_norm(x, f"{layer}_bn"), f"{layer}_relu")
    return keras.Model(inputs, net.dense(x, num_classes, name="classifier"), name=name)
