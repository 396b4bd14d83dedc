"""Presets with several published sparsities: `--final_sparsity` picks published settings, or says there are none."""

import dataclasses
import json
import types

import pytest
from absl import flags

from sparsity_tf.distributions import TensorSpec
from sparsity_tf.study import published_results
from sparsity_tf.train import levels, run_folder, setting_texts
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier.task import ClassifierTask
from sparsity_tf.train.translator import __main__ as translator
from sparsity_tf.train.translator import presets as translation_presets
from sparsity_tf.train.translator.recipe import REGULARIZATIONS
from tests.models import zoo
from tests.train.runs import recipe_of

pytestmark = pytest.mark.tensorflow

SEVEN = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]


def translation_recipe(*arguments):
    flag_values = flags.FlagValues()
    translator.define_flags(flag_values)
    flag_values(["translator", *arguments])
    return translator.recipe_from_flags(flag_values)


def published(model, technique):
    """Published settings by sparsity, from the reader of the results, which knows nothing of presets."""
    found = [one for one in published_results("state_of_sparsity", model, technique=technique) if one.checkpoint]
    return {one.settings.get("target_sparsity", one.sparsity): one.settings for one in found}


@pytest.mark.parametrize("technique", ["magnitude", "random", "vd", "l0"])
def test_every_level_of_the_transformer_has_the_settings_of_its_published_checkpoint(technique):
    expected = published("Transformer", technique)
    assert sorted(expected) == SEVEN
    for sparsity, of in expected.items():
        recipe = translation_recipe(f"--config=transformer_{technique}", f"--final_sparsity={sparsity}")
        dropouts = (recipe.dropout, recipe.attention_dropout, recipe.relu_dropout)
        assert (dropouts, recipe.label_smoothing) == ((of["dropout"],) * 3, of["label_smoothing"])
        if technique in ("magnitude", "random"):
            assert recipe.final_sparsity == sparsity
            for name in ("begin_step", "end_step"):
                assert getattr(recipe, name) == of[name]
            assert recipe.frequency == str(of["frequency"])
        else:
            assert recipe.final_sparsity is None
            for name in ("penalty_begin_step", "penalty_end_step", "penalty_schedule"):
                assert getattr(recipe, name) == of[name]
            # The names have three digits or more.
            assert recipe.penalty_weight / 4.5e6 == pytest.approx(of["penalty_coefficient"], rel=2e-3)
            assert recipe.technique_options.get("log_alpha_threshold") == of.get("log_alpha_threshold")


def test_the_sheets_example_of_the_highest_level(capsys):
    recipe = translation_recipe("--config=transformer_magnitude", "--final_sparsity=0.98")
    assert (recipe.begin_step, recipe.end_step, recipe.frequency) == (0, 300_000, "1000")
    assert (recipe.dropout, recipe.label_smoothing) == (0.0, 0.0)
    said = capsys.readouterr().err
    assert said.startswith("note: transformer_magnitude with the published settings for final_sparsity=0.98")
    assert "end_step=300000" in said and said.count("\n") == 1
    assert translation_recipe("--config=transformer_magnitude", "--density=0.02") == recipe
    # A flag replaces what the level says.
    other = translation_recipe(
        "--config=transformer_magnitude", "--final_sparsity=0.98", "--end_step=7", "--regularization=label_smoothing"
    )
    assert (other.end_step, other.label_smoothing, other.frequency) == (7, 0.1, "1000")


def test_a_run_that_began_before_there_were_levels_goes_on_with_its_own_settings(tmp_path):
    for recipes, recipe_by, config in (
        (translation_presets.PRESETS, translation_recipe, "transformer_magnitude"),
        (presets.PRESETS, recipe_of, "resnet50_gmp"),
    ):
        old = dataclasses.replace(recipes[config], final_sparsity=0.95)
        given = (f"--config={config}", "--final_sparsity=0.95", f"--output_dir={tmp_path}")
        assert recipe_by(*given) != old
        settings = run_folder.as_plain(old)
        for name in ("save_every", "keep_checkpoint_max"):
            del settings[name]
        (tmp_path / run_folder.RECIPE).write_text(json.dumps(settings))
        assert recipe_by(*given, "--resume") == old


def test_a_level_without_published_settings_says_so(capsys):
    recipe = translation_recipe("--config=transformer_magnitude", "--final_sparsity=0.85")
    preset = translation_presets.PRESETS["transformer_magnitude"]
    assert (recipe.final_sparsity, recipe.end_step) == (0.85, preset.end_step)
    said = capsys.readouterr().err
    assert "no published settings for final_sparsity=0.85, only for 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98" in said
    with pytest.raises(ValueError, match="must be one of 0.5, .*, 0.98 with config=transformer_vd: .*=0.85"):
        translation_recipe("--config=transformer_vd", "--final_sparsity=0.85")
    # Another technique has no levels, and neither has another preset.
    assert translation_recipe("--config=transformer_vd", "--technique=dnw", "--final_sparsity=0.85")
    with pytest.raises(ValueError, match="`final_sparsity` is not used by technique vd"):
        translation_recipe("--config=tiny_vd", "--final_sparsity=0.9")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("program", [presets, translation_presets])
def test_one_level_is_the_preset_itself_and_every_level_can_be_picked(program):
    of_program = recipe_of if program is presets else translation_recipe
    for config, found in program.LEVELS.items():
        preset = program.PRESETS[config]
        assert preset in found.recipes.values() or config == "resnet50_str"
        for sparsity, recipe in found.recipes.items():
            assert of_program(f"--config={config}", f"--final_sparsity={sparsity}") == recipe


@pytest.mark.parametrize("technique", ["magnitude", "random", "vd"])
def test_every_level_of_resnet_50_has_the_settings_of_its_published_checkpoint(technique):
    config = {"magnitude": "gmp"}.get(technique, technique)
    expected = published("ResNet-50", technique)
    assert len(expected) >= 5
    for sparsity, of in expected.items():
        recipe = recipe_of(f"--config=resnet50_{config}", f"--final_sparsity={sparsity}")
        assert recipe.label_smoothing == of["label_smoothing"]
        if technique == "vd":
            ramp = [round(epoch * 1251) for epoch in (recipe.penalty_begin_epoch, recipe.penalty_end_epoch)]
            assert ramp == [of["penalty_begin_step"], of["penalty_end_step"]]
            assert recipe.penalty_weight / 1_281_167 == pytest.approx(of["penalty_coefficient"], rel=1e-9)
        else:
            assert (recipe.begin_step or 0, recipe.end_step) == (of["begin_step"], of["end_step"])
            assert recipe.frequency == str(of["frequency"])


def test_levels_of_the_extended_recipe_leave_the_classifier_at_its_own_sparsity():
    recipe = recipe_of("--config=resnet50_gmp_extended", "--final_sparsity=0.96")
    assert recipe.distribution == "stage.*=0.96,classifier=0.8"
    assert (recipe.begin_step, recipe.end_step, recipe.frequency, recipe.label_smoothing) == (7500, 36_000, "1000", 0.0)


def test_levels_of_str_have_their_own_decay_and_threshold(capsys):
    recipe = recipe_of("--config=mobilenetv1_str", "--final_sparsity=0.7528")
    decay = 1.551757813e-5
    assert (recipe.kernel_l2, recipe.other_l2, recipe.threshold_l2) == (decay / 2,) * 3
    assert recipe.technique_options == {"threshold_initializer": -100.0}
    assert "as it is remembered; only those of MobileNetV1 at 89.01 % have been compared" in capsys.readouterr().err
    # The one that the program ships: weight_decay 0.00002251757813.
    recipe = recipe_of("--config=resnet50_str", "--final_sparsity=0.9023")
    assert recipe.threshold_l2 == pytest.approx(2.251757813e-5 / 2, rel=1e-12)


def test_published_budgets_have_the_published_totals():
    """Of all 54 layers in order, the published numbers of weights are left."""
    for percent, left in (("81.27", 4_775_866), ("90.23", 2_492_045), ("98.98", 259_835)):
        budget = setting_texts.parse_distribution(f"str:{percent}")
        assert round(sum((1 - budget[name]) * size for name, size in budget.sizes.items())) == left
    kernels = zoo.kernels(zoo.built("resnet", 50, variant="str", input_shape=(32, 32, 3)))
    recipe = recipe_of("--config=resnet50_budget_gmp", "--density=0.0102")
    budget = setting_texts.parse_distribution(recipe.distribution)
    matched = budget.match([TensorSpec(f"{name}/kernel", shape) for name, shape in kernels.items()])
    assert list(matched.values()) == list(budget.values()) and matched["classifier/kernel"] == budget["fc"]


def test_budgets_are_named_by_file_and_column(tmp_path):
    path = tmp_path / "budgets.csv"
    path.write_text("Layer,A,B\n1,50%,75%\n2,25%,0%\n")
    assert dict(setting_texts.parse_distribution(f"{path}:B")) == {"1": 0.75, "2": 0.0}
    assert setting_texts.parse_distribution("str:SNFS")["1"] == 0.025
    for text, known in ((f"{path}:C", "A"), ("str:12", "79.55"), ("str:GMP", "Uniform")):
        with pytest.raises(ValueError, match=f"`distribution` must be a budget .*{known}.*distribution="):
            setting_texts.parse_distribution(text)


def test_scratch_and_lottery_take_the_masks_of_the_pruned_run():
    every = {**presets.PRESETS, **translation_presets.PRESETS}
    for network in ("resnet50", "transformer"):
        lottery, scratch = every[f"{network}_lottery"], every[f"{network}_scratch_e"]
        for recipe in (lottery, scratch):
            assert recipe.technique == "masked" and recipe.load_masks.endswith("/model.keras")
            assert recipe.seed != every["transformer_magnitude"].seed
        assert lottery.load_weights.endswith("/initial.keras") and scratch.load_weights is None
        assert every[f"{network}_scratch_b_augmented"].reinitialize == "augmented"
    assert every["resnet50_gmp"].keep_initial and every["transformer_magnitude"].keep_initial
    once, twice = every["resnet50_scratch_e"], every["resnet50_scratch_b"]
    assert (twice.epochs, twice.lr_boundaries, twice.lr_warmup_epochs) == (204, (60, 120, 160), 10)
    assert once.lr_boundaries == every["resnet50_scratch_b_constant_final"].lr_boundaries == (30, 60, 80)
    # The masks of a level come from a network that a level of the same regularization pruned.
    recipe = translation_recipe("--config=transformer_scratch_b", "--final_sparsity=0.98")
    assert {name: getattr(recipe, name) for name in REGULARIZATIONS["none"]} == REGULARIZATIONS["none"]
    assert (recipe.train_steps, recipe.final_sparsity) == (1_000_000, None)


def test_a_scratch_run_without_its_masks_says_which_are_missing():
    batches = types.SimpleNamespace(image_shape=(28, 28, 1), num_classes=10)
    recipe = recipe_of("--config=resnet50_scratch_e", "--model=lenet_300_100", "--kernel_initializer=glorot_uniform")
    with pytest.raises((ValueError, FileNotFoundError), match="runs/resnet50_gmp/model.keras"):
        ClassifierTask().make_model(recipe, batches)


def test_pick_keeps_the_options_that_a_level_does_not_name():
    preset = presets.Recipe(technique="vd", technique_options={"log_alpha_threshold": 3.0, "clip_log_alpha": 8.0})
    found = levels.of_recipe(preset, {0.5: {"technique_options": {"log_alpha_threshold": 1.0}}}, "Mind this.")
    recipe, note = levels.pick("mine", preset, found, 0.5)
    assert recipe.technique_options == {"log_alpha_threshold": 1.0, "clip_log_alpha": 8.0}
    assert note.endswith(". Mind this.")
