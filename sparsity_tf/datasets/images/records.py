"""Checks TFRecord shards: whether all are there, how many records they hold, and whether the first record is sound.

Two ideas live here. The first: shards are numbered `NAME-00003-of-01024`, so the names of the others tell that one is
missing. The second: a TFRecord file is a chain of (length: 8 bytes, CRC of the length: 4, data, CRC of the data: 4).
Jumping from length to length counts the records and finds a truncated file without reading the data.
"""

import os
import re
import struct

_HEADER, _FOOTER = 12, 4


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def masked_crc32c(content):
    """The checksum of TFRecord files. It is meant for a few bytes: it is slow for many."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def find_shards(folder, prefix):
    """The shards `PREFIX-k-of-n` in a folder, in order.

    Args:
        folder: Path of a folder.
        prefix: Name up to the number, e.g. `"train"`.

    Returns:
        List of n paths; empty if the folder holds none.

    Raises:
        ValueError: Some of the n shards are missing, or the folder has shards of different n. The message names a file.
    """
    pattern = re.compile(re.escape(prefix) + r"-(\d+)-of-(\d+)")
    found, example = {}, {}
    for name in sorted(os.listdir(folder)):
        match = pattern.fullmatch(name)
        if match:
            total = int(match[2])
            found.setdefault(total, {})[int(match[1])] = os.path.join(folder, name)
            example[total] = name
    if not found:
        return []
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds shards of several sets: {', '.join(example[total] for total in sorted(example))}."
        )
    ((total, shards),) = found.items()
    missing = [number for number in range(total) if number not in shards]
    if missing or len(shards) != total:
        width = len(pattern.fullmatch(example[total])[1])
        names = [f"{prefix}-{number:0{width}d}-of-{total:0{width}d}" for number in missing[:3]]
        names = names or [os.path.basename(shards[number]) for number in sorted(shards) if number >= total]
        raise ValueError(
            f"{os.path.join(folder, names[0])} {'is missing' if missing else 'has a number that is too high'}: "
            f"{len(shards)} of {total} shards are there ({'missing' if missing else 'too many'}: "
            f"{', '.join(names)}{', ...' if len(missing) > 3 else ''})."
        )
    return [shards[number] for number in range(total)]


def _record_end(file, path, start, size, number):
    """Checks the header of a record; returns (position of its data, position of the next record)."""
    header = os.pread(file.fileno(), _HEADER, start)
    if len(header) < _HEADER:
        raise ValueError(f"{path} is truncated: it ends within the header of record {number} (byte {start}).")
    (length, crc) = struct.unpack("<QI", header)
    if crc != masked_crc32c(header[:8]):
        raise ValueError(f"{path} is corrupt or no TFRecord file: wrong checksum of the length of record {number}.")
    end = start + _HEADER + length + _FOOTER
    if end > size:
        raise ValueError(f"{path} is truncated: record {number} (byte {start}) needs {end} bytes, the file has {size}.")
    return start + _HEADER, end


def count_records(path):
    """Counts the records of a TFRecord file without reading their data.

    Raises:
        ValueError: The file is empty, truncated or no TFRecord file. The message names the file.
    """
    size, position, number = os.path.getsize(path), 0, 0
    if not size:
        raise ValueError(f"{path} is empty.")
    with open(path, "rb", buffering=0) as file:
        while position < size:
            _, position = _record_end(file, path, position, size, number)
            number += 1
    return number


def first_record(path):
    """The data of the first record of a TFRecord file.

    Raises:
        ValueError: As for `count_records`, but only the first record is checked.
    """
    size = os.path.getsize(path)
    if not size:
        raise ValueError(f"{path} is empty.")
    with open(path, "rb", buffering=0) as file:
        start, end = _record_end(file, path, 0, size, 0)
        return os.pread(file.fileno(), end - _FOOTER - start, start)
