"""The recurrent kinds: Keras's `SimpleRNN`, `LSTM`, `GRU` and `ConvLSTM`, and their cells with two sparse weights.

The cell holds them, `kernel` and `recurrent_kernel`, and is what the protocol lists; the layer around it adds nothing
but the technique's options to its own. What the technique makes of the weights (a mask, gates, a soft threshold) is
computed once a call of the layer, before the loop over time, and so is all that is drawn at random: a sequence sees one
draw, as in the cells of Gale et al. (2019). Keras's own code then runs with these tensors in the place of the
variables, its cuDNN path (TensorFlow, GPU) included.

Variational dropout in training is the exception: there the inputs' part of the pre-activations is sampled (local
reparametrisation, one noise vector a sequence, for all time steps), for all steps at once, and the recurrent kernel as
it stands, one sample for the whole batch. There is no cuDNN path for it.

The moment "before the loop" is the one in which Keras asks a cell for its dropout masks, so cells work in a plain
`keras.layers.RNN` (and `StackedRNNCells`), too. A cell that is called by itself makes a new draw each time.
"""

import contextlib

import keras
from keras import ops

from sparsity_tf.backend import ConvLSTMCell, is_training_call, untrack
from sparsity_tf.layers.sparse_layer import SparseLayer
from sparsity_tf.layers.swap import make_sparse


class _Prepared:
    """What a cell computed for one call of its layer.

    Attributes:
        training: Bool.
        kernel: Tensor; `None` where `project` stands for it.
        recurrent_kernel: Tensor.
        bias: Tensor; `None` where the variable itself is used, or there is none.
        project: Function from inputs to their part of the pre-activations, or `None`.
        projected: Bool; whether the cell's inputs have been through `project` already.
    """

    def __init__(self, training, kernel, recurrent_kernel, bias, project):
        self.training = training
        self.kernel, self.recurrent_kernel, self.bias, self.project = kernel, recurrent_kernel, bias, project
        self.projected = False


def _kernel_itself(_, kernel):
    return kernel


class _SparseCell(SparseLayer):
    """What the cells share; a subclass defines `advance`."""

    sparse_weight_names = ("kernel", "recurrent_kernel")
    prepared = None

    def add_seed_generator(self):
        # Cells have one already, for dropout: noise is drawn from the same.
        if self.technique.seed is not None:
            untrack(self, self.seed_generator)
            self.seed_generator = keras.random.SeedGenerator(self.technique.seed)

    def remove_seed_generator(self):
        """Dropout goes on using it."""

    def _own_variables(self):
        variables = super()._own_variables()
        # Dropout, too, goes on as it would have.
        return variables if self.technique.stochastic else [*variables, self.seed_generator.state]

    def filter_axes(self, name="kernel"):
        return (1,)

    def products(self):
        """The linear operations of one step: dict from the name of a weight to a function of (inputs, kernel)."""
        return {"kernel": ops.matmul, "recurrent_kernel": ops.matmul}

    def prepare(self, batch_size, training):
        """Computes the weights of one call, and draws its noise."""
        kernel, project = self.sparse_weights[0], None
        if training:
            project = self.technique.over_time(kernel, self.products()["kernel"], batch_size)
        return _Prepared(
            training,
            None if project else self.apply_weight("kernel", _kernel_itself, None, training),
            self.apply_weight("recurrent_kernel", _kernel_itself, None, training),
            self.bound_value("bias", training) if "bias" in self.bound_weight_names else None,
            project,
        )

    # Keras's RNN calls these two before and after its loop over time.
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
        # Through __dict__: attributes set on a layer are tracked.
        attributes = self.__dict__
        names = {"kernel": prepared.kernel, "recurrent_kernel": prepared.recurrent_kernel}
        if prepared.bias is not None:
            names["bias"] = prepared.bias
        before = {name: attributes[name] for name in names}
        # Not drawn or prepared again at every step.
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
        """Inputs of one step, or of all, under Keras's dropout mask, which is the same for all steps (and gates)."""
        if not self.dropout:
            return inputs
        step = inputs if len(inputs.shape) == 2 else inputs[:, 0, :]
        mask = _first(super().get_dropout_mask(step))
        return inputs * (mask if len(inputs.shape) == 2 else ops.expand_dims(mask, 1))

    def advance(self, projected, hidden, states, recurrent_kernel):
        """One step of the cell's equations from the projected inputs (without bias).

        Args:
            projected: Tensor `(batch, gates * units)`.
            hidden: The output before, under a dropout mask.
            states: List of the states before.
            recurrent_kernel: Tensor `(units, gates * units)`.

        Returns:
            `(output, list of the states after)`.
        """
        raise TypeError(f"{type(self).__name__} must define `advance`.")


def _first(masks):
    """Dropout masks may be one for each gate."""
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

    A technique whose `over_time` samples pre-activations does not fit: Keras's code convolves with a kernel.
    """

    def products(self):
        return {
            "kernel": lambda inputs, kernel: self.input_conv(inputs, kernel, padding=self.padding),
            "recurrent_kernel": self.recurrent_conv,
        }

    def filter_axes(self, name="kernel"):
        return (self.rank + 1,)

    def position_axes(self, rank):
        first = 1 if self.data_format == "channels_last" else 2
        return tuple(range(first, first + self.rank))


class SparseRecurrent(SparseLayer):
    """What recurrent layers share: the cell is sparse, and the layer's config says so."""

    sparse_weight_names = ()
    sparse_part_names = ("cell",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        make_sparse(self.cell, self.technique)

    def build(self, sequences_shape, initial_state_shape=None):
        keras.layers.RNN.build(self, sequences_shape, initial_state_shape)

    def build_technique(self):
        """The cell's business."""

    def remove_seed_generator(self):
        """There is only the cell's."""

    # Variables are the cell's.
    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)


class _StockRecurrent(SparseRecurrent):
    """What the recurrent layers of Keras share."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        prepared = self.cell.prepared
        if prepared.project is None:
            with self.cell.using(prepared):
                return super().inner_loop(sequences, initial_state, mask, training=training)
        if getattr(self, "use_cudnn", None) is True:
            raise ValueError(
                f"`use_cudnn` must be 'auto' or False: in training, technique {self.technique.name!r} draws noise that "
                f"cuDNN has no place for. Received: use_cudnn=True of layer {self.name!r}"
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
