"""Sparse layers: each technique on each kind of Keras layer that it suits."""

from sparsity_tf.layers.activation import SparseActivation, SparseBatchNormalization
from sparsity_tf.layers.discovering_wirings import (
    DiscoveringWirings,
    DNWConv1D,
    DNWConv2D,
    DNWConv3D,
    DNWDense,
    DNWDepthwiseConv2D,
    DNWEinsumDense,
)
from sparsity_tf.layers.fast_grnn import FastGRNN, FastGRNNCell, STRFastGRNN, STRFastGRNNCell, fold_rank
from sparsity_tf.layers.kinds import (
    SparseConv1D,
    SparseConv2D,
    SparseConv3D,
    SparseDense,
    SparseDepthwiseConv2D,
    SparseEinsumDense,
    SparseEmbedding,
    SparseReversibleEmbedding,
)
from sparsity_tf.layers.l0 import (
    L0,
    L0Conv1D,
    L0Conv2D,
    L0Conv3D,
    L0Dense,
    L0EinsumDense,
    L0Embedding,
)
from sparsity_tf.layers.masked import (
    Masked,
    MaskedBatchNormalization,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv3D,
    MaskedDense,
    MaskedDepthwiseConv2D,
    MaskedEinsumDense,
    MaskedEmbedding,
)
from sparsity_tf.layers.recurrent import (
    DNWGRU,
    DNWLSTM,
    L0GRU,
    L0LSTM,
    STRGRU,
    STRLSTM,
    VDGRU,
    VDLSTM,
    DNWGRUCell,
    DNWLSTMCell,
    DNWSimpleRNN,
    DNWSimpleRNNCell,
    L0GRUCell,
    L0LSTMCell,
    L0SimpleRNN,
    L0SimpleRNNCell,
    MaskedGRU,
    MaskedGRUCell,
    MaskedLSTM,
    MaskedLSTMCell,
    MaskedSimpleRNN,
    MaskedSimpleRNNCell,
    STRGRUCell,
    STRLSTMCell,
    STRSimpleRNN,
    STRSimpleRNNCell,
    VDGRUCell,
    VDLSTMCell,
    VDSimpleRNN,
    VDSimpleRNNCell,
)
from sparsity_tf.layers.recurrent_kinds import (
    SparseGRU,
    SparseGRUCell,
    SparseLSTM,
    SparseLSTMCell,
    SparseSimpleRNN,
    SparseSimpleRNNCell,
)
from sparsity_tf.layers.soft_threshold import (
    SoftThreshold,
    STRConv1D,
    STRConv2D,
    STRConv3D,
    STRDense,
    STRDepthwiseConv2D,
    STREinsumDense,
)
from sparsity_tf.layers.sparse_layer import (
    LAYER_CLASSES,
    TECHNIQUES,
    SparseLayer,
    SparseWeight,
    flatten_layers,
    get_masked_parts,
    get_penalty_weights,
    get_sparse_weights,
)
from sparsity_tf.layers.swap import after_build, make_plain, make_sparse, unmake_sparse
from sparsity_tf.layers.technique import Technique
from sparsity_tf.layers.variational_dropout import (
    VariationalDropout,
    VDConv1D,
    VDConv2D,
    VDConv3D,
    VDDense,
    VDEinsumDense,
    VDEmbedding,
)
from sparsity_tf.models.transformer_layers import (
    DotProductAttention,
    FastDropout,
    ScaledTokens,
    ShiftRight,
    TargetSpace,
    TimingSignal,
)

if SparseReversibleEmbedding is not None:
    from sparsity_tf.layers.l0 import L0ReversibleEmbedding
    from sparsity_tf.layers.masked import MaskedReversibleEmbedding
    from sparsity_tf.layers.variational_dropout import VDReversibleEmbedding
