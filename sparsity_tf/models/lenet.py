"""LeNet-300-100 and LeNet-5-Caffe, the two small networks that every sparsity paper reports.

Shapes and weight counts agree with the SparseVD experiments (Molchanov, Ashukha, Vetrov, ICML 2017, arXiv 1701.05369):
266,200 and 430,500 weights, biases not counted. The builders make plain Keras layers; `sparsity_tf.sparsify` then
applies a technique.
"""

import keras
from keras import layers

from sparsity_tf.models._building import apply_technique, image_input, kernel_arguments
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def lenet_300_100(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    kernel_initializer: Initializer = "glorot_uniform",
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "lenet_300_100",
) -> keras.Model:
    """A multilayer perceptron: 784-300-100-10, ReLU.

    Args:
        input_shape: Shape of one image; it is flattened.
        num_classes: Number of outputs.
        kernel_initializer: Keras initializer of every kernel. A string or a config is
            instantiated for each layer; an instance is cloned for each layer.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`. Defaults to `None`: all.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no
        softmax). With the default shapes it has 235,200 + 30,000 + 1,000 = 266,200 weights and
        410 biases.

    Raises:
        ValueError: `technique_options` or `where` is given without `technique`, or `sparsify`
            refuses its arguments.

    Example:
        >>> model = lenet_300_100(technique="vd", technique_options={"penalty_weight": 1 / 60000})
    """
    kernel = kernel_arguments(kernel_initializer, kernel_regularizer)
    inputs = image_input(input_shape, num_classes, flattened=True)
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(300, activation="relu", name="dense_1", **kernel())(x)
    x = layers.Dense(100, activation="relu", name="dense_2", **kernel())(x)
    outputs = layers.Dense(int(num_classes), name="dense_3", **kernel())(x)
    model = keras.Model(inputs, outputs, name=name)
    return apply_technique(model, technique, technique_options, where)


def lenet_5_caffe(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    kernel_initializer: Initializer = "glorot_uniform",
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "lenet_5_caffe",
) -> keras.Model:
    """The convolutional LeNet-5 of the Caffe examples: 20-50-500-10.

    Convolution 20 @ 5x5, max-pooling 2, convolution 50 @ 5x5, max-pooling 2 (all "valid"), dense
    500, dense `num_classes`; ReLU after both convolutions and the first dense layer, as in the
    SparseVD experiments.

    Args:
        input_shape: Shape of one image, channels last, at least `(16, 16, channels)`.
        num_classes: Number of outputs.
        kernel_initializer: As for `lenet_300_100`.
        kernel_regularizer: As for `lenet_300_100`.
        technique: As for `lenet_300_100`.
        technique_options: As for `lenet_300_100`.
        where: As for `lenet_300_100`.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to logits `(batch, num_classes)` (no
        softmax). With the default shapes it has 500 + 25,000 + 400,000 + 5,000 = 430,500 weights
        and 580 biases.

    Raises:
        ValueError: As for `lenet_300_100`.

    Example:
        >>> model = lenet_5_caffe(technique="str", where=["dense_1"])
    """
    kernel = kernel_arguments(kernel_initializer, kernel_regularizer)
    inputs = image_input(input_shape, num_classes)
    x = layers.Conv2D(20, 5, activation="relu", name="conv_1", **kernel())(inputs)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(50, 5, activation="relu", name="conv_2", **kernel())(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="dense_1", **kernel())(x)
    outputs = layers.Dense(int(num_classes), name="dense_2", **kernel())(x)
    model = keras.Model(inputs, outputs, name=name)
    return apply_technique(model, technique, technique_options, where)
