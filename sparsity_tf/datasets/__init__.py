"""Data sets: one function a data set, which can read local files, and functions that make batches of it.

Images that fit into memory are an `ImageData` (`mnist`, `fashion_mnist`, `cifar10`, `cifar100`, `tiny_imagenet`). A
larger data set is an `ImageFiles` (`imagenet`). Labelled sequences are a `SequenceData` (`google12`, `har2`). All are
checked when they are read, and none decides anything about training. `array_batches`, `file_batches` and
`sequence_batches` turn them into `Batches`, and a training program needs nothing else:

    batches = datasets.array_batches(datasets.cifar10(data_dir), 128, "standardize", "crop_flip")
    batches = datasets.file_batches(datasets.imagenet(data_dir), 1024, "state_of_sparsity", dtype="bfloat16")

    batches.num_classes, batches.image_shape, batches.num_examples, batches.steps_per_epoch
    with batches.naming_errors():
        model.fit(batches.train(first_step=done), steps_per_epoch=batches.steps_per_epoch, ...)
        model.evaluate(batches.test())

Batches of sentence pairs have the same methods (`train(first_step)`, `validation()`, `test()`) and need a vocabulary:

    vocabulary = datasets.subwords.load(path)
    batches = datasets.translation_batches(datasets.parallel_corpus("tsv", data_dir), vocabulary)
"""

from sparsity_tf.datasets.batches import Batches
from sparsity_tf.datasets.images.array_batches import array_batches
from sparsity_tf.datasets.images.cifar import cifar10, cifar100
from sparsity_tf.datasets.images.file_batches import file_batches
from sparsity_tf.datasets.images.idx import read_idx
from sparsity_tf.datasets.images.image_data import ImageData
from sparsity_tf.datasets.images.imagenet import ImageFiles, imagenet
from sparsity_tf.datasets.images.mnist import fashion_mnist, mnist, mnist_demo
from sparsity_tf.datasets.images.random_labels import random_labels
from sparsity_tf.datasets.images.tiny_imagenet import tiny_imagenet
from sparsity_tf.datasets.sequences.sequence_batches import sequence_batches
from sparsity_tf.datasets.sequences.sequence_data import SequenceData, google12, har2
from sparsity_tf.datasets.text import subwords
from sparsity_tf.datasets.text.characters import CharacterBatches, CharacterCorpus, character_corpus
from sparsity_tf.datasets.text.labelled import LabelledBatches, LabelledText, labelled_text
from sparsity_tf.datasets.text.parallel_corpus import ParallelCorpus, parallel_corpus
from sparsity_tf.datasets.text.translation_batches import TranslationBatches, translation_batches
from sparsity_tf.datasets.text.words import WordVocabulary, word_vocabulary

__all__ = [
    "Batches",
    "CharacterBatches",
    "CharacterCorpus",
    "ImageData",
    "ImageFiles",
    "LabelledBatches",
    "LabelledText",
    "ParallelCorpus",
    "SequenceData",
    "TranslationBatches",
    "WordVocabulary",
    "array_batches",
    "character_corpus",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "file_batches",
    "google12",
    "har2",
    "imagenet",
    "labelled_text",
    "mnist",
    "mnist_demo",
    "parallel_corpus",
    "random_labels",
    "read_idx",
    "sequence_batches",
    "subwords",
    "tiny_imagenet",
    "translation_batches",
    "word_vocabulary",
]


def __dir__():
    return __all__
