"""Builders of the networks that the recipes train: plain functional Keras models.

Every builder takes `technique`, `technique_options` and `where`, and makes the finished network sparse through
`sparsity_tf.sparsify`. `layer_selection.py` says how layers are named and holds the values of `where` that the papers
use.
"""

from sparsity_tf.models.alexnet import alexnet_b, alexnet_s
from sparsity_tf.models.char_rnn import CharRNN
from sparsity_tf.models.cifar_resnet import cifar_resnet
from sparsity_tf.models.fast_grnn import fast_grnn
from sparsity_tf.models.i1k_resnet import i1k_resnet
from sparsity_tf.models.layer_selection import (
    DSR_RESNET,
    DSR_WIDE_RESNET,
    FIRST_AND_DEPTHWISE_DENSE,
    FIRST_AND_LAST_LAYER_DENSE,
    FIRST_LAYER_DENSE,
    LAST_LAYER_DENSE,
    all_but,
)
from sparsity_tf.models.lenet import lenet_5_caffe, lenet_300_100
from sparsity_tf.models.mlp import mnist_mlp
from sparsity_tf.models.mobilenet import mobilenet_v1
from sparsity_tf.models.resnets import resnet, resnet_18, resnet_34, resnet_50, resnet_101, resnet_152, resnet_200
from sparsity_tf.models.text_lstm import text_lstm
from sparsity_tf.models.transformer import EMBEDDING_DENSE, TRANSFORMER_SIZES, Transformer
from sparsity_tf.models.transformer_layers import (
    DotProductAttention,
    FastDropout,
    ScaledTokens,
    ShiftRight,
    TargetSpace,
    TimingSignal,
)
from sparsity_tf.models.vgg import vgg_c, vgg_d, vgg_like
from sparsity_tf.models.wide_resnets import wide_resnet

__all__ = [
    "CharRNN",
    "DSR_RESNET",
    "DSR_WIDE_RESNET",
    "DotProductAttention",
    "EMBEDDING_DENSE",
    "FIRST_AND_DEPTHWISE_DENSE",
    "FIRST_AND_LAST_LAYER_DENSE",
    "FIRST_LAYER_DENSE",
    "FastDropout",
    "LAST_LAYER_DENSE",
    "ScaledTokens",
    "ShiftRight",
    "TRANSFORMER_SIZES",
    "TargetSpace",
    "TimingSignal",
    "Transformer",
    "alexnet_b",
    "alexnet_s",
    "all_but",
    "cifar_resnet",
    "fast_grnn",
    "i1k_resnet",
    "lenet_300_100",
    "lenet_5_caffe",
    "mnist_mlp",
    "mobilenet_v1",
    "resnet",
    "resnet_101",
    "resnet_152",
    "resnet_18",
    "resnet_200",
    "resnet_34",
    "resnet_50",
    "text_lstm",
    "vgg_c",
    "vgg_d",
    "vgg_like",
    "wide_resnet",
]


def __dir__():
    return __all__
