"""The code blocks of the documentation run as they are written."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["extending.md", "published.md"])
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_pictures_of_a_page_are_there(page):
    for name in re.findall(r"^!\[[^\]]+\]\(([^)]+)\)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE):
        assert (DOCS / name).read_bytes()[:4] == b"\x89PNG"
