"""Flags of other programs: accepted where they mean the same, named where they do not, and listed in the docs."""

import json
from pathlib import Path

import pytest

from sparsity_tf.train import aliases, run_folder
from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.sparsity_settings import SparsitySettings
from tests.train.runs import parsed, recipe_of

pytestmark = pytest.mark.tensorflow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.md"


def test_the_page_of_the_documentation_is_the_table():
    assert PAGE.read_text() == aliases.page(), f"write aliases.page() to {PAGE}"


def test_no_spelling_has_two_meanings():
    rows = [alias for rows in aliases.ALIASES.values() for alias in rows]
    assert len({alias.old for alias in rows}) == len(rows)
    fields = set(Recipe.__dataclass_fields__)
    for alias in rows:
        assert alias.flag in fields | {None, "output_dir", "repeats"}
        assert alias.flag or alias.note
        assert alias.old not in fields


@pytest.mark.parametrize(("old", "name"), aliases.same())
def test_spelling_of_another_program_is_accepted(old, name):
    types = {"repeats": int, **{name: field.type for name, field in Recipe.__dataclass_fields__.items()}}
    given = {int: "25", bool: "true"}.get(types[name], "0.25")
    values = parsed([f"--{old}={given}"])
    assert values[name].value in (0.25, 25, "0.25", True)


def test_flags_of_sparse_momentums_program_make_its_recipe():
    there = ("--death=SET", "--growth=momentum", "--death-rate=0.5", "--decay-schedule=linear", "--lr=0.2")
    recipe = recipe_of("--config=lenet300_sparse_momentum", *there)
    assert (recipe.drop, recipe.grow, recipe.drop_fraction, recipe.decay) == ("SET", "momentum", 0.5, "linear")
    assert recipe.learning_rate == 0.2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--l2=5e-4", "Here it is --kernel_l2: half of the value: the gradient of Keras's L2 is 2 c w."),
        ("--no-cuda=1", "Here it is the environment variable CUDA_VISIBLE_DEVICES, set to an empty text."),
        ("--nothing=1", ""),
    ],
)
def test_flag_that_means_something_else_is_explained(flag, message, monkeypatch, capsys):
    monkeypatch.setattr(recipe_flags.flags, "FLAGS", parsed([]))
    with pytest.raises(SystemExit) as stop:
        recipe_flags.parse(["classifier", flag])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert message in error and ("Here it is" in error) == bool(message)


def test_run_of_an_earlier_version_is_continued(tmp_path):
    recipe = recipe_of("--config=lenet300_rigl", "--drop=SET", "--dense=last")
    names = {name: old for old, name in aliases.RENAMED.items()}
    old = {names.get(name, name): value for name, value in run_folder.as_plain(recipe).items()}
    assert {"death", "growth", "drop_fraction_decay", "dense_layers"} <= set(old)
    (tmp_path / run_folder.RECIPE).write_text(json.dumps(old))
    run_folder.claim_folder(tmp_path, recipe, resume=True, overwrite=False)
    other = recipe_of("--config=lenet300_rigl", "--drop=magnitude", "--dense=last")
    with pytest.raises(ValueError, match="drop: SET -> magnitude"):
        run_folder.claim_folder(tmp_path, other, resume=True, overwrite=False)


def test_a_setting_has_the_name_of_its_argument():
    """But for what is left: one field of the recipe stands for arguments of two names."""
    from sparsity_tf.train.sparsity_settings import ALGORITHMS

    others = {pair for a in ALGORITHMS.values() for pair in a.settings.items() if pair[0] != pair[1]}
    assert others == {("final_sparsity", "sparsity")}
    assert {name for name, _ in others} <= set(SparsitySettings.__dataclass_fields__)


def test_flags_on_which_nothing_depends_are_left_out_with_a_line(monkeypatch, capsys):
    """In every form that the programs there take: with "=", as two words, and without a value."""
    values = parsed([])
    recipe_flags.flags.DEFINE_integer("verbosity", -1, "As absl defines it.", flag_values=values)
    monkeypatch.setattr(recipe_flags.flags, "FLAGS", values)
    words = ["--max-threads", "4", "--workers=20", "--seed=3", "--verbose", "--test-batch-size=7", "--epochs", "2"]
    assert recipe_flags.parse(["classifier", *words]) == ["classifier"]
    assert (values.seed, values.epochs) == (3, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["--max-threads", "--workers", "--verbose", "--test-batch-size"]
    assert lines[0] == "note: --max-threads is left out. Here it is nothing: the loaders choose"


def test_only_flags_are_left_out():
    words = ["program", "--output_dir=verbose", "--", "--verbose", "--workers=2"]
    assert aliases.without_unused(words, {}) == (words, [])
    # A program's own flag of the same name stays.
    assert aliases.without_unused(["program", "--eval_batch_size=7"], {"eval_batch_size"})[0][1:] == [
        "--eval_batch_size=7"
    ]
    # A value that was forgotten takes no other flag with it.
    assert aliases.without_unused(["program", "--workers", "--seed=1"], {})[0] == ["program", "--seed=1"]
