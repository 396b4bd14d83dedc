"""Reading files that may be damaged or lie: never more memory than the size of the file justifies.

A header can promise any size, and a few kilobytes can unpack to gigabytes. So every reader of this package unpacks
through this module, which knows one limit: `most_unpacked(path)`. What goes beyond it, and what a library says about a
damaged file, becomes a `ValueError` that names the file.
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

# Ending of a name -> what unpacks the file, and what its content is called.
PACKINGS = {".gz": (gzip.open, "gzip"), ".bz2": (bz2.open, "bzip2"), ".xz": (lzma.open, "xz")}
# A file may unpack to this many bytes whatever its own size, and beyond that to this many times its size. Text packs to
# a tenth at best, images to a half; a file of nothing but zeros packs to a thousandth, and a bomb is one.
_ALWAYS_ALLOWED = 64 << 20
_MOST_EXPANSION = 200
_CHUNK = 1 << 20
_BUFFER = 1 << 17
# Characters of the line that a command says on standard error: a list of presets fits.
LONGEST_COMPLAINT = 3000
# Dimensions that an array of every supported numpy can have.
MOST_DIMENSIONS = 32


class DamagedFileError(ValueError):
    """A file that can't be unpacked.

    Attributes:
        reason: What is wrong, without the file's name.
    """

    def __init__(self, path, reason):
        super().__init__(f"{path} is damaged: {reason}.")
        self.reason = reason


def most_unpacked(path):
    """The number of bytes that a file may hold once it is unpacked: 64 MiB, or 200 times its size if that is more."""
    return max(_ALWAYS_ALLOWED, _MOST_EXPANSION * os.path.getsize(path))


def check_unpacked(path, size):
    """Raises a ValueError if a file says that it holds more than `most_unpacked(path)` bytes."""
    if size > most_unpacked(path):
        raise ValueError(
            f"{path} has {os.path.getsize(path):,} bytes and would unpack to {size:,}, more than the "
            f"{most_unpacked(path):,} that are allowed: it is damaged or made to fill the memory. (Store it without "
            "compression if you trust it.)"
        )


def open_unpacked(path, packing=None):
    """Opens a file for reading, unpacked as it is read and no further than `most_unpacked`.

    Args:
        path: Path of the file.
        packing: `".gz"`, `".bz2"` or `".xz"`. Any other string, and `None`, stand for a file that is not packed.

    Returns:
        A binary file object. Reading raises a `DamagedFileError`, or a ValueError for what unpacks to too much.
    """
    if packing not in PACKINGS:
        return open(path, "rb")
    return io.BufferedReader(_Unpacked(path, packing), _BUFFER)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a packed file, counted."""

    def __init__(self, path, packing):
        opener, self._stream = PACKINGS[packing]
        self._file, self._path, self._count = opener(path, "rb"), path, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            count = self._file.readinto(buffer)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            # An OSError without a number is gzip's and bz2's word for damage, one with a number is the disk's.
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
    """Up to `size` bytes of a file object; memory is taken as bytes arrive, not as `size` promises."""
    parts = []
    while size > 0 and (part := file.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def check_archive(path, archive):
    """Raises a ValueError if the members of an open `zipfile.ZipFile` unpack to more than `most_unpacked`.

    (`zipfile` never unpacks more of a member than the archive's directory says.)
    """
    check_unpacked(path, sum(member.file_size for member in archive.infolist()))


def read_json(path):
    """What a JSON file holds.

    Raises:
        DamagedFileError: It is no JSON, no UTF-8, or nested too deeply.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(path, one_line(error)) from error


def read_figures(path, integers=(), texts=(), needed=()):
    """The rows of a CSV file of figures to which a program adds a row at a time.

    A last line without its end is left out: the process was killed, or the disk full, while it was written.

    Args:
        path: Path of the file.
        integers: Names of columns that must be there and hold integers of at least 0.
        texts: Names of columns that must be there and hold some text.
        needed: Names of more columns that must be there and hold a number in each row. Any other column holds a number
            or nothing.

    Returns:
        `(header, rows)`: a list of names, and a list of dicts from these to strings, as they stand in the file.

    Raises:
        DamagedFileError: The file is empty, no UTF-8, lacks a column, or has a row of another length or with another
            content than its columns say. The message names the line.
        OSError: The file can't be read, for example because it is a folder.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        try:
            lines = [(reader.line_num, cells) for cells in reader if cells]
        except UnicodeDecodeError as error:
            raise DamagedFileError(path, one_line(error)) from error
        except csv.Error as error:
            raise DamagedFileError(path, f"line {reader.line_num}: {one_line(error)}") from error
    if not lines:
        raise DamagedFileError(path, "it has no header line")
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
    """What a cell must be and is not, in words, or `None`."""
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
        ValueError: The file is no `.npz`, is damaged, lacks an array, holds objects, or an array's header does not
            agree with its size. The message names the file.
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
    except Exception as error:  # zipfile, zlib and numpy have many ways to say "damaged"
        raise ValueError(f"{path} is not a readable .npz file ({one_line(error)}).") from error


class _Wrong(Exception):
    """What is wrong with a file, in words for the user."""


def _check_member(path, archive, name):
    """Raises unless an array of an open `.npz` holds numbers, as many as its header says."""
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
    """The message of an exception, or a text, on one line of at most `most` characters, never empty.

    A `KeyError` says the key and nothing else, so it gets its name before it.
    """
    text = " ".join(str(error)[: 10 * most].split())
    if not text:
        return type(error).__name__
    if isinstance(error, KeyError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= most else f"{text[: most - 3]}..."
