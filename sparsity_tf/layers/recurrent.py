"""Sparse recurrent layers: each technique on Keras's `SimpleRNN`, `LSTM`, `GRU` and `ConvLSTM`, and on their cells.

Each cell has two sparse weights, `kernel` and `recurrent_kernel`. `recurrent_kinds.py` says how they are applied and
when noise is drawn. The cell, not the layer, holds the sparse weights: read them by `get_sparse_weights(layer)` or
`layer.cell.sparse_weights`.

A layer takes the stock arguments and the technique's options. If both have a `seed`, one number seeds the noise and the
dropout. Variational dropout follows Gale et al. (2019), whose cells do not clip log alpha in the forward pass
(`clip_log_alpha=None`). If Keras's dropout is used with it, one dropout mask serves all gates. There is no `ConvLSTM`
with variational dropout: its noise belongs to pre-activations, and no paper says which positions and time steps of a
recurrent convolution share it. Variational dropout with group variables follows Chirkova et al. (2018).

A recurrent cell that you write can hold sparse layers, too. On JAX it can't hold a layer that draws noise (`VD...`,
`L0...`), just as it can't hold Keras's `Dropout`: the state of a random generator can't leave the loop over time.
"""

from sparsity_tf.layers import recurrent_kinds as kinds
from sparsity_tf.layers.discovering_wirings import DiscoveringWirings
from sparsity_tf.layers.group_variational_dropout import GroupVariationalDropout
from sparsity_tf.layers.l0 import L0
from sparsity_tf.layers.masked import Masked, MaskedLayer
from sparsity_tf.layers.soft_threshold import SoftThreshold
from sparsity_tf.layers.variational_dropout import VariationalDropout


class MaskedSimpleRNNCell(MaskedLayer, kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with masked kernels. Also takes the arguments of `Masked`."""


class MaskedSimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class MaskedLSTMCell(MaskedLayer, kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with masked kernels. Also takes the arguments of `Masked`."""


class MaskedLSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class MaskedGRUCell(MaskedLayer, kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with masked kernels. Also takes the arguments of `Masked`."""


class MaskedGRU(kinds.SparseGRU):
    """`keras.layers.GRU` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class MaskedConvLSTMCell(MaskedLayer, kinds.SparseConvLSTMCell):
    """The cell of `MaskedConvLSTM1D`, `2D` and `3D`. Also takes the arguments of `Masked`."""


class MaskedConvLSTM1D(kinds.SparseConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class MaskedConvLSTM2D(kinds.SparseConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class MaskedConvLSTM3D(kinds.SparseConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with masked kernels. Also takes the arguments of `Masked`."""

    technique_class = Masked


class VDSimpleRNNCell(kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDSimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDLSTMCell(kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDLSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDGRUCell(kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDGRU(kinds.SparseGRU):
    """`keras.layers.GRU` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class GVDSimpleRNNCell(kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class GVDSimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class GVDLSTMCell(kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class GVDLSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class GVDGRUCell(kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class GVDGRU(kinds.SparseGRU):
    """`keras.layers.GRU` with group variables. Also takes the arguments of `GroupVariationalDropout`."""

    technique_class = GroupVariationalDropout


class L0SimpleRNNCell(kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0SimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0LSTMCell(kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0LSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0GRUCell(kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0GRU(kinds.SparseGRU):
    """`keras.layers.GRU` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0ConvLSTMCell(kinds.SparseConvLSTMCell):
    """The cell of `L0ConvLSTM1D`, `2D` and `3D`. Also takes the arguments of `L0`."""

    technique_class = L0


class L0ConvLSTM1D(kinds.SparseConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0ConvLSTM2D(kinds.SparseConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class L0ConvLSTM3D(kinds.SparseConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with L0 gates, drawn once a call. Also takes the arguments of `L0`."""

    technique_class = L0


class STRSimpleRNNCell(kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRSimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRLSTMCell(kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRLSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRGRUCell(kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRGRU(kinds.SparseGRU):
    """`keras.layers.GRU` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConvLSTMCell(kinds.SparseConvLSTMCell):
    """The cell of `STRConvLSTM1D`, `2D` and `3D`. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConvLSTM1D(kinds.SparseConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConvLSTM2D(kinds.SparseConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConvLSTM3D(kinds.SparseConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class DNWSimpleRNNCell(kinds.SparseSimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWSimpleRNN(kinds.SparseSimpleRNN):
    """`keras.layers.SimpleRNN` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWLSTMCell(kinds.SparseLSTMCell):
    """`keras.layers.LSTMCell` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWLSTM(kinds.SparseLSTM):
    """`keras.layers.LSTM` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWGRUCell(kinds.SparseGRUCell):
    """`keras.layers.GRUCell` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWGRU(kinds.SparseGRU):
    """`keras.layers.GRU` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConvLSTMCell(kinds.SparseConvLSTMCell):
    """The cell of `DNWConvLSTM1D`, `2D` and `3D`. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConvLSTM1D(kinds.SparseConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConvLSTM2D(kinds.SparseConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConvLSTM3D(kinds.SparseConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings
