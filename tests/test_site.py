"""The sources of the documentation site: complete, without broken links, and true to the code.

`make docs` builds the site itself; `test_the_built_site_has_no_broken_link` looks at what it wrote.
"""

import ast
import functools
import html.parser
import importlib
import itertools
import pathlib
import re
import shlex
import subprocess
import sys
import types
import urllib.parse

import pytest

import sparsity_tf_cli
from tests.public_objects import public_objects

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "figures" not in path.parts)
ON_GITHUB = [*sorted(ROOT.glob("*.md")), *PAGES]


@pytest.fixture
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))


def directives(name):
    """(argument, options) of each directive of that name in the pages of the reference."""
    for page in sorted((DOCS / "reference").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for argument, options in re.findall(rf"^\.\. {name}::(.*)\n((?:   :.*\n)*)", text, re.MULTILINE):
            yield argument.strip(), dict(re.findall(r"^   :([\w-]+): (.*)$", options, re.MULTILINE))


# The reference is complete.


def test_every_public_object_has_its_place_in_the_reference(extensions):
    import public_names

    documented = []
    for module, options in directives("public"):
        chosen = [options.get(key, "").split() for key in ("from", "not-from")]
        documented += [f"{module}.{name}" for name in public_names.names(module, *chosen)]
    assert len(set(documented)) == len(documented)
    assert set(documented) == set(public_objects())


def test_every_name_of_every_public_package_is_on_a_page(extensions):
    """Classes, functions and constants of `__all__`; modules have a page or section of their own."""
    import public_names

    text = ""
    for module, options in directives("public"):
        chosen = [options.get(key, "").split() for key in ("from", "not-from")]
        text += "\n".join(public_names.source(module, *chosen)) + "\n"
    for name in public_names.OFFERED:
        module = importlib.import_module(name)
        for key in getattr(module, "__all__", ()):
            value = getattr(module, key)
            if isinstance(value, types.ModuleType):
                assert value.__name__ in public_names.OFFERED
            elif not callable(value):
                assert public_names.constants(name)[key][1], f"{name}.{key} has no comment"
                assert f".. py:data:: {name}.{key}\n" in text
            elif not getattr(value, "__module__", "").startswith("sparsity_tf.backend"):
                home = public_names.homes()[id(value)]
                assert re.search(rf"^\.\. auto(class|function):: {re.escape(home)}$", text, re.MULTILINE), home


def test_every_module_that_a_page_chooses_by_defines_something(extensions):
    import public_names

    for module, options in directives("public"):
        for origin in f"{options.get('from', '')} {options.get('not-from', '')}".split():
            assert public_names.names(module, [origin]), origin


def test_every_program_has_its_place_and_every_flag_is_shown(extensions):
    import program_flags

    shown = []
    for _, options in directives("programs"):
        shown += program_flags.chosen(options.get("with", ""), options.get("without", ""))
    assert sorted(shown) == sorted(sparsity_tf_cli.PROGRAMS)
    for program in shown:
        source = "\n".join(program_flags.source(program))
        flags = re.findall(r"^\.\. option:: --(?:\[no\])?(\w+)", source, re.MULTILINE)
        assert flags == [flag.name for flag in program_flags.flags_of(program)] != []
    assert "penalty_weight" in [flag.name for flag in program_flags.flags_of("train classifier")]


@pytest.mark.parametrize(
    "markdown,rst",
    [
        ("The `x`s of |w| and w * y, *never* z_.", "The ``x``\\ s of \\|w\\| and w \\* y, *never* z\\_."),
        ("**Unit.** As 2 ** n or *The State*: (*a*).", "**Unit.** As 2 \\*\\* n or *The State*: (*a*)."),
        ("Use `RigL`.", "Use :py:obj:`RigL <a.RigL>`."),
        ("```python\nx = `1`\n```", "\n.. code-block:: python\n\n   x = `1`\n"),
        ("text\n* one\n  more\n* two\nafter", "text\n\n* one\n  more\n* two\n\nafter"),
        ("Args:\n    a, b,\n        c: Text.", "Args:\n    a, b, c: Text."),
        ("By\n\n    a = |b|\n\nfor all.", "By\n\n\n.. code-block:: text\n\n   a = |b|\n\n\nfor all."),
        ("Args:\n\n    a: Text.", "Args:\n\n    a: Text."),
        ("Example:\n    >>> a * b\n    `1`", "\n.. rubric:: Example\n\n\n>>> a * b\n`1`\n"),
        (
            "| a | b |\n| --- | --- |\n| `x` | y |",
            "\n.. list-table::\n   :header-rows: 1\n\n   * - a\n     - b\n   * - ``x``\n     - y\n",
        ),
    ],
)
def test_docstrings_become_restructured_text(extensions, markdown, rst):
    import markdown_docstrings

    assert "\n".join(markdown_docstrings.to_rst(markdown.split("\n"), {"RigL": "a.RigL"})) == rst


def test_the_picture_shows_every_room_above_the_rooms_that_it_imports(extensions):
    import rooms

    floors = rooms.floors()
    numbers = {room: number for number, names in enumerate(reversed(floors)) for room in names}
    assert numbers.keys() == rooms.rooms().keys() and {"", "layers", "callbacks", "deploy", "tools"} <= numbers.keys()
    assert all(
        numbers[other] < numbers[room] or (room, other) in rooms.UPWARDS
        for room in numbers
        for other in rooms.imports(room)
    )
    assert numbers["backend"] == 0 and numbers["layers"] < numbers["callbacks"] < numbers["train"] < numbers["tools"]
    picture = rooms.picture()
    assert [room for room in numbers if f"<b>{room}</b>" not in picture] == [""]
    assert "<b>layers</b> Sparse layers: each technique on each kind of Keras layer that it suits." in picture


# Links of the sources.


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


@functools.cache
def anchors(path):
    """The anchors that GitHub and MyST make of the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ON_GITHUB, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_front_page_leads_to_every_page():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {*(DOCS / "start").glob("*.md"), *(DOCS / "coming_from").glob("*.md"), *DOCS.glob("*.md")}
    entries = re.findall(
        r"^(?:.* <)?([\w/]+)>?$", "\n".join(re.findall(r"^```{toctree}\n(.*?)^```", text, re.S | re.M)), re.M
    )
    listed = {DOCS / f"{name}.md" for name in entries}
    assert pages - listed == {DOCS / "index.md", DOCS / "ecosystem_entry.md"}
    assert {DOCS / "guides" / "index.md", DOCS / "reference" / "index.md"} <= listed


# Messages of the page on troubleshooting.


@functools.cache
def texts_of_the_code():
    """Every text in the sources of the package, with "..." in the place of what is computed."""
    found = set()
    for path in [*(ROOT / "sparsity_tf").rglob("*.py"), ROOT / "sparsity_tf_cli.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values))
    return found


def messages():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for quote in re.findall(r"^> .*\n(?:> .*\n)*", text, re.MULTILINE):
        yield " ".join(line.removeprefix("> ") for line in quote.splitlines())


def holds(text, parts):
    """Whether a text holds all parts, one after the other."""
    position = 0
    for part in parts:
        position = text.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return True


@pytest.mark.parametrize("message", list(messages()))
def test_a_quoted_message_is_in_the_code(message):
    parts = [part.strip() for part in message.split("...")]
    assert len(message) > 30 and any(holds(text, parts) for text in texts_of_the_code())


def test_a_message_that_nobody_gives_is_found():
    with pytest.raises(AssertionError):
        test_a_quoted_message_is_in_the_code("`source` must hold a message that this package never gives to anyone.")


# Commands of the pages on programs.

GUIDES = [path for path in PAGES if path.parent.name == "guides" and "\n```bash\n" in path.read_text(encoding="utf-8")]
COMMANDS = [ROOT / "README.md", DOCS / "programs.md", DOCS / "results.md", *GUIDES]


def commands_of(page):
    """The words of each command `sparsity-tf ...` or `python -m sparsity_tf...` in the bash blocks of a page."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["sparsity-tf"]:
            yield words[1:]
        elif words[:2] == ["python", "-m"] and words[2].startswith("sparsity_tf.train."):
            yield ["train", words[2].rpartition(".")[2].replace("_", "-"), *words[3:]]


@pytest.mark.parametrize("page", COMMANDS, ids=lambda path: path.name)
def test_the_commands_of_a_page_exist_with_their_flags_and_recipes(page, extensions):
    import program_flags

    commands = list(commands_of(page))
    assert commands or page.name == "README.md"
    for words in commands:
        program = " ".join(words[: 2 if words[0] == "train" else 1])
        flags = {flag.name: flag for flag in program_flags.flags_of(program)}
        for word in words:
            name, _, value = word.removeprefix("--").partition("=")
            assert not word.startswith("--") or name in flags, words
            if name == "config" and not value.isupper() and "NAME" not in value and program.startswith("train"):
                assert value in re.findall(r"[\w-]+", flags["config"].help), words


def test_the_recipes_that_the_page_on_programs_lists_exist(extensions):
    import program_flags

    text = (DOCS / "programs.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| [^|]+ \| (.*) \|$", text[text.index("| data |") :], re.MULTILINE)[2:]
    known = " ".join(
        flag.help
        for name in program_flags.sparsity_tf_cli.PROGRAMS
        for flag in program_flags.flags_of(name)
        if name.startswith("train ") and flag.name == "config"
    )
    named = set()
    for code in re.findall(r"`([^`]+)`", " ".join(table)):
        parts = [part.split(",") if n % 2 else [part] for n, part in enumerate(re.split(r"{([^}]*)}", code))]
        named |= {"".join(choice) for choice in itertools.product(*parts)}
    assert len(named) > 90
    assert named - {"small_"} <= set(re.findall(r"[\w-]+", known))


# The built site.


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values["id"]} if values.get("id") else set()
        self.links += [values[key] for key in ("href", "src") if values.get(key)]


def broken_links(folder):
    """(page, link) of each link of a built site that leads to no file or anchor of it."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].ids if target in pages else None
            if not target.exists() or (parts.fragment and known is not None and parts.fragment not in known):
                yield str(path.relative_to(folder)), link


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">1</a><a href="#x">2</a><img src="c.png"><a href="#z">'
    )
    (tmp_path / "b.html").write_text('<a id="y" href="https://elsewhere/">')
    assert list(broken_links(tmp_path)) == [("a.html", "c.png"), ("a.html", "#z")]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_site_is_built_without_a_warning_and_has_no_broken_link(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert list(broken_links(tmp_path)) == []
    assert len(list(tmp_path.rglob("*.html"))) > len(PAGES)
