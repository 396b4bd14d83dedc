"""Reading IDX files: what is read is what was written, and broken files say which file and why."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from sparsity_tf.datasets.images import idx


def write_idx(path, array, compress=False):
    """Writes a uint8 array the way the MNIST files are written."""
    content = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    content += struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("compress", [False, True])
def test_array_comes_back_as_written(tmp_path, images, compress):
    write_idx(tmp_path / "images", images, compress)
    array = idx.read_idx(tmp_path / "images")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, images)


def test_big_endian_types_arrive_in_native_order(tmp_path):
    values = np.array([[1, -2, 300000]], ">i4")
    header = struct.pack(">BBBBII", 0, 0, 0x0C, 2, 1, 3)
    (tmp_path / "ints").write_bytes(header + values.tobytes())
    array = idx.read_idx(tmp_path / "ints")
    assert array.dtype == np.int32 and array.tolist() == [[1, -2, 300000]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0", "after its last element"),
        (lambda content: content[:9], "truncated"),
        (lambda content: b"\0\0\x07" + content[3:], "not an IDX file"),
        (lambda content: b"\x89PNG" + content[4:], "not an IDX file"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: gzip.compress(content)[:-20], "gzip stream"),
        (lambda content: b"\x1f\x8b" + content, "gzip stream"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "truncated"),
    ],
)
def test_damaged_file_is_named_with_its_damage(tmp_path, images, damage, message):
    path = tmp_path / "some-images"
    write_idx(path, images)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        idx.read_idx(path)
    assert str(path) in str(error.value)


def test_no_more_is_unpacked_than_the_header_promises(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 100) + bytes(20 << 20)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{path} has bytes after its last element"):
        idx.read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_more_dimensions_than_arrays_have_are_refused(tmp_path):
    (tmp_path / "many").write_bytes(bytes((0, 0, 8, 200)) + struct.pack(">200I", *[1] * 200) + b"\0")
    with pytest.raises(ValueError, match="many .*200 dimensions"):
        idx.read_idx(tmp_path / "many")


def test_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        idx.read_idx(tmp_path / "nothing-here")


@pytest.mark.parametrize("spelling", ["{}-idx{}-ubyte", "{}.idx{}-ubyte", "{}-idx{}-ubyte.gz"])
def test_four_files_are_found_in_each_spelling(tmp_path, images, spelling):
    for stem, ndim in (
        ("train-images", 3),
        ("train-labels", 1),
        ("t10k-images", 3),
        ("t10k-labels", 1),
    ):
        (tmp_path / spelling.format(stem, ndim)).touch()
    assert set(idx.find_idx_files(tmp_path)) == {"x_train", "y_train", "x_test", "y_test"}


def test_folder_without_idx_files_gives_nothing(tmp_path):
    assert idx.find_idx_files(tmp_path) == {}


def test_one_missing_file_of_four_is_named(tmp_path, images):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        write_idx(tmp_path / name, images)
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        idx.find_idx_files(tmp_path)
