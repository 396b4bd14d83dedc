"""Batches by number, for other backends: bit for bit those that TensorFlow's pipelines give."""

import keras
import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets import numbered
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.datasets.images import array_batches
from sparsity_tf.datasets.numbered import NumberedBatches
from sparsity_tf.datasets.text import parallel_corpus, subwords, translation_batches

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def elsewhere(monkeypatch):
    """A function after whose call data sets are what they are on another backend."""

    def switch():
        monkeypatch.setattr(numbered, "uses_tf_data", lambda: False)

    return switch


def taken(dataset, count=None):
    if isinstance(dataset, NumberedBatches):
        return [dataset[k] for k in range(dataset.num_batches if count is None else count)]
    return list((dataset if count is None else dataset.take(count)).as_numpy_iterator())


def assert_same(some, others, exact=True):
    some, others = keras.tree.flatten(some), keras.tree.flatten(others)
    assert len(some) == len(others) > 0
    for value, other in zip(some, others, strict=True):
        assert value.dtype == other.dtype
        if exact:
            np.testing.assert_array_equal(value, other)
        else:
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


def make_images(shape=(9, 8, 3), name="cifar10"):
    random = np.random.default_rng(0)
    labels = (np.arange(23) % 10).astype(np.uint8)
    x_train, x_test = (random.integers(0, 256, (count, *shape), dtype=np.uint8) for count in (23, 7))
    return datasets.ImageData(
        x_train=x_train, y_train=labels, x_test=x_test, y_test=labels[:7], num_classes=10, name=name, source="generated"
    )


def ways_of_images():
    """(normalize, augment): each of the one with each of the other. Most pairs are in `make test-all` only."""
    ways = ("none", "mean_image", "standardize", "standardize_dsr", "per_image", "zca")
    for row, normalize in enumerate(ways):
        for column, augment in enumerate(array_batches.AUGMENTATIONS):
            fast = column == row % len(array_batches.AUGMENTATIONS)
            yield pytest.param(normalize, augment, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize("normalize,augment", ways_of_images())
def test_images_are_those_of_tensorflow(elsewhere, augment, normalize):
    data, options = make_images(), {"augment": augment, "normalize": normalize, "pixels": 3, "seed": 4}

    def make():
        return datasets.array_batches(data, 5, validation_split=3, eval_batch_size=2, **options)

    batches = make()
    expected = taken(batches.train(2), 9), taken(batches.test()), taken(batches.validation())
    elsewhere()
    batches = make()
    found = taken(batches.train(2), 9), taken(batches.test()), taken(batches.validation())
    # TensorFlow takes the mean of an image in another order.
    assert_same(found, expected, exact=normalize != "per_image")


def test_grey_images_and_other_types(elsewhere):
    data = make_images((8, 8), "mnist")
    elsewhere()
    batches = datasets.array_batches(data, 4, "mean_image", dtype="bfloat16")
    images, labels = first_of(batches.train())
    assert images.shape == (4, 8, 8, 1) and str(images.dtype) == "bfloat16" and labels.dtype == np.int32


def test_characters_are_those_of_tensorflow(elsewhere):
    corpus = datasets.character_corpus()
    batches = datasets.CharacterBatches(corpus, 4, 6, seed=1, eval_batch_size=3, eval_characters=50)
    expected = taken(batches.train(5), 4), taken(batches.validation()), taken(batches.test())
    elsewhere()
    assert_same((taken(batches.train(5), 4), taken(batches.validation()), taken(batches.test())), expected)


@pytest.mark.parametrize("packed", (False, True))
def test_sentences_are_those_of_tensorflow(elsewhere, tmp_path, packed):
    random = np.random.default_rng(0)
    words = "the a small large file model layer weight is was became sparse dense fast slow and or not".split()
    for split, count in (("train", 300), ("valid", 20), ("test", 20)):
        pairs = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(count)]
        (tmp_path / f"{split}.tsv").write_text("".join(f"{text}\t{text.upper()}\n" for text in pairs))
    corpus = parallel_corpus.parallel_corpus("tsv", tmp_path)
    vocabulary = subwords.train((text for pair in corpus.train for text in pair), tmp_path / "v.model", 320)
    batches = translation_batches.translation_batches(corpus, vocabulary, 128, 32, packed=packed, seed=3)
    count = batches.steps_per_epoch + 2
    expected = taken(batches.train(3), count), taken(batches.validation())
    elsewhere()
    assert_same((taken(batches.train(3), count), taken(batches.validation())), expected)


def test_fit_goes_on_through_epochs_and_sees_each_number_once():
    seen = []

    def draw(number):
        seen.append(number)
        return np.full((2, 1), number, "float32"), np.zeros((2, 1), "float32")

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(NumberedBatches(draw, begin=7, workers=1), epochs=3, steps_per_epoch=4, verbose=0)
    # More may have been drawn ahead, and Keras looks at the first batch to build the model.
    assert sorted(set(seen))[:12] == list(range(7, 19))


def test_a_finite_data_set_ends():
    batches = NumberedBatches(lambda number: number, begin=3, end=6)
    assert batches.num_batches == 3 and list(batches) == [3, 4, 5] and list(batches) == [3, 4, 5]
    assert NumberedBatches(lambda number: number).num_batches is None
