"""VGG networks for CIFAR (Simonyan & Zisserman, ICLR 2015, arXiv 1409.1556) with only one or two small dense layers.

`vgg_c`, `vgg_d` and `vgg_like` follow *Sparse Networks from Scratch* (Dettmers & Zettlemoyer, arXiv 1907.04840).
`vgg_like` can also follow *SparseVD* (Molchanov et al., ICML 2017, arXiv 1701.05369). The convolutions and dense layers
have biases.

Names of layers, for `where`: `stem` is the first convolution, then `stage1_conv2`, `stage<2-5>_conv<n>`; `fc1`, `fc2`;
`classifier`. The batch normalisation after a layer is `<layer>_bn`.
"""

import keras
from keras import layers

from sparsity_tf.checks import check_choice, check_number
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where

# (filters, size of each convolution) of every stage. Each stage ends in a max-pooling.
_STAGES_D = ((64, (3, 3)), (128, (3, 3)), (256, (3, 3, 3)), (512, (3, 3, 3)), (512, (3, 3, 3)))
_STAGES_C = ((64, (3, 3)), (128, (3, 3)), (256, (3, 3, 1)), (512, (3, 3, 1)), (512, (3, 3, 1)))

# Dropout rates of SparseVD's baseline after each convolution of every stage.
_DROPOUT = ((0.3, 0), (0.4, 0), (0.4, 0.4, 0), (0.4, 0.4, 0), (0.4, 0.4, 0))


def vgg_c(
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    width: float = 1.0,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "vgg_c",
) -> keras.Model:
    """VGG-C of the sparse momentum experiments, with two dense layers of 512.

    The third convolution of stages 3, 4 and 5 is 1x1 and yet padded by one pixel, as in the source. So the maps grow
    there: for an image of 32 x 32 from 8 to 10, 5 to 7 and 3 to 5. At the end 2 x 2 positions are left.

    Args:
        input_shape: Shape of one image, channels last.
        num_classes: Number of outputs.
        width: Multiplier of the number of units of every layer but the classifier, `int(width * units)`.
        kernel_initializer: Keras initializer of every kernel. Default as in the source: kernels and biases are uniform
            within 1 / sqrt(fan-in).
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`. Defaults to `None`: all (as in the source).
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 16 kernels of 11,307,712 weights, 11,323,466 trainable parameters.

    Raises:
        ValueError: A `width` that isn't positive; `technique_options` or `where` is given without `technique`, or
            `sparsify` refuses its arguments.

    Example:
        >>> model = vgg_c(technique="masked")
    """
    net = _torch_layers(kernel_initializer, kernel_regularizer)
    inputs, x = _convolutions(net, input_shape, num_classes, _STAGES_C, width)
    model = _two_dense_layers(net, inputs, x, num_classes, width, name)
    return _building.apply_technique(model, technique, technique_options, where)


def vgg_d(
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    width: float = 1.0,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "vgg_d",
) -> keras.Model:
    """VGG-D (VGG-16) of the sparse momentum experiments, with two dense layers of 512.

    Args:
        input_shape: As for `vgg_c`.
        num_classes: As for `vgg_c`.
        width: As for `vgg_c`.
        kernel_initializer: As for `vgg_c`.
        kernel_regularizer: As for `vgg_c`.
        technique: As for `vgg_c`.
        technique_options: As for `vgg_c`.
        where: As for `vgg_c`.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 16 kernels of 15,239,872 weights, 15,255,626 trainable parameters.

    Raises:
        ValueError: As for `vgg_c`.

    Example:
        >>> model = vgg_d(technique="masked")
    """
    net = _torch_layers(kernel_initializer, kernel_regularizer)
    inputs, x = _convolutions(net, input_shape, num_classes, _STAGES_D, width)
    model = _two_dense_layers(net, inputs, x, num_classes, width, name)
    return _building.apply_technique(model, technique, technique_options, where)


def vgg_like(
    input_shape: Shape = (32, 32, 3),
    num_classes: int = 10,
    width: float = 1.0,
    variant: str = "sparse_momentum",
    max_norm: float | None = None,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "vgg_like",
) -> keras.Model:
    """The VGG-like network: the convolutions of VGG-D and one dense layer of 512.

    | `variant` | after the dense layer | dropout | epsilon of BN | kernels |
    | --- | --- | --- | --- | --- |
    | `"sparse_momentum"` | ReLU, BN | none | 1e-5 | uniform within 1/sqrt(fan-in), biases too |
    | `"sparse_vd"` | BN, ReLU | none | 1e-3 | Glorot uniform; dense N(0, 0.01^2) |
    | `"sparse_vd_baseline"` | ReLU, BN, ReLU | see below | 1e-3 | as `"sparse_vd"` |

    `"sparse_vd"` is the network that SparseVD trains with variational dropout; `"sparse_vd_baseline"` is the network
    from which that training starts. The baseline's dropout rates are 0.3 after the first convolution, 0.4 after every
    other convolution that is not the last of its stage, and 0.5 before the classifier.

    Args:
        input_shape: As for `vgg_c`.
        num_classes: As for `vgg_c`.
        width: As for `vgg_c`. SparseVD calls it the scale k.
        variant: `"sparse_momentum"`, `"sparse_vd"` or `"sparse_vd_baseline"`, see above.
        max_norm: Largest L2 norm of the weights into each unit of the two dense layers, above 0; `None` for no limit.
            SparseVD's layer with binary dropout has 3.
        kernel_initializer: Keras initializer of every kernel; the default depends on the variant.
        kernel_regularizer: As for `vgg_c`.
        technique: As for `vgg_c`.
        technique_options: As for `vgg_c`.
        where: As for `vgg_c`.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the defaults it
        has 15 kernels of 14,977,728 weights, 14,991,946 trainable parameters.

    Raises:
        ValueError: `variant` is unknown, or `max_norm` is not above 0; otherwise as for `vgg_c`.

    Example:
        >>> model = vgg_like(width=0.5, variant="sparse_vd", technique="vd")
    """
    check_choice("variant", variant, ("sparse_momentum", "sparse_vd", "sparse_vd_baseline"))
    if max_norm is not None:
        check_number("max_norm", max_norm, above=0)
    baseline = variant == "sparse_vd_baseline"
    if variant == "sparse_momentum":
        net, dense_initializer = _torch_layers(kernel_initializer, kernel_regularizer), None
    else:
        net = Layers("glorot_uniform", kernel_regularizer, override=kernel_initializer, epsilon=1e-3)
        dense_initializer = keras.initializers.RandomNormal(stddev=0.01)
    inputs, x = _convolutions(net, input_shape, num_classes, _STAGES_D, width, _DROPOUT if baseline else None)
    dense = {"initializer": dense_initializer, "max_norm": max_norm}
    x = net.dense(net.flatten(x), int(512 * width), **dense, name="fc1")
    if variant == "sparse_vd":
        x = net.relu(net.batch_norm(x, "fc1_bn"), "fc1_relu")
    else:
        x = net.batch_norm(net.relu(x, "fc1_relu"), "fc1_bn")
    if baseline:
        x = layers.Dropout(0.5, name="fc1_dropout")(net.relu(x, "fc1_bn_relu"))
    outputs = net.dense(x, num_classes, **dense, name="classifier")
    model = keras.Model(inputs, outputs, name=name)
    return _building.apply_technique(model, technique, technique_options, where)


def _torch_layers(kernel_initializer, kernel_regularizer):
    return Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer, uniform_biases=True)


def _convolutions(net, input_shape, num_classes, stages, width, dropout=None):
    """The stages of convolution, BN and ReLU. Returns (input of the model, last map).

    Every convolution is padded by one pixel, also a 1x1 convolution.
    """
    _building.check_width(width)
    inputs = x = _building.image_input(input_shape, num_classes)
    for stage, (filters, sizes) in enumerate(stages, start=1):
        for index, size in enumerate(sizes, start=1):
            name = "stem" if stage == index == 1 else f"stage{stage}_conv{index}"
            x = net.conv_bn_relu(x, int(filters * width), size, padding=1, use_bias=True, name=name)
            rate = dropout[stage - 1][index - 1] if dropout else 0
            if rate:
                x = layers.Dropout(rate, name=f"{name}_dropout")(x)
        x = net.max_pool(x, 2, 2, name=f"stage{stage}_pool")
    return inputs, x


def _two_dense_layers(net, inputs, x, num_classes, width, name):
    x = net.flatten(x)
    for layer in ("fc1", "fc2"):
        x = net.dense(x, int(512 * width), name=layer)
        x = net.batch_norm(net.relu(x, f"{layer}_relu"), f"{layer}_bn")
    return keras.Model(inputs, net.dense(x, num_classes, name="classifier"), name=name)
