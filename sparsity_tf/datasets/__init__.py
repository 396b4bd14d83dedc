"""Data sets: one function a data set, each with a local-file form, and the way to batches."""

from sparsity_tf.datasets.idx import read_idx as read_idx
from sparsity_tf.datasets.mnist_family import ImageData as ImageData
from sparsity_tf.datasets.mnist_family import fashion_mnist as fashion_mnist
from sparsity_tf.datasets.mnist_family import mnist as mnist
from sparsity_tf.datasets.mnist_family import mnist_demo as mnist_demo
from sparsity_tf.datasets.pipeline import steps_per_epoch as steps_per_epoch
from sparsity_tf.datasets.pipeline import test_arrays as test_arrays
from sparsity_tf.datasets.pipeline import train_batches as train_batches
