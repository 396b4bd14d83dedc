"""Recipes are checked when they are made, and the flags change exactly what they name."""

import dataclasses

import pytest

from sparsity_tf import layers
from sparsity_tf.train import presets
from tests.train.runs import recipe_of

pytestmark = pytest.mark.tensorflow


def test_every_preset_has_the_technique_and_network_of_its_name():
    names = {"lenet300": "lenet_300_100", "lenet5": "lenet_5_caffe"}
    for name, recipe in presets.PRESETS.items():
        network, _, technique = name.partition("_")
        if name != "demo":
            # Dynamic sparse reparameterization has a LeNet-300-100 of its own, with batch normalisation.
            assert recipe.model == ("mnist_mlp" if technique == "dsr" else names[network])
            assert recipe.technique == technique.replace("dense", "none")
    assert presets.PRESETS["demo"].technique == "vd"
    assert presets.PRESETS["demo"].dataset == "mnist_demo"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"technique": "pruning"}, "one of none, .*discovering_wirings, dnw"),
        ({"dataset": "cifar"}, "mnist, mnist_demo, fashion_mnist"),
        ({"model": "resnet50"}, "lenet_300_100, lenet_5_caffe"),
        ({"optimizer": "lion"}, "adam, adamw, sgd"),
        ({"lr_schedule": "step"}, "constant, linear, cosine, piecewise"),
        ({"jit_compile": "yes"}, "auto, true, false"),
        ({"augment": "rotate"}, "none, shift"),
        ({"shift_pixels": 0}, "an integer at least 1"),
        ({"normalize": "no"}, "mean_image, standardize"),
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
        ({"strategy": "parameter_server"}, "none, mirrored, multiworker, tpu"),
        ({"dtype_policy": "float64"}, "float32, mixed_bfloat16"),
        ({"train_examples": -1}, "an integer at least 0"),
        ({"nesterov": 1}, "true or false"),
        ({"nesterov": True}, "optimizer=sgd"),
        ({"kernel_l1": -1.0}, "at least 0"),
        ({"penalty_schedule": "square"}, "linear, cubic, none"),
        ({"kernel_initializer": "ones"}, "glorot_uniform.*normal:STDDEV"),
        ({"kernel_initializer": "normal:-1"}, "normal:STDDEV"),
        ({"kernel_initializer": "normal:x"}, "normal:STDDEV"),
        ({"learning_rate": 0.0}, "a number above 0"),
        ({"learning_rate": float("nan")}, "a number above 0"),
        ({"epochs": 0}, "an integer at least 1"),
        ({"epochs": 2.5}, "an integer at least 1"),
        ({"final_sparsity": 1.0}, "at least 0 and below 1"),
        ({"lr_decay_from": 1.5}, "at least 0 and at most 1"),
        ({"penalty_begin_epoch": 5.0, "penalty_end_epoch": 2.0}, "must not come before"),
        ({"lr_schedule": "piecewise"}, "lr_boundaries"),
        (
            {"lr_schedule": "piecewise", "lr_boundaries": (3, 2), "lr_factors": (0.1, 0.1)},
            "rising",
        ),
    ],
)
def test_value_that_is_not_allowed_is_named_with_what_is(change, message):
    with pytest.raises(ValueError, match=message) as error:
        presets.Recipe(**change)
    assert next(iter(change)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["none", "variational_dropout", "vd", "l0", "soft_threshold", "str", "masked", "dnw", "gmp", "snfs"]
)
def test_every_name_and_alias_of_a_technique_is_allowed(name):
    assert presets.Recipe(technique=name).technique == name


def test_technique_that_is_registered_later_is_allowed(monkeypatch):
    monkeypatch.setitem(layers.TECHNIQUES, "another", layers.Masked)
    assert presets.Recipe(technique="another").technique == "another"


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="lenet300_dense, lenet300_vd.*Received: config=lenet"):
        presets.get_preset("lenet")


def test_preset_without_flags_is_the_preset():
    assert recipe_of("--config=lenet5_vd") == presets.PRESETS["lenet5_vd"]


def test_flags_replace_what_they_name():
    recipe = recipe_of(
        "--config=lenet300_vd",
        "--epochs=3",
        "--learning_rate=0.5",
        "--lr_boundaries=1,2.5",
        "--lr_factors=0.1,0.01",
        "--lr_schedule=piecewise",
        '--technique_options={"log_alpha_threshold": 2}',
    )
    before = presets.PRESETS["lenet300_vd"]
    assert recipe == dataclasses.replace(
        before,
        epochs=3,
        learning_rate=0.5,
        lr_boundaries=(1.0, 2.5),
        lr_factors=(0.1, 0.01),
        lr_schedule="piecewise",
        technique_options={**before.technique_options, "log_alpha_threshold": 2},
    )


def test_another_technique_leaves_the_options_of_the_presets_own_behind():
    assert recipe_of("--config=lenet300_vd", "--technique=dnw").technique_options == {}
    options = '--technique_options={"beta": 0.5}'
    recipe = recipe_of("--config=lenet300_vd", "--technique=l0", options)
    assert recipe.technique_options == {"beta": 0.5}


def test_another_name_of_the_presets_technique_keeps_its_options():
    recipe = recipe_of("--config=lenet300_vd", "--technique=variational_dropout")
    assert recipe.technique == "variational_dropout"
    assert recipe.technique_options == presets.PRESETS["lenet300_vd"].technique_options


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_options_that_are_no_json_object_are_refused(text):
    with pytest.raises(ValueError, match="`technique_options` must be a JSON object"):
        recipe_of(f"--technique_options={text}")


def test_list_that_is_not_of_numbers_is_refused():
    with pytest.raises(ValueError, match="`lr_boundaries` must be numbers"):
        recipe_of("--lr_boundaries=1,x")
