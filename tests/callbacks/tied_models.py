"""Small models whose channels, heads or units are pruned: one for each way in which a graph ties them."""

import keras
from keras import layers

from sparsity_tf import models
from tests.deploy.models import randomize


def mlp():
    inputs = keras.Input((6,))
    x = layers.Dense(10, activation="relu", name="one")(inputs)
    x = layers.Dense(8, activation="tanh", name="two")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))


def convolutional():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.Dense(4, activation="relu", name="hidden")(layers.Flatten()(x))
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))


def vgg():
    """Sequential, with a part that is a model of its own, and a normalisation without gamma."""
    block = keras.Sequential(
        [
            keras.Input((4, 4, 6)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="third"),
            layers.BatchNormalization(name="bn_third", scale=False),
            layers.ReLU(),
        ],
        name="block",
    )
    return randomize(
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, padding="same", name="first"),
                layers.BatchNormalization(name="bn_first"),
                layers.ReLU(),
                layers.Conv2D(6, 3, padding="same", use_bias=False, name="second"),
                layers.BatchNormalization(name="bn_second"),
                layers.ReLU(),
                layers.MaxPooling2D(2),
                block,
                layers.Flatten(),
                layers.Dense(5, activation="relu", name="hidden"),
                layers.Dense(3, name="last"),
            ]
        )
    )


def resnet():
    return randomize(models.wide_resnet(10, 1, input_shape=(8, 8, 3), num_classes=3))


def mobilenet():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for number, width in enumerate((4, 6)):
        x = layers.Conv2D(width, 1, use_bias=False, name=f"point_{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"bn_{number}")(x))
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depth_{number}")(x)
        x = layers.ReLU(max_value=6.0)(layers.BatchNormalization(name=f"bn_depth_{number}")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))


def attention():
    inputs = keras.Input((4, 6))
    x = layers.LayerNormalization()(inputs)
    x = layers.Add()([inputs, layers.MultiHeadAttention(4, 3, name="attention")(x, x)])
    y = layers.Dense(12, activation="gelu", name="wide")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(6, name="narrow")(y)])
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(layers.Flatten()(x))))


def lstms():
    inputs = keras.Input((4, 6))
    x = layers.LSTM(8, return_sequences=True, name="lower")(inputs)
    x = layers.GRU(6, name="upper")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(x)))
