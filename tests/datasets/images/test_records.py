"""Shards: the one that is missing is named, and records are counted without being read."""

import pytest

from sparsity_tf.datasets.images import records

pytestmark = pytest.mark.tensorflow


def write(path, lengths):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for length in lengths:
            writer.write(bytes(range(length)))


def test_records_are_counted_and_the_first_is_read(tmp_path):
    write(tmp_path / "a", [5, 0, 200])
    assert records.count_records(tmp_path / "a") == 3
    assert records.first_record(tmp_path / "a") == bytes(range(5))


def test_checksum_is_crc32c():
    # The check value of CRC-32C is e3069283 for these nine characters; TFRecord rotates it and adds a constant.
    crc = 0xE3069283
    assert records.masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: b"", "is empty"),
        (lambda c: c[:7], "truncated"),
        (lambda c: c[:14], "record 0 .* needs"),
        (lambda c: c[:-1], "record 1 .* needs"),
        (lambda c: c[:25], "truncated: it ends within the header of record 1"),
        (lambda c: b"\xff\xd8" + c[2:], "no TFRecord file: wrong checksum of the length of record 0"),
    ],
)
def test_damaged_file_is_named_with_its_damage(tmp_path, damage, message):
    path = tmp_path / "train-00000-of-00001"
    write(path, [5, 9])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        records.count_records(path)
    assert str(path) in str(error.value)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_shards_come_in_order_and_other_files_are_left_alone(tmp_path):
    touch(tmp_path, *(f"train-{k:05d}-of-00003" for k in (2, 0, 1)), "train-00001-of-00003.tmp", "validation-0-of-1")
    found = records.find_shards(tmp_path, "train")
    assert [path[-14:] for path in found] == ["00000-of-00003", "00001-of-00003", "00002-of-00003"]
    assert records.find_shards(tmp_path, "test") == []


@pytest.mark.parametrize("read", [records.count_records, records.first_record])
def test_a_folder_in_place_of_a_shard_is_named(tmp_path, read):
    (tmp_path / "train-00000-of-00001").mkdir()
    with pytest.raises(OSError, match="train-00000-of-00001"):
        read(str(tmp_path / "train-00000-of-00001"))


def test_missing_shards_are_named(tmp_path):
    touch(tmp_path, "train-00000-of-00006", "train-00003-of-00006")
    with pytest.raises(ValueError, match=r"train-00001-of-00006 is missing: 2 of 6 shards.*00002.*00004.*\.\.\."):
        records.find_shards(tmp_path, "train")


def test_shards_of_two_sets_are_refused(tmp_path):
    touch(tmp_path, "train-00000-of-00002", "train-00001-of-00002", "train-00000-of-00001")
    with pytest.raises(ValueError, match="several sets: train-00000-of-00001, train-00001-of-00002"):
        records.find_shards(tmp_path, "train")


def test_shard_numbered_beyond_the_total_is_refused(tmp_path):
    touch(tmp_path, "train-00000-of-00002", "train-00001-of-00002", "train-00002-of-00002")
    with pytest.raises(ValueError, match="train-00002-of-00002 has a number that is too high"):
        records.find_shards(tmp_path, "train")
