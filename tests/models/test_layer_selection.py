"""Names of layers are uniform across the zoo, and what the papers keep dense can be said with `where`."""

import keras
import pytest

import sparsity_tf
from sparsity_tf import models
from tests.models.zoo import kernels

SMALL = {
    "resnet_18": lambda **options: models.resnet_18(input_shape=(32, 32, 3), width=0.125, **options),
    "mobilenet_v1": lambda **options: models.mobilenet_v1(input_shape=(32, 32, 3), width=0.125, **options),
    "wide_resnet": lambda **options: models.wide_resnet(10, 1, **options),
    "vgg_d": lambda **options: models.vgg_d(width=0.125, **options),
    "alexnet_s": models.alexnet_s,
    "mnist_mlp": models.mnist_mlp,
}


@pytest.mark.parametrize("name", SMALL)
def test_the_first_layer_is_the_stem_and_the_last_the_classifier(name):
    model = SMALL[name](technique="masked", where=models.FIRST_AND_LAST_LAYER_DENSE)
    first, *_, last = kernels(model)
    assert (first, last) == ("stem", "classifier")
    sparse = {weight.layer.name for weight in sparsity_tf.get_sparse_weights(model)}
    assert kernels(model).keys() - sparse == {"stem", "classifier"}


@pytest.mark.parametrize(
    ("where", "dense"), [(models.FIRST_LAYER_DENSE, "stem"), (models.LAST_LAYER_DENSE, "classifier")]
)
def test_first_or_last_layer_dense(where, dense):
    model = models.mnist_mlp(technique="masked", where=where)
    sparse = {weight.layer.name for weight in sparsity_tf.get_sparse_weights(model)}
    assert kernels(model).keys() - sparse == {dense}


def test_all_but_takes_regular_expressions_and_works_with_paths():
    inner = SMALL["resnet_18"]()
    outer = keras.Sequential([inner, keras.layers.Softmax()])
    where = models.all_but("stem", ".*_projection")
    model = sparsity_tf.sparsify(outer, "masked", where=where).layers[0]
    dense = kernels(model).keys() - {weight.layer.name for weight in sparsity_tf.get_sparse_weights(model)}
    assert dense == {"stem", *(f"stage{stage}_block1_projection" for stage in (1, 2, 3, 4))}


@pytest.mark.parametrize(("patterns", "problem"), [((), "at least one"), (("(",), "invalid regular expression")])
def test_bad_patterns_are_refused(patterns, problem):
    with pytest.raises(ValueError, match=f"`patterns`.*{problem}"):
        models.all_but(*patterns)
