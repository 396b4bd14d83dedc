"""The recurrent kinds: Keras's `SimpleRNN`, `LSTM`, `GRU` and `ConvLSTM`, whose cells have two sparse weights.

The cell holds the two weights, `kernel` and `recurrent_kernel`, and the protocol lists the cell. The layer around it
adds only the technique's options to its own. The technique computes the values of the weights (with a mask, gates or a
soft threshold) once for each call of the layer, before the loop over time. It also draws all random numbers there, so a
sequence sees one draw, as in the cells of Gale et al. (2019). Keras's own code then runs with these tensors in the
place of the variables; its cuDNN path (TensorFlow, GPU) works, too.

Variational dropout in training is the exception. For the inputs it samples pre-activations (local reparametrisation):
all time steps at once, with one noise vector for each sequence. For the recurrent state it samples the kernel itself,
one sample for the whole batch. cuDNN can't run this. (Variational dropout with group variables samples both kernels.)

"Before the loop" is the moment when Keras asks a cell for its dropout masks. So the cells also work in a plain
`keras.layers.RNN` and in `StackedRNNCells`. A cell that is called by itself makes a new draw in every call.
"""

import contextlib

import keras
from keras import ops

from sparsity_tf.backend import ConvLSTMCell, is_training_call, untrack
from sparsity_tf.layers.sparse_layer import SparseLayer
from sparsity_tf.layers.swap import make_sparse


class _Prepared:
    """The tensors that a cell computes for one call of its layer.

    Attributes:
        training: Bool.
        kernel: Tensor; `None` if `project` takes its place.
        recurrent_kernel: Tensor.
        bias: Tensor; `None` if the cell uses the variable itself, or has no bias.
        project: Function that computes the inputs' part of the pre-activations, or `None`.
        projected: Bool; whether `project` has already been applied to the cell's inputs.
    """

    def __init__(self, training, kernel, recurrent_kernel, bias, project):
        self.training = training
        self.kernel, self.recurrent_kernel, self.bias, self.project = kernel, recurrent_kernel, bias, project
        self.projected = False


def _kernel_itself(_, kernel):
    return kernel


class _SparseCell(SparseLayer):
    """Base of the sparse cells. A subclass defines `advance`."""

    sparse_weight_names = ("kernel", "recurrent_kernel")
    prepared = None

    def add_seed_generator(self):
        # A Keras cell already has a seed generator for its dropout. The technique draws its noise from the same
        # generator.
        if self.technique.seed is not None:
            untrack(self, self.seed_generator)
            self.seed_generator = keras.random.SeedGenerator(self.technique.seed)

    def remove_seed_generator(self):
        """Keeps the generator: the cell's dropout still needs it."""

    def _own_variables(self):
        variables = super()._own_variables()
        # The generator's counter is saved, so the dropout of a resumed run continues where it stopped.
        return variables if self.technique.stochastic else [*variables, self.seed_generator.state]

    def filter_axes(self, name="kernel"):
        return (1,)

    def group_axes(self, name="kernel"):
        return {"input" if name == "kernel" else "unit": 0, "gate": 1}

    def products(self):
        """The linear operations of one step: dict from the name of a weight to a function of (inputs, kernel)."""
        return {"kernel": ops.matmul, "recurrent_kernel": ops.matmul}

    def prepare(self, batch_size, training):
        """Computes the weights of one call and draws the call's noise."""
        kernel, project = self.sparse_weights[0], None
        if training:
            project = self.technique.over_time(kernel, self.products()["kernel"], batch_size)
        with self._sharing_draws():
            return _Prepared(
                training,
                None if project else self.apply_weight("kernel", _kernel_itself, None, training),
                self.apply_weight("recurrent_kernel", _kernel_itself, None, training),
                self.bound_value("bias", training) if "bias" in self.bound_weight_names else None,
                project,
            )

    @contextlib.contextmanager
    def _sharing_draws(self):
        """A context in which both kernels find the same draws in `shared_draws`."""
        # Written through `__dict__`: Keras tracks attributes that are set on a layer.
        self.__dict__["shared_draws"] = {}
        try:
            yield
        finally:
            del self.__dict__["shared_draws"]

    # Keras's RNN calls `get_dropout_mask` before its loop over time, and `reset_dropout_mask` after it.
    def get_dropout_mask(self, step_input):
        self.prepared = self.prepare(ops.shape(step_input)[0], is_training_call(self))
        return super().get_dropout_mask(step_input)

    def reset_dropout_mask(self):
        self.prepared = None
        super().reset_dropout_mask()

    def call(self, inputs, states, training=False):
        prepared = self.prepared
        if prepared is None:
            prepared = self.prepare(ops.shape(inputs)[0], training)
        with self.using(prepared):
            if prepared.project is None:
                return super().call(inputs, states, training=training)
            nested = isinstance(states, (list, tuple))
            states = list(states) if nested else [states]
            projected = inputs if prepared.projected else prepared.project(self.drop_inputs(inputs))
            mask = _first(self.get_recurrent_dropout_mask(states[0]))
            hidden = states[0] if mask is None else states[0] * mask
            output, states = self.advance(projected, hidden, states, prepared.recurrent_kernel)
            return output, states if nested else states[0]

    @contextlib.contextmanager
    def using(self, prepared):
        """A context in which Keras's code finds the prepared tensors in the place of the variables."""
        # Written through `__dict__`: Keras tracks attributes that are set on a layer.
        attributes = self.__dict__
        names = {"kernel": prepared.kernel, "recurrent_kernel": prepared.recurrent_kernel}
        if prepared.bias is not None:
            names["bias"] = prepared.bias
        before = {name: attributes[name] for name in names}
        # The stock method for the time of the loop: `_SparseCell.get_dropout_mask` would draw and prepare again at
        # every step.
        before_masks = attributes.get("get_dropout_mask")
        try:
            attributes.update(names)
            attributes["get_dropout_mask"] = super().get_dropout_mask
            yield
        finally:
            attributes.update(before)
            if before_masks is None:
                del attributes["get_dropout_mask"]
            else:
                attributes["get_dropout_mask"] = before_masks

    def drop_inputs(self, inputs):
        """Applies Keras's dropout mask, the same for all steps and gates, to the inputs of one step or of all steps."""
        if not self.dropout:
            return inputs
        step = inputs if len(inputs.shape) == 2 else inputs[:, 0, :]
        mask = _first(super().get_dropout_mask(step))
        return inputs * (mask if len(inputs.shape) == 2 else ops.expand_dims(mask, 1))

    def advance(self, projected, hidden, states, recurrent_kernel):
        """One step of the cell's equations from the projected inputs (without bias).

        Args:
            projected: Tensor `(batch, gates * units)`.
            hidden: The output of the step before, after dropout.
            states: List of the states after the step before.
            recurrent_kernel: Tensor `(units, gates * units)`.

        Returns:
            `(output, list of the new states)`.
        """
        raise TypeError(f"{type(self).__name__} must define `advance`.")


def _first(masks):
    """The first dropout mask. Keras may return one mask, or a list with one for each gate."""
    return masks[0] if isinstance(masks, (list, tuple)) else masks


class SparseSimpleRNNCell(_SparseCell, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` whose kernels are sparse."""

    def advance(self, projected, hidden, states, recurrent_kernel):
        output = projected + ops.matmul(hidden, recurrent_kernel)
        if self.bias is not None:
            output = output + ops.cast(self.bias, output.dtype)
        if self.activation is not None:
            output = self.activation(output)
        return output, [output]


class SparseLSTMCell(_SparseCell, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` whose kernels are sparse."""

    def advance(self, projected, hidden, states, recurrent_kernel):
        z = projected + ops.matmul(hidden, recurrent_kernel)
        if self.bias is not None:
            z = z + ops.cast(self.bias, z.dtype)
        i, f, c, o = ops.split(z, 4, axis=1)
        carry = self.recurrent_activation(f) * states[1] + self.recurrent_activation(i) * self.activation(c)
        output = self.recurrent_activation(o) * self.activation(carry)
        return output, [output, carry]


class SparseGRUCell(_SparseCell, keras.layers.GRUCell):
    """`keras.layers.GRUCell` whose kernels are sparse."""

    def advance(self, projected, hidden, states, recurrent_kernel):
        units, recurrent_bias = self.units, None
        if self.bias is not None:
            bias = ops.cast(self.bias, projected.dtype)
            if self.reset_after:
                bias, recurrent_bias = bias[0], bias[1]
            projected = projected + bias
        x_z, x_r, x_h = ops.split(projected, 3, axis=1)
        gates = ops.matmul(hidden, recurrent_kernel if self.reset_after else recurrent_kernel[:, : 2 * units])
        if recurrent_bias is not None:
            gates = gates + recurrent_bias
        z = self.recurrent_activation(x_z + gates[:, :units])
        r = self.recurrent_activation(x_r + gates[:, units : 2 * units])
        if self.reset_after:
            recurrent = r * gates[:, 2 * units :]
        else:
            recurrent = ops.matmul(r * hidden, recurrent_kernel[:, 2 * units :])
        output = z * states[0] + (1 - z) * self.activation(x_h + recurrent)
        return output, [output]


class SparseConvLSTMCell(_SparseCell, ConvLSTMCell):
    """The cell of `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`, whose kernels are sparse.

    A technique whose `over_time` samples pre-activations can't be used here: Keras's code convolves with a kernel.
    """

    def products(self):
        return {
            "kernel": lambda inputs, kernel: self.input_conv(inputs, kernel, padding=self.padding),
            "recurrent_kernel": self.recurrent_conv,
        }

    def filter_axes(self, name="kernel"):
        return (self.rank + 1,)

    def group_axes(self, name="kernel"):
        return {}

    def position_axes(self, rank):
        first = 1 if self.data_format == "channels_last" else 2
        return tuple(range(first, first + self.rank))


class SparseRecurrent(SparseLayer):
    """Base of the sparse recurrent layers: the cell is sparse, and the layer's config says so."""

    sparse_weight_names = ()
    sparse_part_names = ("cell",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        make_sparse(self.cell, self.technique)

    def build(self, sequences_shape, initial_state_shape=None):
        keras.layers.RNN.build(self, sequences_shape, initial_state_shape)

    def build_technique(self):
        """Does nothing: the cell adds the technique's variables."""

    def remove_seed_generator(self):
        """Does nothing: the cell has the only generator."""

    # The cell holds all variables, so the layer saves and loads as a stock layer does.
    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)


class _StockRecurrent(SparseRecurrent):
    """Base of the sparse forms of Keras's own recurrent layers."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        prepared = self.cell.prepared
        if prepared.project is None:
            with self.cell.using(prepared):
                return super().inner_loop(sequences, initial_state, mask, training=training)
        if getattr(self, "use_cudnn", None) is True:
            raise ValueError(
                f"`use_cudnn` must be 'auto' or False: in training, technique {self.technique.name!r} adds noise, and "
                f"cuDNN can't do this. Received: use_cudnn=True of layer {self.name!r}"
            )
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        prepared.projected = True
        sequences = prepared.project(self.cell.drop_inputs(sequences))
        return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training=training)


class SparseSimpleRNN(_StockRecurrent, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with a sparse cell."""


class SparseLSTM(_StockRecurrent, keras.layers.LSTM):
    """`keras.layers.LSTM` with a sparse cell."""


class SparseGRU(_StockRecurrent, keras.layers.GRU):
    """`keras.layers.GRU` with a sparse cell."""


class SparseConvLSTM1D(_StockRecurrent, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with a sparse cell."""


class SparseConvLSTM2D(_StockRecurrent, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with a sparse cell."""


class SparseConvLSTM3D(_StockRecurrent, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with a sparse cell."""
