"""Recipes are checked when they are made, and the flags change exactly what they name."""

import dataclasses
import types

import pytest

from sparsity_tf import callbacks, layers
from sparsity_tf.train import trainer
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier.task import ClassifierTask
from tests.train.runs import recipe_of

pytestmark = pytest.mark.tensorflow

TASK = ClassifierTask()


NETWORKS = {
    "lenet300": "lenet_300_100",
    "lenet5": "lenet_5_caffe",
    "lenet500": "mnist_mlp",
    "alexnet_s": "alexnet_s",
    "alexnet_b": "alexnet_b",
    "vgg_c": "vgg_c",
    "vgg_d": "vgg_d",
    "vgg_like": "vgg_like",
    "cifar_resnet_sb": "cifar_resnet",
    "cifar_resnet": "cifar_resnet",
    "i1k_resnet_sb": "i1k_resnet",
    "i1k_resnet": "i1k_resnet",
    "mnist_mlp": "mnist_mlp",
    "smallnet": "vgg_like",
    "resnet50": "resnet",
    "mobilenetv1": "mobilenet_v1",
    "google12": "fast_grnn",
    "har2": "fast_grnn",
}
# Presets whose last word is not their technique.
TECHNIQUES = {
    "dense": "none",
    "extended": "gmp",
    "fp16": "snfs",
    "baseline": "snfs",
    "lasso": "magnitude",
    "dst": "dsr",
    "sbpa": "sbp",
    "kernel": "dsr",
    "bottleneck": "none",
    **dict.fromkeys(("lottery", "e", "b", "augmented", "final", "decay"), "masked"),
}


@pytest.mark.parametrize("name", sorted(set(presets.PRESETS) - {"demo"}))
def test_preset_has_the_technique_and_network_of_its_name(name):
    recipe = presets.PRESETS[name]
    network = max((prefix for prefix in [*NETWORKS, "wrn"] if name.startswith(prefix)), key=len)
    technique = name.rpartition("_")[2]
    if network == "wrn":
        depth, width = name.split("_")[0].split("-")[1:]
        assert recipe.model == "wide_resnet"
        assert (recipe.model_options["depth"], recipe.model_options["width"]) == (int(depth), int(width))
    else:
        # Dynamic sparse reparameterization has a LeNet-300-100 of its own, with batch normalisation.
        with_norm = name in ("lenet300_dsr", "lenet300_slimming")
        assert recipe.model == ("mnist_mlp" if with_norm else NETWORKS[network])
    if network in ("cifar_resnet_sb", "i1k_resnet_sb"):
        assert recipe.model_options["spatial_mask"] == technique
    elif "momentum" in name:
        assert recipe.technique == "sparse_momentum"
    else:
        # LeNet's lottery tickets are an algorithm, ResNet-50's take the masks of another run.
        whole = {"lenet300_lottery": "lottery", "lenet300_soft_movement": "soft_movement"}
        own = whole.get(name, TECHNIQUES.get(technique, technique))
        assert recipe.technique == own


def test_demo_is_the_5000_digits_under_variational_dropout():
    demo = presets.PRESETS["demo"]
    assert (demo.dataset, demo.technique) == ("mnist_demo", "vd")


# The others of their kind are in `make test-all`.
SMALL = ["resnet50_str", "wrn-28-2_dst", "wrn-22-2_set", "vgg_like_sbpa", "smallnet_snfs", "cifar_resnet_sb_dynamic"]
SMALL_OF_ALL = ["resnet50_rigl", "resnet50_l0", "mobilenetv1_dnw", "wrn-28-2_dsr", "wrn-28-2_dsr_kernel", "vgg_like_vd"]
SMALL_OF_ALL += ["vgg_like_dropout_dense", "vgg_like_pretrained_vd", "vgg_like_sbp"]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL_OF_ALL)])
def test_network_and_algorithm_of_a_preset_fit(name):
    recipe = presets.PRESETS[name]
    batches = types.SimpleNamespace(
        image_shape=(64, 64, 3) if recipe.dataset == "imagenet" else (32, 32, 3),
        num_classes=10,
        steps_per_epoch=steps_of(recipe),
    )
    trainer.rehearse(TASK, recipe, batches)
    model = TASK.make_model(recipe, batches)
    trainer.compile_model(TASK, recipe, model, batches)
    assert bool(layers.get_sparse_weights(model)) == (recipe.technique != "none")


def steps_of(recipe):
    return {"imagenet": 1_281_167, "cifar10": 50_000}[recipe.dataset] // recipe.batch_size


def test_rates_are_those_that_the_optimizer_can_take():
    """0.1 is a rate of SGD; Adam diverges with it."""
    rates = {name: recipe.learning_rate for name, recipe in presets.PRESETS.items() if recipe.optimizer != "sgd"}
    assert rates and max(rates.values()) <= 1e-2


def test_settings_of_published_runs():
    """What *State of Sparsity* lists of its ResNet-50 with 90 % zeros, and STR's ramp of 60 epochs."""
    gmp, random = presets.PRESETS["resnet50_gmp"], presets.PRESETS["resnet50_random"]
    assert (gmp.begin_step, gmp.end_step, gmp.frequency, gmp.label_smoothing) == (40_000, 76_000, "2000", 0.1)
    assert (random.begin_step, random.end_step, random.label_smoothing) == (None, 40_000, 0.0)  # from the start
    vd = presets.PRESETS["resnet50_vd"]
    assert [round(epoch * 1251) for epoch in (vd.penalty_begin_epoch, vd.penalty_end_epoch)] == [20_000, 68_000]
    assert (vd.label_smoothing, vd.kernel_l2) == (0.0, 5e-5)
    assert vd.technique_options == {"log_sigma2_initializer": -15.0, "log_alpha_threshold": 0.5}
    ramp, steps = presets.PRESETS["resnet50_str_gmp"], 1_281_167 // 256
    algorithm = callbacks.MagnitudePruning(0.9, ramp.begin_step, ramp.end_step, steps)
    algorithm._first, algorithm._last = ramp.begin_step, ramp.end_step
    assert algorithm.sparsity_at(50 * steps) == pytest.approx(0.7875)


def test_settings_of_sparse_momentums_program():
    """Its "tuned" script for ImageNet; on MNIST PyTorch's weight decay of 5e-4, which biases have as well."""
    tuned = presets.PRESETS["resnet50_snfs"]
    half = presets.PRESETS["resnet50_snfs_fp16"]
    assert (half.learning_rate, half.batch_size, half.epochs, half.dtype_policy) == (0.4, 1024, 90, "mixed_float16")
    assert (half.label_smoothing, half.lr_boundaries, half.nesterov) == (0.1, (30, 60, 80), False)
    baseline = presets.PRESETS["resnet50_snfs_baseline"]
    assert (baseline.learning_rate, baseline.lr_boundaries, baseline.nesterov) == (0.1, (30, 60, 90), True)
    assert (baseline.drop_fraction, baseline.final_sparsity, baseline.where) == (0.2, 1 - 0.15626087, None)
    assert (baseline.kernel_l2, baseline.label_smoothing, baseline.lr_warmup_epochs) == (5e-5, 0.0, 0.0)
    assert presets.PRESETS["lenet5_sparse_momentum"] == dataclasses.replace(
        presets.PRESETS["lenet300_sparse_momentum"], model="lenet_5_caffe"
    )
    assert (tuned.learning_rate, tuned.batch_size, tuned.drop_fraction, tuned.final_sparsity) == (0.2, 256, 0.5, 0.8)
    names = ("magnitude", "random", "static", "set", "rigl", "sparse_momentum", "snip", "lottery")
    for recipe in (presets.PRESETS[f"lenet300_{name}"] for name in names):
        assert (recipe.kernel_l2, recipe.other_l2) == (2.5e-4, 2.5e-4)


def test_stem_and_classifier_of_the_extended_recipe_have_their_own_sparsity():
    recipe = presets.PRESETS["resnet50_gmp_extended"]
    batches = types.SimpleNamespace(image_shape=(64, 64, 3), num_classes=1000, steps_per_epoch=312)
    model = TASK.make_model(recipe, batches)
    trainer.compile_model(TASK, recipe, model, batches)
    algorithm = trainer.make_algorithm(TASK, recipe, batches)
    algorithm.prepare(model, recipe.epochs, 312)
    weights = algorithm.weights
    zeros = sum(target * weight.size for target, weight in zip(algorithm.targets, weights, strict=True))
    # The published overall sparsity of that setting is 0.9; the stem's 9,408 weights are dense.
    assert zeros / (sum(weight.size for weight in weights) + 9408) == pytest.approx(0.90083, abs=1e-5)


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
        ({"group_lasso": -1.0}, "at least 0"),
        ({"group_lasso": 1e-3, "kernel_l2": 1e-4}, "takes the place of `kernel_l1` and `kernel_l2`"),
        ({"group_lasso": 1e-3, "kernel_l1": 1e-4}, "takes the place of `kernel_l1` and `kernel_l2`"),
        ({"random_labels": "shuffled"}, "none, uniform, permuted"),
        ({"label_seed": 1}, "needs `random_labels`"),
        ({"technique_rate": 0}, "a number above 0"),
        ({"technique_rate": 2.0, "optimizer": "sgd"}, "optimizer=adam"),
        ({"penalty_schedule": "square"}, "linear, cubic, none"),
        ({"penalty_factors": {"conv": 2.0}}, "not used by technique none, which has no penalty"),
        ({"penalty_factors": None}, "`penalty_factors` must be a dict from .* Received: penalty_factors=None"),
        ({"penalty_factors": [("a", 1)], "technique": "vd"}, "`penalty_factors` must be a dict from"),
        ({"penalty_factors": {1: 2.0}, "technique": "vd"}, "`penalty_factors` must be a dict from .*{1: 2.0}"),
        ({"penalty_factors": {"conv": -2.0}, "technique": "vd"}, r"`penalty_factors\['conv'\]` .*at least 0.*-2.0"),
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
        ({"penalty_begin_epoch": 1.0, "penalty_end_epoch": 0.0}, "must not come before"),
        ({"technique_options": {"foo": 1}}, "not used by technique none"),
        ({"where": "nomatch"}, "not used by technique none"),
        ({"threshold_l2": 1e-3, "technique": "vd"}, "not used by technique vd"),
        ({"lr_boundaries": (1.0, 2.0), "lr_schedule": "linear"}, "need lr_schedule=piecewise"),
        ({"lr_schedule": "piecewise"}, "lr_boundaries"),
        ({"lr_decay_rate": 0.9}, "needs lr_schedule=exponential"),
        ({"lr_decay_epochs": 2.0, "lr_schedule": "cosine"}, "needs lr_schedule=exponential"),
        ({"lr_decay_rate": 1.1, "lr_schedule": "exponential"}, "above 0 and at most 1"),
        ({"scale_fan": True}, "needs a `final_sparsity`"),
        (
            {"scale_fan": True, "technique": "dnw", "final_sparsity": 0.9, "kernel_initializer": "default"},
            "other than default and normal",
        ),
        ({"validation_stratified": True}, "needs a `validation_split`"),
        ({"keep_checkpoint_max": 2}, "needs a `save_every`"),
        ({"save_every": -1}, "an integer at least 0"),
        ({"dense": "last", "technique": "str"}, "not used by technique str, .*`where` chooses the layers"),
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


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_preset_takes_another_technique_or_schedule(name):
    for technique in ("none", "vd", "magnitude"):
        assert recipe_of(f"--config={name}", f"--technique={technique}").technique == technique
    assert recipe_of(f"--config={name}", "--lr_schedule=cosine").lr_boundaries == ()


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
