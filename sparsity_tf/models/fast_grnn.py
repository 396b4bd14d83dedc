"""The classifier of sequences of the FastGRNN experiments (Kusupati et al., arXiv 1901.02358).

Names of layers, for `where`: `fast_grnn`; `classifier`.
"""

import keras

from sparsity_tf.checks import check_bool, check_integer, check_integers, check_number
from sparsity_tf.layers import FastGRNN
from sparsity_tf.models import _building
from sparsity_tf.type_names import Initializer, Regularizer, Shape, Where


def fast_grnn(
    input_shape: Shape = (99, 32),
    num_classes: int = 12,
    units: int = 100,
    input_rank: int | None = None,
    recurrent_rank: int | None = None,
    gains: bool = False,
    gain_l2: float = 0.0,
    kernel_initializer: Initializer | None = None,
    kernel_regularizer: Regularizer | None = None,
    technique: str | None = None,
    technique_options: dict | None = None,
    where: Where = None,
    name: str = "fast_grnn_classifier",
) -> keras.Model:
    """A FastGRNN over a sequence, and a linear classifier of its last state.

    Args:
        input_shape: `(steps, features)` of a sequence; `steps` may be `None`.
        num_classes: Number of outputs.
        units: Number of units, >= 1.
        input_rank, recurrent_rank: Ranks of the two matrices; `None` for full matrices. See `layers.FastGRNNCell`.
        gains: Whether the two factors of a matrix have a vector of gains between them, on which `technique="str"` puts
            soft thresholds that learn the rank. A rank that is not given is then the full rank.
        gain_l2: L2 factor c of the gains: adds 2 c m to the gradient of a gain m. It needs `gains`.
        kernel_initializer: Keras initializer of every matrix. Default as in the source: normal with standard deviation
            0.1 in the FastGRNN, uniform within 1 / sqrt(units) in the classifier.
        kernel_regularizer: Keras regularizer of every matrix, or `None`.
        technique: Name of a technique for `sparsity_tf.sparsify`, or `None` for a dense net. The FastGRNN has a form
            only for `"str"`, and only with `gains`.
        technique_options: Dict of keyword arguments of the technique, or `None`.
        where: Which layers to make sparse, passed on to `sparsify`. Defaults to `None`: all.
        name: Name of the model.

    Returns:
        A `keras.Model` from `(batch, steps, features)` to logits `(batch, num_classes)` (no softmax).

    Raises:
        ValueError: An argument has a value that is not allowed; `technique_options` or `where` is given without
            `technique`, or `sparsify` refuses its arguments.

    Example:
        >>> model = fast_grnn((128, 9), 2, units=80, gains=True, technique="str", where="fast_grnn")
        >>> model.get_layer("fast_grnn").ranks()
        (9, 80)
    """
    check_integers("input_shape", input_shape, 1, length=2, unknown=True)
    check_integer("num_classes", num_classes, 1)
    check_bool("gains", gains)
    check_number("gain_l2", gain_l2, least=0)
    if gain_l2 and not gains:
        raise ValueError(f"`gain_l2` needs gains=True. Received: gain_l2={gain_l2}")
    for argument, value in (("units", units), ("input_rank", input_rank), ("recurrent_rank", recurrent_rank)):
        if value is not None or argument == "units":
            check_integer(argument, value, 1)
    initializer = _building.torch_default() if kernel_initializer is None else kernel_initializer
    kernel = _building.kernel_arguments(initializer, kernel_regularizer)
    own = {} if kernel_initializer is None else {"kernel_initializer": kernel()["kernel_initializer"]}
    inputs = keras.Input(input_shape, name="sequence")
    x = FastGRNN(
        units,
        input_rank=input_rank,
        recurrent_rank=recurrent_rank,
        gains=gains,
        kernel_regularizer=kernel()["kernel_regularizer"],
        gain_regularizer=keras.regularizers.L2(gain_l2) if gain_l2 else None,
        name="fast_grnn",
        **own,
    )(inputs)
    outputs = keras.layers.Dense(num_classes, name="classifier", **kernel())(x)
    model = keras.Model(inputs, outputs, name=name)
    return _building.apply_technique(model, technique, technique_options, where)
