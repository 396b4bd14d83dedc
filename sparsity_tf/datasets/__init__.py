"""Data sets: one function a data set, each with a local-file form, and the way to batches.

A data set that fits into memory is an `ImageData` (`mnist`, `fashion_mnist`, `cifar10`, `cifar100`), a larger one an
`ImageFiles` (`imagenet`): checked, but with no decision about training taken. `array_batches` and `file_batches` make
`Batches` of them, and whoever trains needs to know nothing else:

    batches = datasets.array_batches(datasets.cifar10(data_dir), 128, "standardize", "crop_flip")
    batches = datasets.file_batches(datasets.imagenet(data_dir), 1024, "state_of_sparsity", dtype="bfloat16")

    batches.num_classes, batches.image_shape, batches.num_examples, batches.steps_per_epoch
    with batches.naming_errors():
        model.fit(batches.train(first_step=done), steps_per_epoch=batches.steps_per_epoch, ...)
        model.evaluate(batches.test())

Sentence pairs have the same methods (`train(first_step)`, `validation()`, `test()`) with a vocabulary:

    vocabulary = datasets.subwords.load(path)
    batches = datasets.translation_batches(datasets.parallel_corpus("tsv", data_dir), vocabulary)

`train_batches` and `test_arrays` are the older way for MNIST; `array_batches` gives the same batches.
"""

from sparsity_tf.datasets.batches import Batches as Batches
from sparsity_tf.datasets.images.array_batches import array_batches as array_batches
from sparsity_tf.datasets.images.cifar import cifar10 as cifar10
from sparsity_tf.datasets.images.cifar import cifar100 as cifar100
from sparsity_tf.datasets.images.file_batches import file_batches as file_batches
from sparsity_tf.datasets.images.idx import read_idx as read_idx
from sparsity_tf.datasets.images.image_data import ImageData as ImageData
from sparsity_tf.datasets.images.imagenet import ImageFiles as ImageFiles
from sparsity_tf.datasets.images.imagenet import imagenet as imagenet
from sparsity_tf.datasets.images.mnist import fashion_mnist as fashion_mnist
from sparsity_tf.datasets.images.mnist import mnist as mnist
from sparsity_tf.datasets.images.mnist import mnist_demo as mnist_demo
from sparsity_tf.datasets.pipeline import steps_per_epoch as steps_per_epoch
from sparsity_tf.datasets.pipeline import test_arrays as test_arrays
from sparsity_tf.datasets.pipeline import train_batches as train_batches
from sparsity_tf.datasets.text import subwords
from sparsity_tf.datasets.text.characters import CharacterBatches as CharacterBatches
from sparsity_tf.datasets.text.characters import CharacterCorpus as CharacterCorpus
from sparsity_tf.datasets.text.characters import character_corpus as character_corpus
from sparsity_tf.datasets.text.parallel_corpus import ParallelCorpus as ParallelCorpus
from sparsity_tf.datasets.text.parallel_corpus import parallel_corpus as parallel_corpus
from sparsity_tf.datasets.text.translation_batches import TranslationBatches as TranslationBatches
from sparsity_tf.datasets.text.translation_batches import translation_batches as translation_batches
