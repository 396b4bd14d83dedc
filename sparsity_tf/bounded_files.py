"""Reads files that may be damaged or malicious, with no more memory than the size of the file justifies.

A header can promise any size, and a few kilobytes can unpack to gigabytes. So every reader of this package unpacks
through this module, which has one limit: `most_unpacked(path)`. Content beyond the limit, and any error that a library
raises for a damaged file, becomes a `ValueError` that names the file.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import os
import zipfile
import zlib

import numpy as np

# Ending of a file name -> function that opens the packed file, and name of the format.
PACKINGS = {".gz": (gzip.open, "gzip"), ".bz2": (bz2.open, "bzip2"), ".xz": (lzma.open, "xz")}
# A file of any size may unpack to the first number of bytes. A larger file may unpack to the second number times its
# size. Text packs to a tenth at best, images to a half. A file of zeros packs to a thousandth, as a "zip bomb" does.
_ALWAYS_ALLOWED = 64 << 20
_MOST_EXPANSION = 200
_CHUNK = 1 << 20
_BUFFER = 1 << 17
# The most characters in a command's error line. A list of presets fits.
LONGEST_COMPLAINT = 3000
# The most dimensions that an array can have in every supported release of numpy.
MOST_DIMENSIONS = 32


class DamagedFileError(ValueError):
    """A file that can't be unpacked.

    Attributes:
        reason: The reason in words, without the name of the file.
    """

    def __init__(self, path, reason):
        super().__init__(f"{path} is damaged: {reason}.")
        self.reason = reason


def most_unpacked(path):
    """The number of bytes to which a file may unpack: 64 MiB, or 200 times its size if that is more."""
    return max(_ALWAYS_ALLOWED, _MOST_EXPANSION * os.path.getsize(path))


def check_unpacked(path, size):
    """Raises a ValueError if a file unpacks to `size` bytes and this is more than `most_unpacked(path)`."""
    if size > most_unpacked(path):
        raise ValueError(
            f"{path} has {os.path.getsize(path):,} bytes and would unpack to {size:,}, more than the "
            f"{most_unpacked(path):,} that are allowed: it is damaged or made to fill the memory. (Store it without "
            "compression if you trust it.)"
        )


def open_unpacked(path, packing=None):
    """Opens a file for reading. It is unpacked while it is read, up to the limit `most_unpacked`.

    Args:
        path: Path of the file.
        packing: `".gz"`, `".bz2"` or `".xz"`. Any other string, and `None`, stand for a file that is not packed.

    Returns:
        A binary file object. Reading raises a `DamagedFileError` for a damaged file, and a ValueError beyond the limit.
    """
    if packing not in PACKINGS:
        return open(path, "rb")
    return io.BufferedReader(_Unpacked(path, packing), _BUFFER)


class _Unpacked(io.RawIOBase):
    """Reads the unpacked bytes of a packed file, and counts them."""

    def __init__(self, path, packing):
        opener, self._stream = PACKINGS[packing]
        self._file, self._path, self._count = opener(path, "rb"), path, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            count = self._file.readinto(buffer)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            # gzip and bz2 raise an OSError without a number for damage. An OSError with a number comes from the disk.
            if getattr(error, "errno", None) is not None:
                raise
            raise DamagedFileError(self._path, f"its {self._stream} stream can't be read ({error})") from error
        self._count += count
        check_unpacked(self._path, self._count)
        return count

    def close(self):
        self._file.close()
        super().close()


def read_at_most(file, size):
    """Reads up to `size` bytes of a file object. Memory is allocated as bytes arrive, because `size` may be a lie."""
    parts = []
    while size > 0 and (part := file.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def check_archive(path, archive):
    """Raises a ValueError if the members of an open `zipfile.ZipFile` unpack to more than `most_unpacked`.

    (`zipfile` never unpacks more bytes of a member than the archive's directory says.)
    """
    check_unpacked(path, sum(member.file_size for member in archive.infolist()))


def read_json(path):
    """Reads the content of a JSON file.

    Raises:
        DamagedFileError: The file is not JSON, not UTF-8, or nested too deeply.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(path, one_line(error)) from error


def csv_lines(path, text):
    """Splits the text of a CSV file into cells.

    Args:
        path: Path of the file, for the message.
        text: Iterable of the file's lines, such as the open file.

    Returns:
        Non-empty list of pairs, the number of a line (from 1) and the list of its cells. Empty lines are left out.

    Raises:
        DamagedFileError: The text is empty, not UTF-8 or no CSV.
    """
    reader = csv.reader(text)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, one_line(error)) from error
    except csv.Error as error:
        raise DamagedFileError(path, f"line {reader.line_num}: {one_line(error)}") from error
    if not lines:
        raise DamagedFileError(path, "it has no header line")
    return lines


def read_figures(path, integers=(), texts=(), needed=()):
    """Reads the rows of a CSV file of numbers, to which a program adds one row at a time.

    A last line without an end of line is left out: it was not written in full, because the process was killed or the
    disk was full.

    Args:
        path: Path of the file.
        integers: Names of required columns. Each cell holds an integer of at least 0.
        texts: Names of required columns. Each cell holds some text.
        needed: Names of more required columns. Each cell holds a number. In all other columns a cell holds a number or
            nothing.

    Returns:
        `(header, rows)`: the list of the names of the columns, and a list of dicts from these names to strings, exactly
        as in the file.

    Raises:
        DamagedFileError: The file is empty or not UTF-8, lacks a column, or has a row of the wrong length or with a
            cell that does not fit its column. The message names the line.
        OSError: The file can't be read, for example because it is a folder.
    """
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv_lines(path, (line for line in file if line.endswith("\n")))
    header = lines[0][1]
    missing = [name for name in (*integers, *texts, *needed) if name not in header]
    if missing:
        raise DamagedFileError(path, f"it lacks the columns {', '.join(missing)}")
    if len(set(header)) < len(header):
        raise DamagedFileError(path, "two of its columns have the same name")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DamagedFileError(path, f"line {number} has {len(cells)} cells for {len(header)} columns")
        rows.append(dict(zip(header, cells, strict=True)))
        for name, text in rows[-1].items():
            problem = _wrong_in_cell(text, name in integers, name in texts, name in needed)
            if problem:
                raise DamagedFileError(path, f"line {number}: {name} {problem}, not {one_line(repr(text), 50)}")
    return header, rows


def _wrong_in_cell(text, integer, words, needed):
    """Says in words which content a cell must have, if it does not have it; otherwise `None`."""
    if words:
        return None if text else "must be a text"
    if not (text or integer or needed):
        return None
    try:
        number = int(text) if integer else float(text)
    except ValueError:
        number = None
    if number is None or (integer and number < 0):
        return "must be an integer of at least 0" if integer else "must be a number"
    return None


def read_npz(path, names):
    """Reads arrays of an `.npz` file. Objects are never unpickled.

    Args:
        path: Path of the file.
        names: Names of the arrays.

    Returns:
        Dict from `names` to arrays.

    Raises:
        ValueError: The file is not an `.npz` file, is damaged, lacks an array or holds objects, or the header of an
            array does not agree with its size. The message names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            held = [member.removesuffix(".npy") for member in archive.namelist()]
            missing = [name for name in names if name not in held]
            if missing:
                raise _Wrong(
                    f"{path} must hold the arrays {', '.join(names)}. Received: {', '.join(held[:20])} "
                    f"(missing: {', '.join(missing)})"
                )
            for name in names:
                _check_member(path, archive, name)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except _Wrong as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds of errors for damaged files.
        raise ValueError(f"{path} is not a readable .npz file ({one_line(error)}).") from error


class _Wrong(Exception):
    """An error of a file. Its message is for the user."""


def _check_member(path, archive, name):
    """Raises an error unless an array of an open `.npz` holds exactly as many numbers as its header says."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        begin = file.tell()
    if dtype.hasobject:
        raise _Wrong(f"`{name}` in {path} holds Python objects, which are not read: it must hold numbers.")
    needed = math.prod(shape) * dtype.itemsize
    if begin + needed != member.file_size:
        raise _Wrong(
            f"`{name}` in {path} is damaged: shape {shape} of {dtype} needs {needed:,} bytes, it has "
            f"{member.file_size - begin:,}."
        )


def one_line(error, most=500):
    """The message of an exception, or a text, as one line of at most `most` characters. The line is never empty.

    The message of a `KeyError` is the key alone, so the name of the exception is added.
    """
    text = " ".join(str(error)[: 10 * most].split())
    if not text:
        return type(error).__name__
    if isinstance(error, KeyError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= most else f"{text[: most - 3]}..."
