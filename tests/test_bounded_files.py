"""No file makes a reader take more memory than its size justifies, and what is damaged is named."""

import bz2
import gzip
import lzma
import tracemalloc
import zipfile

import numpy as np
import pytest

from sparsity_tf import bounded_files

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def peak_of(call):
    """The most memory, in bytes, that Python's allocators held during a call that raises a ValueError; its message."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            call()
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


def test_a_file_may_unpack_to_64_mib_or_to_200_times_its_size(tmp_path):
    for size, most in ((10, 64 << 20), (1 << 20, 200 << 20)):
        path = tmp_path / str(size)
        path.write_bytes(bytes(size))
        assert bounded_files.most_unpacked(path) == most


@pytest.mark.parametrize("packing", list(PACK))
def test_what_was_packed_is_read(tmp_path, packing):
    content = b"some text\n" * 300_000
    path = tmp_path / "file"
    path.write_bytes(PACK[packing](content))
    with bounded_files.open_unpacked(path, packing) as file:
        assert file.readline() == b"some text\n"
        assert b"some text\n" + file.read() == content


@pytest.mark.parametrize("packing", list(PACK))
def test_a_file_that_unpacks_to_too_much_is_refused_before_it_fills_the_memory(tmp_path, packing, monkeypatch):
    monkeypatch.setattr(bounded_files, "_ALWAYS_ALLOWED", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(PACK[packing](bytes(40 << 20)))

    def read():
        with bounded_files.open_unpacked(path, packing) as file:
            file.read()

    peak, message = peak_of(read)
    assert f"{path} has" in message and "would unpack to" in message
    # xz keeps a dictionary of 8 MiB.
    assert peak < 16 << 20


@pytest.mark.parametrize("packing", list(PACK))
@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"x" + c, lambda c: c[:30] + bytes(40) + c[70:]])
def test_a_damaged_file_is_named(tmp_path, packing, damage):
    path = tmp_path / "file"
    content = np.random.default_rng(0).bytes(1000)
    path.write_bytes(damage(PACK[packing](content)))
    with pytest.raises(ValueError, match=f"{path} is damaged: "), bounded_files.open_unpacked(path, packing) as file:
        file.read()


def test_memory_is_taken_as_bytes_arrive():
    class Endless:
        def read(self, size):
            assert size <= 1 << 20
            return b"" if self.__dict__.setdefault("read_once", []) else self.read_once.append(1) or b"few"

    assert bounded_files.read_at_most(Endless(), 1 << 60) == b"few"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        bounded_files.read_json(path)


def write_npz(path, shape=(4, 5), described="|u1", size=20):
    """An `.npz` whose one array's header may lie."""
    header = f"{{'descr': '{described}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(size)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)


def test_arrays_come_back(tmp_path):
    write_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(bounded_files.read_npz(tmp_path / "a.npz", ["x"])["x"], np.zeros((4, 5)))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"shape": (1 << 40, 5)}, r"`x` in .*a.npz is damaged: shape \(1099511627776, 5\) of uint8 needs"),
        ({"described": "|O"}, r"`x` in .*a.npz holds Python objects, which are not read: it must hold numbers"),
        ({"shape": (80 << 20,), "size": 80 << 20}, "a.npz has .* bytes and would unpack to"),
        ({"described": "nonsense"}, "a.npz is not a readable .npz file"),
    ],
)
def test_an_npz_that_lies_is_refused_before_it_fills_the_memory(tmp_path, lie, message):
    path = tmp_path / "a.npz"
    write_npz(path, **lie)
    peak, said = peak_of(lambda: bounded_files.read_npz(path, ["x"]))
    assert peak < 2 << 20
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)


def test_a_message_is_one_line_of_bounded_length_that_is_never_empty():
    assert bounded_files.one_line(ValueError("a\n  b\t c")) == "a b c"
    assert bounded_files.one_line(KeyError("layers")) == "KeyError: 'layers'"
    assert bounded_files.one_line(ValueError()) == "ValueError"
    long = bounded_files.one_line(ValueError("word " * 10_000))
    assert len(long) == 500 and long.endswith("...")


def figures(path, content):
    path.write_bytes(content)
    return bounded_files.read_figures(path, integers=("epoch",), texts=("weight",), needed=("loss",))


def test_figures_are_read_as_they_stand_but_for_a_last_line_that_was_cut_off(tmp_path):
    content = b"epoch,weight,loss,threshold\r\n1,a/kernel,0.50,\r\n2,a/kernel,nan,1e-3\r\n3,a/kernel,0."
    header, rows = figures(tmp_path / "log.csv", content)
    assert header == ["epoch", "weight", "loss", "threshold"]
    assert rows == [
        {"epoch": "1", "weight": "a/kernel", "loss": "0.50", "threshold": ""},
        {"epoch": "2", "weight": "a/kernel", "loss": "nan", "threshold": "1e-3"},
    ]
    assert figures(tmp_path / "log.csv", b"loss,epoch,weight\n") == (["loss", "epoch", "weight"], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no header line"),
        (b"epoch,weight,lo", "it has no header line"),
        (b"epoch,weight\n1,a\n", "it lacks the columns loss"),
        (b"epoch,weight,loss,loss\n", "two of its columns have the same name"),
        (b"epoch,weight,loss\n1,a,1\n2,a\n", "line 3 has 2 cells for 3 columns"),
        (b"epoch,weight,loss\n1,a,1,2,a,1\n", "line 2 has 6 cells for 3 columns"),
        (b"epoch,weight,loss\n1,a,low\n", "line 2: loss must be a number, not 'low'"),
        (b"epoch,weight,loss\n1,a,\n", "line 2: loss must be a number, not ''"),
        (b"epoch,weight,loss,more\n1,a,1,\0\n", r"line 2: more must be a number, not '\x00'"),
        (b"epoch,weight,loss\n1.0,a,1\n", "line 2: epoch must be an integer of at least 0, not '1.0'"),
        (b"epoch,weight,loss\n-1,a,1\n", "line 2: epoch must be an integer of at least 0, not '-1'"),
        (b"epoch,weight,loss\n" + b"9" * 5000 + b",a,1\n", "line 2: epoch must be an integer of at least 0, not '999"),
        (b"epoch,weight,loss\n1,,1\n", "line 2: weight must be a text, not ''"),
        (b"epoch,weight,loss\n\xff,a,1\n", "'utf-8' codec can't decode byte 0xff"),
        (b"epoch,weight,loss\n1," + b"a" * 200_000 + b",1\n", "line 2: field larger than field limit"),
    ],
)
def test_figures_that_are_damaged_name_file_and_line(tmp_path, content, message):
    with pytest.raises(bounded_files.DamagedFileError) as error:
        figures(tmp_path / "log.csv", content)
    assert str(error.value).startswith(f"{tmp_path / 'log.csv'} is damaged: ")
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400
