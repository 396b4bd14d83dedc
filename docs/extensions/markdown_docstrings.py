"""Docstrings for autodoc: the package writes Markdown with the sections of Keras, and autodoc reads reStructuredText.

`to_rst` rewrites what the two spell differently: fenced code, tables, code in backticks (which becomes a link where it
names something public), and characters that mean something in reStructuredText only. napoleon reads the sections
`Args:`, `Returns:` and `Raises:` afterwards.
"""

import re

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_BULLET = re.compile(r"^(\s*)(?:[*-]|\d+\.) ")
_CODE = re.compile(r"`([^`]+)`")
# *Emphasis* and **strong emphasis**.
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})[^\s*](?:[^*]*[^\s*])?\1(?![\w*])")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example):$")
# A line of `Args:` that names arguments, such as "begin_step, end_step: ...".
_ARGUMENTS = re.compile(r"^\s+\*{0,2}\w+(?:, \*{0,2}\w+)*:(?=\s|$)")


def to_rst(lines, links=None):
    """Rewrites the lines of a docstring.

    Args:
        lines: List of str, without common indentation.
        links: Dict from a name in backticks to the full name of the public object that it links to.

    Returns:
        List of str.
    """
    result, paragraph = [], []
    lines = _with_joined_arguments(_with_examples_at_the_margin(lines))

    def flush():
        if paragraph:
            result.extend(_inline("\n".join(paragraph), links or {}).split("\n"))
            paragraph.clear()

    position, text = 0, True
    while position < len(lines):
        line = lines[position]
        text = text and not _SECTION.match(line)
        fence = _FENCE.match(line)
        if text and not paragraph and line.startswith("    ") and not line.startswith("    >>> "):
            # A formula or a table that the docstring sets apart.
            end = next((n for n in range(position, len(lines)) if not lines[n].startswith("    ")), len(lines))
            result += _code([one[4:] for one in lines[position:end]], "", "")
            position = end - 1
        elif fence:
            flush()
            end = next(n for n in range(position + 1, len(lines)) if lines[n].strip() == "```")
            result += _code(lines[position + 1 : end], fence[1], fence[2])
            position = end
        elif line.lstrip().startswith(">>> "):
            flush()
            end = next((n for n in range(position, len(lines)) if not lines[n].strip()), len(lines))
            result += ["", *lines[position:end], ""]
            position = end - 1
        elif line.strip() == "Example:":
            flush()
            result += ["", f"{_indentation(line)}.. rubric:: Example", ""]
        elif line.startswith("|") and lines[position + 1 : position + 2] and set(lines[position + 1]) <= set("|-: "):
            flush()
            end = next((n for n in range(position, len(lines)) if not lines[n].startswith("|")), len(lines))
            result += _table(lines[position:end], links or {})
            position = end - 1
        else:
            if paragraph and _changes_list(paragraph, line):
                flush()
                result.append("")
            if not line.strip():
                flush()
                result.append("")
            else:
                paragraph.append(line)
        position += 1
    flush()
    return result


def _changes_list(paragraph, line):
    """Whether a list begins or ends before a line. reStructuredText wants an empty line there."""
    last = next((one for one in reversed(paragraph) if _BULLET.match(one)), None)
    if _BULLET.match(line):
        return last is None
    return last is not None and len(_indentation(line)) <= len(_indentation(last))


def _with_examples_at_the_margin(lines):
    """The lines below `Example:` may be indented or not."""
    result, inside = [], False
    for line in lines:
        if line.strip() and not line.startswith(" "):
            inside = line.rstrip() == "Example:"
        result.append(line.removeprefix("    ") if inside else line)
    return result


def _with_joined_arguments(lines):
    """napoleon takes the names of arguments from one line; a docstring may list them in two."""
    joined = []
    for line in lines:
        before = joined[-1] if joined else ""
        if re.fullmatch(r"\s+\w+(, \w+)*,", before) and len(_indentation(line)) > len(_indentation(before)):
            joined[-1] = f"{before} {line.strip()}"
        else:
            joined.append(line)
    return joined


def _indentation(line):
    return line[: len(line) - len(line.lstrip())]


def _code(lines, indentation, language):
    inside = [f"{indentation}   {line.removeprefix(indentation)}" if line.strip() else "" for line in lines]
    return ["", f"{indentation}.. code-block:: {language or 'text'}", "", *inside, ""]


def _table(rows, links):
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    result = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in [cells[0], *cells[2:]]:
        for number, cell in enumerate(row):
            result.append(f"   {'* -' if number == 0 else '  -'} {_inline(cell, links)}")
    return [*result, ""]


def _inline(text, links):
    """Rewrites a paragraph, whose code may go on in the next line."""
    parts, position = [], 0
    for match in _CODE.finditer(text):
        parts += [_escaped(text[position : match.start()]), _literal(match[1], links)]
        if text[match.end() : match.end() + 1].isalnum():
            parts.append("\\ ")
        position = match.end()
    return "".join([*parts, _escaped(text[position:])])


def _literal(code, links):
    code = re.sub(r"\s*\n\s*", " ", code)
    name = links.get(code.removesuffix("()"))
    return f":py:obj:`{code} <{name}>`" if name else f"``{code}``"


def _escaped(text):
    """Plain text, in which `|` and a lone `*` are characters. Emphasis and `**kwargs:` of `Args:` stay."""
    text = text.replace("\\", "\\\\").replace("|", "\\|")
    lines = []
    for line in text.split("\n"):
        # The star of a list.
        head = (_BULLET.match(line) or _ARGUMENTS.match(line) or re.match("", line))[0]
        rest = _EMPHASIS.sub(lambda match: match[0].replace("*", "\0"), line[len(head) :])
        lines.append(head + rest.replace("*", "\\*").replace("\0", "*"))
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", "\n".join(lines))
