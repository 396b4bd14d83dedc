"""FastGRNN: a gated recurrent layer with few parameters, whose rank soft thresholds can learn.

Source: Kusupati et al., "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated Recurrent Neural Network"
(arXiv 1901.02358). The initial values come from the authors' library (EdgeML). With the input x and the old state h:

    a = x W + h U,   z = sigmoid(a + b_g),   c = tanh(a + b_h),   h' = z h + (sigmoid(zeta) (1 - z) + sigmoid(nu)) c

A matrix of low rank is stored as W = L R. With gains m it is W = L diag(m) R. `STRFastGRNN` puts a soft threshold on m
(Kusupati et al. 2020, arXiv 2002.03231, section 4.3); each gain that becomes zero lowers the rank by one. `fold_rank`
makes the layer of the lower rank, without m.
"""

import keras
import numpy as np
from keras import ops

from sparsity_tf.checks import (
    check_activation,
    check_bool,
    check_initializer,
    check_integer,
    check_number,
    check_regularizer,
)
from sparsity_tf.layers.recurrent_kinds import SparseRecurrent
from sparsity_tf.layers.soft_threshold import SoftThreshold
from sparsity_tf.layers.sparse_layer import SparseLayer


class _Prepared:
    """The gains of one call, and whether the cell's inputs have already been multiplied by W."""

    def __init__(self, gains, projected=False):
        self.gains, self.projected = gains, projected


@keras.saving.register_keras_serializable("sparsity_tf")
class FastGRNNCell(keras.layers.Layer):
    """One step of a FastGRNN.

    Args:
        units: Number of units, >= 1.
        input_rank: Rank of W, `(features, units)`; `None` for a full matrix `kernel`. Otherwise the variables are
            `kernel_left` `(features, rank)` and `kernel_right` `(rank, units)`.
        recurrent_rank: The same for U, `(units, units)`: `recurrent_kernel`, or `recurrent_left`, `recurrent_right`.
        gains: Whether there are vectors `kernel_gain` and `recurrent_gain` between the two factors, with one entry for
            each rank. If so, a rank that is not given is the full rank.
        activation: Activation of the candidate state.
        recurrent_activation: Activation of the gate.
        kernel_initializer: Initializer of all matrices. Default: normal with standard deviation 0.1.
        bias_initializer: Initializer of `gate_bias` and `update_bias`.
        zeta_initializer, nu_initializer: Initial values of zeta and nu before the sigmoid, numbers.
        kernel_regularizer: Keras regularizer of all matrices (of low rank: of their factors), or `None`.
        gain_regularizer: Keras regularizer of the gains, or `None`. It draws them towards the soft threshold below
            which they are zero. The factors of a matrix can make up for smaller gains unless they are regularized, too.

    Raises:
        ValueError: An argument has a value that is not allowed, or, when the cell is built, a rank is above the full
            rank.
    """

    def __init__(
        self,
        units,
        input_rank=None,
        recurrent_rank=None,
        gains=False,
        activation="tanh",
        recurrent_activation="sigmoid",
        kernel_initializer=None,
        bias_initializer="ones",
        zeta_initializer=1.0,
        nu_initializer=-4.0,
        kernel_regularizer=None,
        gain_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integer("units", units, 1)
        for name, rank in (("input_rank", input_rank), ("recurrent_rank", recurrent_rank)):
            if rank is not None:
                check_integer(name, rank, 1)
        check_bool("gains", gains)
        self.kernel_regularizer = check_regularizer("kernel_regularizer", kernel_regularizer)
        self.gain_regularizer = check_regularizer("gain_regularizer", gain_regularizer)
        if gain_regularizer is not None and not gains:
            raise ValueError(f"`gain_regularizer` needs gains=True. Received: gain_regularizer={gain_regularizer!r}")
        check_number("zeta_initializer", zeta_initializer)
        check_number("nu_initializer", nu_initializer)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomNormal(stddev=0.1)
        self.units, self.input_rank, self.recurrent_rank, self.gains = units, input_rank, recurrent_rank, gains
        self.activation = check_activation("activation", activation)
        self.recurrent_activation = check_activation("recurrent_activation", recurrent_activation)
        self.kernel_initializer = check_initializer("kernel_initializer", kernel_initializer)
        self.bias_initializer = check_initializer("bias_initializer", bias_initializer)
        self.zeta_initializer, self.nu_initializer = zeta_initializer, nu_initializer
        self.state_size = self.output_size = units
        self.prepared = None

    def build(self, input_shape):
        features, units = input_shape[-1], self.units
        self._add_matrix("kernel", "kernel", "input_rank", features, self.input_rank)
        self._add_matrix("recurrent", "recurrent_kernel", "recurrent_rank", units, self.recurrent_rank)
        self.gate_bias = self.add_weight(name="gate_bias", shape=(units,), initializer=self.bias_initializer)
        self.update_bias = self.add_weight(name="update_bias", shape=(units,), initializer=self.bias_initializer)
        for name, value in (("zeta", self.zeta_initializer), ("nu", self.nu_initializer)):
            variable = self.add_weight(name=name, shape=(), initializer=keras.initializers.Constant(value))
            setattr(self, name, variable)

    def _add_matrix(self, prefix, full_name, argument, rows, rank):
        full = min(rows, self.units)
        if rank is None and not self.gains:
            self._add_kernel(full_name, (rows, self.units))
            return
        rank = full if rank is None else rank
        if rank > full:
            raise ValueError(
                f"`{argument}` must be at most {full}, the full rank of a matrix {rows} x {self.units}. "
                f"Received: {argument}={rank}"
            )
        self._add_kernel(f"{prefix}_left", (rows, rank))
        self._add_kernel(f"{prefix}_right", (rank, self.units))
        if self.gains:
            gain = self.add_weight(
                name=f"{prefix}_gain", shape=(rank,), initializer="ones", regularizer=self.gain_regularizer
            )
            setattr(self, f"{prefix}_gain", gain)

    def _add_kernel(self, name, shape):
        initializer = self.kernel_initializer
        # Each matrix gets a clone: one initializer object draws the same numbers in every call.
        initializer = initializer.clone() if hasattr(initializer, "clone") else initializer
        options = {"initializer": initializer, "regularizer": self.kernel_regularizer}
        setattr(self, name, self.add_weight(name=name, shape=shape, **options))

    def gain(self, name, training):
        """Tensor `(rank,)`: the gains that a call uses."""
        return ops.convert_to_tensor(getattr(self, name))

    def prepare(self, training):
        """Computes the gains once for all steps of a call."""
        names = ("kernel_gain", "recurrent_gain") if self.gains else ()
        return _Prepared({name: self.gain(name, training) for name in names})

    def multiply(self, inputs, prefix, prepared):
        """Multiplies inputs by W (prefix "kernel") or U ("recurrent") along their last axis."""
        left = getattr(self, f"{prefix}_left", None)
        if left is None:
            return ops.matmul(inputs, self.kernel if prefix == "kernel" else self.recurrent_kernel)
        inner = ops.matmul(inputs, left)
        if prepared.gains:
            inner = inner * prepared.gains[f"{prefix}_gain"]
        return ops.matmul(inner, getattr(self, f"{prefix}_right"))

    def call(self, inputs, states, training=False):
        """Computes one step.

        Args:
            inputs: Tensor `(batch, features)`.
            states: The old state, `(batch, units)`, or a list that holds it.
            training: Bool.

        Returns:
            `(output, states)`; both are the new state.
        """
        nested = isinstance(states, (list, tuple))
        h = states[0] if nested else states
        prepared = self.prepared or self.prepare(training)
        projected = inputs if prepared.projected else self.multiply(inputs, "kernel", prepared)
        a = projected + self.multiply(h, "recurrent", prepared)
        z = self.recurrent_activation(a + self.gate_bias)
        c = self.activation(a + self.update_bias)
        output = z * h + (ops.sigmoid(self.zeta) * (1 - z) + ops.sigmoid(self.nu)) * c
        return output, [output] if nested else output

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype)]

    def matrix(self, prefix):
        """W (prefix "kernel") or U ("recurrent") at inference, as one numpy array `(rows, units)`."""
        left = getattr(self, f"{prefix}_left", None)
        if left is None:
            return ops.convert_to_numpy(self.kernel if prefix == "kernel" else self.recurrent_kernel)
        left, right = ops.convert_to_numpy(left), ops.convert_to_numpy(getattr(self, f"{prefix}_right"))
        return (left * self._gain_array(prefix)) @ right

    def ranks(self):
        """`(rank of W, rank of U)` at inference. With gains, the rank is the number of gains that are not zero."""
        return tuple(self._rank(prefix) for prefix in ("kernel", "recurrent"))

    def _rank(self, prefix):
        left = getattr(self, f"{prefix}_left", None)
        rows = self.kernel.shape[0] if left is None and prefix == "kernel" else self.units
        return min(rows, self.units) if left is None else int(np.count_nonzero(self._gain_array(prefix)))

    def _gain_array(self, prefix):
        left = getattr(self, f"{prefix}_left")
        if not self.gains:
            return np.ones(left.shape[1], "float32")
        return ops.convert_to_numpy(self.gain(f"{prefix}_gain", training=False))

    def get_config(self):
        names = ("units", "input_rank", "recurrent_rank", "gains", "zeta_initializer", "nu_initializer")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "gain_regularizer": keras.regularizers.serialize(self.gain_regularizer),
            "activation": keras.activations.serialize(self.activation),
            "recurrent_activation": keras.activations.serialize(self.recurrent_activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


_CELL_ARGUMENTS = (
    "units",
    "input_rank",
    "recurrent_rank",
    "gains",
    "activation",
    "recurrent_activation",
    "kernel_initializer",
    "bias_initializer",
    "zeta_initializer",
    "nu_initializer",
    "kernel_regularizer",
    "gain_regularizer",
)


@keras.saving.register_keras_serializable("sparsity_tf")
class FastGRNN(keras.layers.RNN):
    """A FastGRNN over a sequence.

    The layer multiplies the inputs of all time steps by W at once, before the loop.

    Args:
        units: Number of units.
        input_rank, recurrent_rank, gains, activation, recurrent_activation, kernel_initializer, bias_initializer,
            zeta_initializer, nu_initializer, kernel_regularizer, gain_regularizer: Keywords, see `FastGRNNCell`.
        **kwargs: Arguments of `keras.layers.RNN`: return_sequences, return_state, go_backwards, stateful, unroll,
            name...

    Example:
        >>> layer = FastGRNN(100, input_rank=9, recurrent_rank=24)
        >>> tuple(layer(np.zeros((2, 99, 32))).shape)
        (2, 100)
    """

    def __init__(self, units, **kwargs):
        own = {name: kwargs.pop(name) for name in _CELL_ARGUMENTS if name in kwargs}
        common = {name: kwargs[name] for name in ("dtype", "trainable") if name in kwargs}
        cell = FastGRNNCell(units, **own, **common, name="fast_grnn_cell")
        super().__init__(cell, **kwargs)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        cell = self.cell
        prepared = cell.prepare(training)
        sequences = cell.multiply(sequences, "kernel", prepared)
        cell.prepared = _Prepared(prepared.gains, projected=True)
        try:
            return super().inner_loop(sequences, initial_state, mask, training=training)
        finally:
            cell.prepared = None

    def ranks(self):
        """See `FastGRNNCell.ranks`."""
        return self.cell.ranks()

    def get_config(self):
        config = super().get_config()
        config.pop("cell")
        cell = self.cell.get_config()
        return {**config, **{name: cell[name] for name in _CELL_ARGUMENTS}}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class SparseFastGRNNCell(SparseLayer, FastGRNNCell):
    """`FastGRNNCell` whose gains are sparse."""

    keras_class = FastGRNNCell
    sparse_weight_names = ("kernel_gain", "recurrent_gain")

    def __init__(self, *args, **kwargs):
        _check_gains(kwargs.setdefault("gains", True))
        super().__init__(*args, **kwargs)

    def gain(self, name, training):
        return self.apply_weight(name, lambda _, gain: gain, None, training)

    def filter_axes(self, name="kernel_gain"):
        return (0,)

    @classmethod
    def reason_against(cls, layer):
        return None if layer.gains else "it can be made sparse only with gains=True"


class SparseFastGRNN(SparseRecurrent, FastGRNN):
    """`FastGRNN` whose gains are sparse."""

    keras_class = FastGRNN

    def __init__(self, *args, **kwargs):
        _check_gains(kwargs.setdefault("gains", True))
        super().__init__(*args, **kwargs)

    @classmethod
    def reason_against(cls, layer):
        return SparseFastGRNNCell.reason_against(layer.cell)


def _check_gains(gains):
    if gains is not True:
        raise ValueError(f"`gains` must be True, because this layer makes its gains sparse. Received: gains={gains!r}")


class STRFastGRNNCell(SparseFastGRNNCell):
    """`FastGRNNCell` whose ranks are learned. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRFastGRNN(SparseFastGRNN):
    """`FastGRNN` whose ranks are learned by soft thresholds on the gains. Gains start at 1, ranks at the full rank.

    Weight decay on the thresholds (`threshold_regularizer`) lowers the rank. Takes the arguments of `FastGRNN` and of
    `SoftThreshold`.
    """

    technique_class = SoftThreshold


def fold_rank(layer: keras.layers.Layer) -> "FastGRNN":
    """Makes a `FastGRNN` without gains, of the rank that a layer with gains has reached. It computes the same function.

    Args:
        layer: Built `FastGRNN` (or `STRFastGRNN`) with gains, or with low rank.

    Returns:
        A new, built `FastGRNN` of the same name. If a rank fell to zero, the new layer has rank one with factors of
        zeros.

    Raises:
        ValueError: `layer` is not a built `FastGRNN`.

    Example:

    ```python
    layer = FastGRNN(100, input_rank=9, recurrent_rank=24)
    layer.build((None, 99, 32))
    small = fold_rank(layer)
    ```
    """
    if not isinstance(layer, FastGRNN) or not layer.built:
        raise ValueError(f"`layer` must be a built FastGRNN. Received: layer={layer!r}")
    config = FastGRNN.get_config(layer)
    config = {name: value for name, value in config.items() if name not in SoftThreshold.option_names()}
    cell, factors = layer.cell, {}
    for prefix, argument in (("kernel", "input_rank"), ("recurrent", "recurrent_rank")):
        if hasattr(cell, f"{prefix}_left"):
            gain = cell._gain_array(prefix)
            kept = np.flatnonzero(gain) if gain.any() else np.array([0])
            left = ops.convert_to_numpy(getattr(cell, f"{prefix}_left"))
            factors[f"{prefix}_left"] = (left * gain)[:, kept]
            factors[f"{prefix}_right"] = ops.convert_to_numpy(getattr(cell, f"{prefix}_right"))[kept]
            config[argument] = len(kept)
    folded = FastGRNN.from_config({**config, "gains": False, "gain_regularizer": None})
    rows = cell.kernel.shape[0] if hasattr(cell, "kernel") else cell.kernel_left.shape[0]
    folded.build((None, None, rows))
    for variable in folded.cell.variables:
        variable.assign(factors.get(variable.name, getattr(cell, variable.name, None)))
    return folded
