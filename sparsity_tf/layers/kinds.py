"""The kinds: how each Keras layer applies a given kernel.

A kind supplies the linear operation on (inputs, kernel), the bias and the activation. The technique (`technique.py`)
supplies the kernel, in training and at inference. A kind has the constructor, shapes and config of the Keras layer that
it extends.
"""

import keras
from keras import ops

from sparsity_tf.backend import causal_padding, set_mask, stored_variable
from sparsity_tf.layers.sparse_layer import SparseLayer


class SparseDense(SparseLayer, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel is sparse."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", ops.matmul, inputs, training)
        return _bias_and_activation(self, outputs, training)

    def filter_axes(self, name="kernel"):
        return (1,)

    def group_axes(self, name="kernel"):
        return {"input": 0}


class SparseEinsumDense(SparseLayer, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` whose kernel is sparse."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._contract, inputs, training)
        return _bias_and_activation(self, outputs, training)

    def _contract(self, inputs, kernel):
        return ops.einsum(self.equation, inputs, kernel)

    def filter_axes(self, name="kernel"):
        _, kernel, output = self._subscripts()
        return tuple(axis for axis, letter in enumerate(kernel) if letter in output)

    def position_axes(self, rank):
        _, kernel, output = self._subscripts()
        # An ellipsis stands for all axes that have no letter of their own.
        output = output.replace("...", "." * (rank - len(output.replace("...", ""))))
        return tuple(axis for axis, letter in enumerate(output) if axis > 0 and letter not in kernel)

    def _subscripts(self):
        operands, output = self.equation.replace(" ", "").split("->")
        inputs, kernel = operands.split(",")
        return inputs, kernel.replace("...", ""), output


class _SparseConv(SparseLayer):
    """Base of the convolutions. The operation itself is Keras's `convolution_op`."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self.convolution_op, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def filter_axes(self, name="kernel"):
        return (self.rank + 1,)

    def position_axes(self, rank):
        return _spatial_axes(self)


class SparseConv1D(_SparseConv, keras.layers.Conv1D):
    """`keras.layers.Conv1D` whose kernel is sparse."""

    def convolution_op(self, inputs, kernel):
        if self.padding != "causal":
            return super().convolution_op(inputs, kernel)
        inputs = ops.pad(inputs, causal_padding(self))
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class SparseConv2D(_SparseConv, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel is sparse."""


class SparseConv3D(_SparseConv, keras.layers.Conv3D):
    """`keras.layers.Conv3D` whose kernel is sparse."""


class _SparseConvTranspose(SparseLayer):
    """Base of the transposed convolutions.

    Their kernels are stored as `(*size, output units, input channels)`, so a block "4x1" is four output units of one
    input channel.
    """

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._convolve, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def _convolve(self, inputs, kernel):
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def filter_axes(self, name="kernel"):
        return (self.rank,)

    def position_axes(self, rank):
        return _spatial_axes(self)

    def get_config(self):
        # Keras 3.12 leaves `output_padding` out of the config, so a loaded layer would have outputs of another shape.
        return {**super().get_config(), "output_padding": self.output_padding}


class SparseConv1DTranspose(_SparseConvTranspose, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` whose kernel is sparse."""


class SparseConv2DTranspose(_SparseConvTranspose, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` whose kernel is sparse."""


class SparseConv3DTranspose(_SparseConvTranspose, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` whose kernel is sparse."""


class _SparseDepthwise(SparseLayer):
    """Base of all layers with a depthwise kernel."""

    def position_axes(self, rank):
        return _spatial_axes(self)

    def _convolve_depthwise(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class _SparseDepthwiseConv(_SparseDepthwise):
    """Base of the depthwise convolutions."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._convolve_depthwise, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def filter_axes(self, name="kernel"):
        return (self.rank, self.rank + 1)


class SparseDepthwiseConv1D(_SparseDepthwiseConv, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` whose kernel is sparse."""


class SparseDepthwiseConv2D(_SparseDepthwiseConv, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose kernel is sparse."""


class _SparseSeparableConv(_SparseDepthwise):
    """Base of the separable convolutions: a depthwise convolution, then one of size 1, each with a sparse kernel.

    The layer runs two linear operations, one after the other. A technique that works on pre-activations (variational
    dropout) works on the result of each.
    """

    sparse_weight_names = ("depthwise_kernel", "pointwise_kernel")

    def call(self, inputs, training=False):
        hidden = self.apply_weight("depthwise_kernel", self._convolve_depthwise, inputs, training)
        outputs = self.apply_weight("pointwise_kernel", self._mix_channels, hidden, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def _mix_channels(self, inputs, kernel):
        return ops.conv(inputs, kernel, strides=1, padding="valid", data_format=self.data_format)

    def filter_axes(self, name="depthwise_kernel"):
        return (self.rank, self.rank + 1) if name == "depthwise_kernel" else (self.rank + 1,)


class SparseSeparableConv1D(_SparseSeparableConv, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` whose kernels are sparse."""


class SparseSeparableConv2D(_SparseSeparableConv, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` whose kernels are sparse."""


class SparseEmbedding(SparseLayer, keras.layers.Embedding):
    """`keras.layers.Embedding` whose table is sparse."""

    sparse_weight_names = ("embeddings",)

    def __init__(self, *args, weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        if weights is not None:
            # The table is assigned in `build_technique`: Keras's constructor would ask for values of the technique's
            # variables, too.
            (self._given_table,) = weights if isinstance(weights, list) and len(weights) == 1 else [weights]
            self.build()

    def build_technique(self):
        # The given table must be in place before a mask is applied to it.
        table = vars(self).pop("_given_table", None)
        if table is not None:
            stored_variable(self, "embeddings").assign(table)
        super().build_technique()

    def call(self, inputs, training=False):
        return self._lookup(inputs, training)

    def compute_output_spec(self, inputs, training=False):
        return super().compute_output_spec(inputs)

    def filter_axes(self, name="embeddings"):
        # A row of the table is a symbol, which is an output unit of a tied softmax. In an untied projection a column is
        # one.
        return (0,) if name == "embeddings" else (1,)

    def group_axes(self, name="embeddings"):
        return {"word": 0} if name == "embeddings" else {}

    def _lookup(self, inputs, training):
        ids = ops.cast(inputs, "int32") if inputs.dtype not in ("int32", "int64") else inputs
        # The technique works only on the rows that the call looks up, one row for each position.
        rows = self.apply_weight(
            "embeddings", lambda _, rows: rows, None, training, select=lambda table: ops.take(table, ids, axis=0)
        )
        return ops.cast(rows, self.compute_dtype)


def _bias_and_activation(layer, outputs, training, data_format="channels_last"):
    if layer.bias is not None:
        bias = ops.cast(layer.bound_value("bias", training), outputs.dtype)
        if data_format == "channels_first":
            bias = ops.reshape(bias, (1, -1) + (1,) * layer.rank)
        outputs = ops.add(outputs, bias)
    if layer.activation is not None:
        outputs = layer.activation(outputs)
    return outputs


def _spatial_axes(layer):
    first = 1 if layer.data_format == "channels_last" else 2
    return tuple(range(first, first + layer.rank))


class SparseReversibleEmbedding(SparseEmbedding, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` whose table (tied softmax), or tables, are sparse."""

    keras_class = keras.layers.ReversibleEmbedding

    @property
    def sparse_weight_names(self):
        return ("embeddings",) if self.tie_weights else ("embeddings", "reverse_embeddings")

    def call(self, inputs, reverse=False, training=False):
        if not reverse:
            outputs = self._lookup(inputs, training)
            # The mask is set here and not in `compute_mask`, which does not know the direction: a reverse call must
            # not carry a mask.
            if self.mask_zero:
                set_mask(outputs, ops.not_equal(inputs, 0))
            return outputs
        name = "embeddings" if self.tie_weights else "reverse_embeddings"
        logits = self.apply_weight(name, self._project, inputs, training)
        if self.logit_soft_cap is not None:
            logits = ops.multiply(ops.tanh(ops.divide(logits, self.logit_soft_cap)), self.logit_soft_cap)
        return logits

    def compute_mask(self, inputs, mask=None):
        return None  # In Keras 3.12 the stock layer takes the mask of `Embedding` here, also for a reverse call.

    def compute_output_spec(self, inputs, reverse=False, training=False):
        return keras.layers.ReversibleEmbedding.compute_output_spec(self, inputs, reverse)

    def _project(self, inputs, table):
        kernel = ops.transpose(table) if self.tie_weights else table
        if self.reverse_dtype is not None:
            inputs, kernel = ops.cast(inputs, self.reverse_dtype), ops.cast(kernel, self.reverse_dtype)
        return ops.matmul(inputs, kernel)
