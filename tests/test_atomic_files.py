"""Files and folders appear whole, or not at all."""

import pytest

from sparsity_tf.atomic_files import appearing


def test_a_file_appears_when_it_is_complete(tmp_path):
    with appearing(tmp_path / "a.txt") as unfinished:
        assert unfinished.endswith("a.txt")
        with open(unfinished, "w") as file:
            file.write("all")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "all"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(RuntimeError), appearing(tmp_path / "a.txt") as unfinished:
        with open(unfinished, "w") as file:
            file.write("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_speaks_against_replacing_is_asked_last(tmp_path):
    def refuse():
        assert not (tmp_path / "a.txt").exists()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), appearing(tmp_path / "a.txt", refuse) as unfinished:
        open(unfinished, "w").close()
    assert list(tmp_path.iterdir()) == []


def write_folder(path, name):
    import os

    with appearing(path) as unfinished:
        os.makedirs(os.path.join(unfinished, "inner"))
        with open(os.path.join(unfinished, "inner", name), "w") as file:
            file.write(name)


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    write_folder(tmp_path / "model", "one")
    write_folder(tmp_path / "model", "two")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "model",
        "model/inner",
        "model/inner/two",
    ]


def test_a_folder_never_takes_the_place_of_a_file_nor_the_reverse(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        write_folder(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "mine"
    write_folder(tmp_path / "folder", "x")
    with pytest.raises(OSError), appearing(tmp_path / "folder") as unfinished:
        open(unfinished, "w").close()
    assert (tmp_path / "folder" / "inner" / "x").exists()
