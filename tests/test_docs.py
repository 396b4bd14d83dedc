"""The code blocks of the documentation run as they are written."""

import importlib
import pathlib
import re
import shlex

import pytest
from absl import flags

import sparsity_tf
from tests.docs import guides

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["published.md"])
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_guide_to_extending_runs(tmp_path, monkeypatch):
    """The quick one of the guides. `docs/test_guides.py` runs all of them, slowly."""
    monkeypatch.chdir(tmp_path)
    names = guides.run(guides.FOLDER / "extending.md")
    assert names["again"].layers[0].technique.cutoff == 0.1


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_pictures_of_a_page_are_there(page):
    for name in re.findall(r"^!\[[^\]]+\]\(([^)]+)\)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE):
        assert (DOCS / name).read_bytes()[:4] == b"\x89PNG"


PROGRAMS = ("sparsity_tf.train.classifier", "sparsity_tf.train.translator", "sparsity_tf.train.language_model")
COMING_FROM = sorted(f"coming_from/{path.name}" for path in (DOCS / "coming_from").glob("*.md"))


@pytest.mark.parametrize("page", COMING_FROM)
def test_the_code_for_users_of_another_system_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_the_code_of_a_page_runs(page)


def commands_of(page):
    """The commands in the bash blocks of a page: pairs of a module and the list of its arguments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[:2] == ["python", "-m"], line
            yield words[2], words[3:]


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", COMING_FROM)
def test_the_commands_for_users_of_another_system_can_be_run(page, tmp_path, monkeypatch, capsys):
    """A training command makes a recipe and its algorithm. Another command gets as far as its file, which is absent."""
    from sparsity_tf.distributions import budgets
    from sparsity_tf.train import sparsity_settings, technique

    monkeypatch.chdir(tmp_path)
    budgets.write_csv("budget.csv", {"stem": 0.5, "classifier": 0.9})
    for module, arguments in commands_of(page):
        if module in PROGRAMS:
            program = importlib.import_module(f"{module}.__main__")
            flag_values = flags.FlagValues()
            program.define_flags(flag_values)
            assert flag_values([module, *arguments]) == [module]
            recipe = program.recipe_from_flags(flag_values)
            if recipe.technique != "snip":  # it asks for data
                sparsity_settings.make(recipe, 500, lambda: None)
            technique.arguments(recipe)
        else:
            status = importlib.import_module(module).main([module, *arguments])
            error = capsys.readouterr().err
            assert status == 1 or "no recipe.json lies beside the checkpoint" in error, (module, error)


@pytest.mark.parametrize("page", COMING_FROM)
def test_the_links_and_names_for_users_of_another_system_exist(page):
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        headings = re.findall(r"^#+ (.*)$", (path.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
    rooms = "callbacks|layers|models|inspection|initializers|schedules|deploy|budgets"
    for room, name in re.findall(rf"(?<![\w./])(?:sparsity_tf\.)?({rooms})\.(\w+)", text):
        assert name == "py" or hasattr(getattr(sparsity_tf, room), name), f"{room}.{name}"
