"""The character language model of the `dst` package (Mostafa and Wang, ICML 2019, arXiv 1902.05967).

The model reads one-hot characters through a stack of recurrent layers and a softmax layer without bias. The LSTM and
GRU of `dst` keep the matrix of each gate as a separate sparse tensor. Here the gates of a cell are one tensor, as in
Keras. (A threshold over all layers is not affected; growth is shared out among whole kernels.) A cell of PyTorch has
two biases, of which only the sum matters. Here they are one bias, except in the GRU.

Names of layers, for `where`: `rnn1`, `rnn2`, ...; `classifier`.
"""

import math

import keras
from keras import ops

from sparsity_tf.checks import check_choice, check_integer, check_regularizer
from sparsity_tf.models import _building
from sparsity_tf.type_names import Regularizer, Where

CELLS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def CharRNN(  # noqa: N802  (a builder that reads like a class, as Keras's applications do)
    vocabulary_size: int,
    hidden_size: int = 128,
    depth: int = 2,
    cell: str = "lstm",
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "char_rnn",
) -> keras.Model:
    """A recurrent network that predicts the next character.

    Every window of text begins with a state of zeros. The kernels and biases of the recurrent layers start uniform
    within 1 / sqrt(hidden_size), the last kernel within 1 / sqrt(number of its inputs).

    Args:
        vocabulary_size: Number of characters V, >= 2.
        hidden_size: Units H of each recurrent layer.
        depth: Number of recurrent layers.
        cell: "rnn", "lstm" or "gru".
        kernel_regularizer: Keras regularizer of all kernels and biases (PyTorch's weight decay applies to both), or
            `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse. Defaults to `None`: all (as in the source).
        name: Name of the model.

    Returns:
        A `keras.Model` from integers `(batch, time)` to logits `(batch, time, V)`. Its kernels hold c H (V + H) +
        (depth - 1) 2 c H^2 + H V weights, where c = 1, 4, 3 for "rnn", "lstm", "gru".

    Raises:
        ValueError: An argument has a value that is not allowed; `technique_options` or `where` is given without
            `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = CharRNN(50, hidden_size=1024, cell="gru", technique="masked")
    """
    for argument, value, least in (
        ("vocabulary_size", vocabulary_size, 2),
        ("hidden_size", hidden_size, 1),
        ("depth", depth, 1),
    ):
        check_integer(argument, value, least)
    check_choice("cell", cell, tuple(CELLS))
    vocabulary_size, hidden_size = int(vocabulary_size), int(hidden_size)  # Keras refuses numpy's integers.
    bound = 1 / math.sqrt(hidden_size)

    def uniform():
        return keras.initializers.RandomUniform(-bound, bound)

    def regularizer():
        return check_regularizer("kernel_regularizer", kernel_regularizer)

    inputs = keras.Input((None,), dtype="int32", name="characters")
    x = ops.one_hot(inputs, vocabulary_size, dtype=keras.config.dtype_policy().compute_dtype)
    # Keras starts the forget gates of an LSTM at 1. PyTorch does not.
    options = {"unit_forget_bias": False} if cell == "lstm" else {}
    for index in range(1, depth + 1):
        x = CELLS[cell](
            hidden_size,
            return_sequences=True,
            kernel_initializer=uniform(),
            recurrent_initializer=uniform(),
            bias_initializer=uniform(),
            kernel_regularizer=regularizer(),
            recurrent_regularizer=regularizer(),
            bias_regularizer=regularizer(),
            name=f"rnn{index}",
            **options,
        )(x)
    x = keras.layers.Dense(
        vocabulary_size,
        use_bias=False,
        kernel_initializer=uniform(),
        kernel_regularizer=regularizer(),
        name="classifier",
    )(x)
    model = keras.Model(inputs, x, name=name)
    return _building.apply_technique(model, technique, technique_options, where)
