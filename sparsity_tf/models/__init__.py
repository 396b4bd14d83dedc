"""Builders of the networks that the recipes train: plain functional Keras models.

Every builder takes `technique`, `technique_options` and `where`, and makes the finished network sparse through
`sparsity_tf.sparsify`. `selection.py` says how layers are named and holds what the papers give to `where`.
"""

from sparsity_tf.models.alexnet import alexnet_b as alexnet_b
from sparsity_tf.models.alexnet import alexnet_s as alexnet_s
from sparsity_tf.models.char_rnn import CharRNN as CharRNN
from sparsity_tf.models.cifar_resnet import cifar_resnet as cifar_resnet
from sparsity_tf.models.layer_selection import DSR_RESNET as DSR_RESNET
from sparsity_tf.models.layer_selection import DSR_WIDE_RESNET as DSR_WIDE_RESNET
from sparsity_tf.models.layer_selection import FIRST_AND_DEPTHWISE_DENSE as FIRST_AND_DEPTHWISE_DENSE
from sparsity_tf.models.layer_selection import FIRST_AND_LAST_LAYER_DENSE as FIRST_AND_LAST_LAYER_DENSE
from sparsity_tf.models.layer_selection import FIRST_LAYER_DENSE as FIRST_LAYER_DENSE
from sparsity_tf.models.layer_selection import LAST_LAYER_DENSE as LAST_LAYER_DENSE
from sparsity_tf.models.layer_selection import all_but as all_but
from sparsity_tf.models.lenet import lenet_5_caffe as lenet_5_caffe
from sparsity_tf.models.lenet import lenet_300_100 as lenet_300_100
from sparsity_tf.models.mlp import mnist_mlp as mnist_mlp
from sparsity_tf.models.mobilenet import mobilenet_v1 as mobilenet_v1
from sparsity_tf.models.resnets import resnet as resnet
from sparsity_tf.models.resnets import resnet_18 as resnet_18
from sparsity_tf.models.resnets import resnet_34 as resnet_34
from sparsity_tf.models.resnets import resnet_50 as resnet_50
from sparsity_tf.models.resnets import resnet_101 as resnet_101
from sparsity_tf.models.resnets import resnet_152 as resnet_152
from sparsity_tf.models.resnets import resnet_200 as resnet_200
from sparsity_tf.models.transformer import EMBEDDING_DENSE as EMBEDDING_DENSE
from sparsity_tf.models.transformer import TRANSFORMER_SIZES as TRANSFORMER_SIZES
from sparsity_tf.models.transformer import Transformer as Transformer
from sparsity_tf.models.vgg import vgg_c as vgg_c
from sparsity_tf.models.vgg import vgg_d as vgg_d
from sparsity_tf.models.vgg import vgg_like as vgg_like
from sparsity_tf.models.wide_resnets import wide_resnet as wide_resnet
