"""The text classifier of Chirkova, Lobacheva and Vetrov (EMNLP 2018, arXiv 1810.10927).

An embedding of the words, an LSTM, and a dense layer that reads the LSTM's last output. Id 0 is padding, which the LSTM
skips. Their initial weights: the embedding uniform within 0.05, the LSTM Glorot uniform and orthogonal of gain 1.1, and
a bias of 1 in the forget gates. They use a hard sigmoid, which Theano makes steeper (slope 0.2) than Keras (1/6).

Names of layers, for `where`: `embedding`, `lstm`, `classifier`.
"""

from collections.abc import Callable

import keras

from sparsity_tf.checks import check_activation, check_integer, check_regularizer
from sparsity_tf.models import _building
from sparsity_tf.type_names import Regularizer, Tensor, Where


def text_lstm(
    vocabulary_size: int,
    num_classes: int,
    embedding_size: int = 300,
    hidden_size: int = 128,
    recurrent_activation: str | Callable[[Tensor], Tensor] = "hard_sigmoid",
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "text_lstm",
) -> keras.Model:
    """An LSTM that classifies texts.

    Args:
        vocabulary_size: Number of ids V, padding (0) and unknown words included, >= 2.
        num_classes: Number of classes C, >= 2.
        embedding_size: Numbers E that stand for a word.
        hidden_size: Units H of the LSTM.
        recurrent_activation: Activation of the input, forget and output gates.
        kernel_regularizer: Keras regularizer of the embedding and all kernels, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse. Defaults to `None`: all that can be.
        name: Name of the model.

    Returns:
        A `keras.Model` from ids `(batch, words)` to logits `(batch, C)`. Its table and kernels hold V E + 4 H (E + H) +
        H C weights.

    Raises:
        ValueError: An argument has a value that is not allowed; `technique_options` or `where` is given without
            `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = text_lstm(20_003, 2, technique="group_variational_dropout")
    """
    for argument, value, least in (
        ("vocabulary_size", vocabulary_size, 2),
        ("num_classes", num_classes, 2),
        ("embedding_size", embedding_size, 1),
        ("hidden_size", hidden_size, 1),
    ):
        check_integer(argument, value, least)
    check_activation("recurrent_activation", recurrent_activation)

    def regularizer():
        return check_regularizer("kernel_regularizer", kernel_regularizer)

    inputs = keras.Input((None,), dtype="int32", name="words")
    # Keras refuses numpy's integers.
    x = keras.layers.Embedding(
        int(vocabulary_size),
        int(embedding_size),
        mask_zero=True,
        embeddings_initializer=keras.initializers.RandomUniform(-0.05, 0.05),
        embeddings_regularizer=regularizer(),
        name="embedding",
    )(inputs)
    x = keras.layers.LSTM(
        int(hidden_size),
        recurrent_activation=recurrent_activation,
        recurrent_initializer=keras.initializers.Orthogonal(gain=1.1),
        kernel_regularizer=regularizer(),
        recurrent_regularizer=regularizer(),
        name="lstm",
    )(x)
    x = keras.layers.Dense(int(num_classes), kernel_regularizer=regularizer(), name="classifier")(x)
    model = keras.Model(inputs, x, name=name)
    return _building.apply_technique(model, technique, technique_options, where)
