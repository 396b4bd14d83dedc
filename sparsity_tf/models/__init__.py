"""Builders of the networks that the recipes train: plain functional Keras models."""

from sparsity_tf.models.lenet import lenet_5_caffe as lenet_5_caffe
from sparsity_tf.models.lenet import lenet_300_100 as lenet_300_100
