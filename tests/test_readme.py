"""The README: its code runs and prints what it shows, it is short, and its figures are those of docs/results.md."""

import doctest
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_code_runs_and_prints_what_is_shown():
    pytest.importorskip("mlxtend")
    session = "\n".join(blocks("python"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 8
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(test, out=output.append, clear_globs=False)
    assert not runner.failures, "".join(output)


def test_code_is_python_that_runs_or_a_command():
    assert set(re.findall(r"^```(\w*)$", README, re.MULTILINE)) - {""} == {"python", "bash"}


def test_it_is_short():
    assert len(README.splitlines()) <= 130


def test_the_gains_are_those_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = README[README.index("## What you gain") : README.index("## Methods")]
    figures = re.findall(r"\d+\.\d+(?=x| times)", table)
    assert len(figures) >= 7
    assert [one for one in figures if f"{one}x" not in results] == []


def test_it_says_why_tensorflow_addons_is_not_used():
    assert re.search(r"`tensorflow-addons`.*archived.*does not import\s+beside Keras 3", README, re.DOTALL)
