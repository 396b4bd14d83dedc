"""Reads the cells of published CSV files. Every error names the file, the line and the column."""

import math

from sparsity_tf.bounded_files import DamagedFileError, csv_lines, one_line

# The most characters of a cell that a message shows.
_SHOWN = 50


class Row:
    """One line of a CSV file.

    Args:
        path: Path of the file, for messages.
        line: Number of the line, from 1.
        cells: Dict from column to text.
    """

    def __init__(self, path, line, cells):
        self.path = path
        self.line = line
        self.cells = cells

    def __contains__(self, column):
        return column in self.cells

    def text(self, column):
        """The text of a cell, without spaces around it; it must not be empty."""
        text = self.cells[column].strip()
        if not text:
            raise self.wrong(f"{column} is empty")
        return text

    def number(self, column, least=None, most=None):
        """The finite number in a cell, within the bounds."""
        text = self.cells[column].strip()
        try:
            # `float` also reads "1_000".
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (least is not None and value < least) or (most is not None and value > most):
            between = "" if least is None else f" from {least}" if most is None else f" from {least} to {most}"
            raise self.wrong(f"{column} must be a number{between}, not {one_line(repr(text), _SHOWN)}")
        return value

    def optional_number(self, column, least=None, most=None):
        """As `number`, but `None` for an empty cell."""
        return self.number(column, least, most) if self.cells[column].strip() else None

    def integer(self, column, least=0):
        """The integer in a cell, also if it is written as 1000.0."""
        value = self.number(column, least)
        if value != int(value):
            raise self.wrong(f"{column} must be an integer, not {one_line(repr(self.cells[column]), _SHOWN)}")
        return int(value)

    def wrong(self, what):
        """The error for a cell of this line."""
        return DamagedFileError(self.path, f"line {self.line}: {what}")


def read_table(path):
    """Reads a CSV file with a header.

    Args:
        path: Path of the file. A byte order mark, either kind of line end, and a missing last line end are accepted.

    Returns:
        `(header, lines)`: the list of column names, without spaces around them, and a list of pairs (number of the
        line, list of cells). Empty lines are left out.

    Raises:
        DamagedFileError: The file is empty or not UTF-8, or a line has another number of cells than the header. The
            message names the line.
        OSError: The file can't be read.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv_lines(path, file)
    header = [name.strip() for name in lines[0][1]]
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DamagedFileError(path, f"line {number} has {len(cells)} cells for {len(header)} columns")
    return header, lines[1:]


def read_rows(path, columns):
    """The rows of a CSV file whose header must be `columns`, a list of `Row`s."""
    header, lines = read_table(path)
    if header != list(columns):
        raise DamagedFileError(path, f"its header must be {','.join(columns)}, not {one_line(','.join(header), 200)}")
    return [Row(path, line, dict(zip(header, cells, strict=True))) for line, cells in lines]
