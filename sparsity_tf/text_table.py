"""Printed tables, and lines of text, that fit a terminal.

Only what is printed is shortened. The rows of a report, its CSV and its other files keep the full names.
"""

import textwrap

# A printed table fits a terminal of so many columns.
COLUMNS = 100
# A name is not cut below so many characters, and a column of text is not folded below so many.
_SHORTEST_NAME, _NARROWEST_TEXT = 30, 24
_GAP = "..."
# Which part of a cut name may stand before the gap, the first choice first. Paths differ more towards their ends.
_HEADS = sorted((k / 20 for k in range(1, 20)), key=lambda share: abs(share - 0.35))


def text_table(body: list, header: list, align: list, folds_last: bool = False) -> str:
    """Formats a table that fits 100 columns if its cells allow it.

    A table that is too wide is made narrower, by as little as is needed: the last column is folded, if it holds text;
    long names in the first column lose their middle; the columns are broken into several tables, one below the other,
    each with the names (from the second on without rows that are empty there).

    Args:
        body: Rows of cells, the name first. Numbers are formatted already.
        header: Names of the columns.
        align: "left" or "right" for each column.
        folds_last: Whether the last column holds text.

    Returns:
        String; lines without a newline at the end.
    """
    body = [["" if cell is None else str(cell).strip() for cell in row] for row in body]
    table = _grid(body, header, align)
    if (excess := _width(table) - COLUMNS) <= 0:
        return table
    names = [row[0] for row in body]
    longest = max(map(len, names), default=0)
    cut, less_cut = (
        [[name, *row[1:]] for name, row in zip(shortened(names, width), body, strict=True)]
        for width in (max(longest - excess, _SHORTEST_NAME), max(longest - excess, COLUMNS // 2))
    )
    forms = [_folded(body, header, align)] * folds_last
    if _different(cut) >= _different(less_cut):
        forms += [_grid(cut, header, align)] + [_folded(cut, header, align)] * folds_last
    for form in forms:
        if _width(form) <= COLUMNS:
            return form
    # Names that can be told apart come first: if no cut leaves them so, they stay whole. After that, shorter names are
    # worth it if they save a table.
    parts = min(cut, less_cut, body, key=lambda rows: (-_different(rows), len(_broken(rows, header, align))))
    return "\n\n".join(_broken(parts, header, align))


def wrapped(text: str, indent: str = "", width: int = COLUMNS) -> list[str]:
    """The lines of a text that is too long for one line; `indent` stands before all lines but the first."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def shortened(names: list[str], width: int) -> list[str]:
    """Names of at most `width` characters: longer ones lose their middle, if possible so that names stay different.

    Example:

    >>> shortened(["encoder/block_1/attention/query/kernel", "logits/kernel"], 24)
    ['encoder...n/query/kernel', 'logits/kernel']
    """
    candidates = []
    for share in _HEADS:
        head = int((width - len(_GAP)) * share)
        tail = width - len(_GAP) - head
        candidates.append([name if len(name) <= width else f"{name[:head]}{_GAP}{name[-tail:]}" for name in names])
    return max(candidates, key=lambda found: len(set(found)))


def _different(rows):
    return len({row[0] for row in rows})


def _broken(body, header, align):
    """The columns in several tables, each with the names and as many other columns as fit."""
    tables, first = [], 1
    if len(header) == 1:
        return [_grid(body, header, align)]
    while first < len(header):
        last = first + 1
        part = _columns(body, header, align, first, last)
        while last < len(header) and _width(wider := _columns(body, header, align, first, last + 1)) <= COLUMNS:
            part, last = wider, last + 1
        tables.append(part)
        first = last
    return tables


def _columns(body, header, align, first, last):
    rows, part = [[row[0], *row[first:last]] for row in body], slice(first, last)
    if first > 1:
        rows = [row for row in rows if any(row[1:])]
    form = _folded if last - first == 1 and align[first] == "left" else _grid  # A column of text may stand alone.
    return form(rows, [header[0], *header[part]], [align[0], *align[part]])


def _folded(body, header, align):
    """The table with its last column, a text, as narrow as the table needs it to fit."""
    table = _grid(body, header, align)
    if (excess := _width(table) - COLUMNS) <= 0:
        return table
    room = max(max((len(row[-1]) for row in body), default=0) - excess, _NARROWEST_TEXT)
    return _grid([[*row[:-1], "\n".join(wrapped(row[-1], width=room))] for row in body], header, align)


def _grid(body, header, align):
    from tabulate import tabulate

    # tabulate refuses the alignment of columns that it does not see: without rows it sees none.
    return tabulate(body, header, tablefmt="simple", colalign=align if body else None, disable_numparse=True)


def _width(table):
    return max(map(len, table.splitlines()), default=0)
