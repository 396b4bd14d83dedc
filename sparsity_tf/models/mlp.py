"""The multilayer perceptron of the DSR experiments (Mostafa & Wang, ICML 2019, arXiv 1902.05967) on MNIST.

LeNet-300-100 with batch normalisation in place of biases.

Names of layers, for `where`: `stem` is the first dense layer, then `fc2`, ...; `classifier`. The batch normalisation
after a layer is `<layer>_bn`.
"""

from collections.abc import Sequence

import keras

from sparsity_tf.checks import check_choice, check_integers
from sparsity_tf.models import _building
from sparsity_tf.models._building import Layers
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def mnist_mlp(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    hidden: Sequence[int] = (300, 100),
    batch_norm: str = "all",
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "mnist_mlp",
) -> keras.Model:
    """A multilayer perceptron: 784-300-100-10, ReLU.

    Args:
        input_shape: Shape of one image; it is flattened.
        num_classes: Number of outputs.
        hidden: Units of the hidden layers.
        batch_norm: Where batch normalisation is used. `"all"`: after every layer, the last included (the code of DSR's
            paper). `"hidden"`: after the hidden layers (the `dst` package). `"none"`: nowhere; layers have biases
            instead. With batch normalisation no layer has a bias.
        kernel_initializer: Keras initializer of every kernel. Default as in the source: uniform within
            1 / sqrt(fan-in).
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`. Defaults to `None`: all (as in the source).
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no softmax). With the default
        shapes it has 266,200 weights, and 820 ("all"), 800 ("hidden") or 410 ("none") other trainable parameters.

    Raises:
        ValueError: `batch_norm` is unknown, or `hidden` is empty; `technique_options` or `where` is given without
            `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = mnist_mlp(batch_norm="hidden", technique="masked")
    """
    check_choice("batch_norm", batch_norm, ("all", "hidden", "none"))
    if isinstance(hidden, list | tuple) and not hidden:
        raise ValueError(f"`hidden` must list the units of at least one layer. Received: hidden={hidden!r}")
    check_integers("hidden", hidden, 1)
    net = Layers(_building.torch_default(), kernel_regularizer, override=kernel_initializer)
    use_bias = batch_norm == "none"
    inputs = _building.image_input(input_shape, num_classes, flattened=True)
    x = net.flatten(inputs)
    for index, units in enumerate(hidden, start=1):
        layer = "stem" if index == 1 else f"fc{index}"
        x = net.dense(x, units, use_bias, name=layer)
        if batch_norm != "none":
            x = net.batch_norm(x, f"{layer}_bn")
        x = net.relu(x, f"{layer}_relu")
    x = net.dense(x, num_classes, use_bias, name="classifier")
    if batch_norm == "all":
        x = net.batch_norm(x, "classifier_bn")
    model = keras.Model(inputs, x, name=name)
    return _building.apply_technique(model, technique, technique_options, where)
