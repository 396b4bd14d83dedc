"""CIFAR from each form of its files, and pickles that want to do more than hold arrays."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.images import cifar, image_data

CLASSES = {"cifar10": 10, "cifar100": 100}
FILES = {
    "cifar10": ([f"data_batch_{k}" for k in range(1, 6)], ["test_batch"]),
    "cifar100": (["train"], ["test"]),
}


def make_arrays(name):
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        "y_train": random.integers(0, CLASSES[name], 20).astype(np.uint8),
        "x_test": random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
        "y_test": random.integers(0, CLASSES[name], 6).astype(np.uint8),
    }


def parts(name, arrays):
    """(file name, images as rows of planes, labels) of each file of the original layout."""
    for part, files in zip(("train", "test"), FILES[name], strict=True):
        rows = arrays[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        yield from zip(files, np.split(rows, len(files)), np.split(arrays[f"y_{part}"], len(files)), strict=True)


def write_binary(folder, name, arrays):
    folder.mkdir(exist_ok=True)
    for file, rows, labels in parts(name, arrays):
        columns = [labels[:, None], rows] if name == "cifar10" else [labels[:, None] // 5, labels[:, None], rows]
        (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).astype(np.uint8).tobytes())


def write_pickles(folder, name, arrays, protocol=2):
    folder.mkdir(exist_ok=True)
    for file, rows, labels in parts(name, arrays):
        key = b"labels" if name == "cifar10" else b"fine_labels"
        batch = {b"data": rows, key: labels.tolist(), b"filenames": [b"a.png"] * len(labels), b"batch_label": b"one"}
        if name == "cifar100":
            batch[b"coarse_labels"] = (labels // 5).tolist()
        (folder / file).write_bytes(pickle.dumps(batch, protocol))


def write_npz(folder, name, arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)


WRITERS = {"binary": write_binary, "pickles": write_pickles, "npz": write_npz}


def assert_is(data, arrays):
    for part, array in arrays.items():
        loaded = getattr(data, part)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", CLASSES)
def test_images_and_fine_labels_come_back_as_written(tmp_path, name, form):
    arrays = make_arrays(name)
    WRITERS[form](tmp_path, name, arrays)
    data = getattr(datasets, name)(tmp_path)
    assert_is(data, arrays)
    assert data.num_classes == CLASSES[name] and data.name == name and str(tmp_path) in data.source
    assert data.image_shape == (32, 32, 3)


@pytest.mark.parametrize(("form", "folder"), [("binary", "cifar-10-batches-bin"), ("pickles", "cifar-10-batches-py")])
def test_folders_of_the_published_archives_are_found(tmp_path, form, folder):
    arrays = make_arrays("cifar10")
    WRITERS[form](tmp_path / folder, "cifar10", arrays)
    assert_is(datasets.cifar10(str(tmp_path)), arrays)


def test_npz_may_be_channels_first_with_wide_labels_in_a_column(tmp_path):
    arrays = make_arrays("cifar10")
    np.savez(
        tmp_path / "any.npz",
        x_train=arrays["x_train"].transpose(0, 3, 1, 2),
        y_train=arrays["y_train"][:, None],
        x_test=arrays["x_test"],
        y_test=arrays["y_test"].astype(np.int64),
    )
    assert_is(datasets.cifar10(tmp_path), arrays)
    assert_is(datasets.cifar10(tmp_path / "any.npz"), arrays)


def test_pickles_of_every_protocol_are_read(tmp_path):
    arrays = make_arrays("cifar10")
    for protocol in (0, 2, 4, 5):
        write_pickles(tmp_path, "cifar10", arrays, protocol)
        assert_is(datasets.cifar10(tmp_path), arrays)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("labels", [lambda labels: labels, lambda labels: [np.int64(label) for label in labels]])
def test_labels_in_a_pickle_may_be_numpys_numbers(tmp_path, protocol, labels):
    numbers = np.arange(7)
    pixels = np.arange(7 * 3072).reshape(7, 3072).astype(np.uint8)
    batch = {b"data": np.asfortranarray(pixels), b"labels": labels(numbers)}
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol))
    images, found = cifar.read_pickled_batch(tmp_path / "batch")
    np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(7, 3072), pixels)
    np.testing.assert_array_equal(found, numbers)
    found[0] = 3  # Not the pickle's own memory, which can't be written to.


class Harm:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("touch harm",)),
        (eval, ("open('harm', 'w')",)),
        (np.load, ("harm",)),
        (getattr, ("", "join")),
        (np.fromfile, ("harm",)),
    ],
)
def test_pickle_that_calls_anything_is_refused_and_does_nothing(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    write_pickles(tmp_path, "cifar10", make_arrays("cifar10"))
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Harm(call)}, 2))
    with pytest.raises(ValueError, match="data_batch_3 is not a readable pickle.*asks for"):
        datasets.cifar10(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (b"\x80\x02}q\x00(U\x04data", "not a readable pickle"),
        (pickle.dumps([1, 2]), "must hold a dict"),
        (pickle.dumps({b"labels": [1]}), "must have the key 'data'"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}), "must have the key 'labels'"),
        (pickle.dumps({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}), "shape"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}), "uint8"),
        (pickle.dumps({b"data": "text", b"labels": [1]}), "uint8"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}), "must be integers"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "one label"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "from 0 to 9"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}), "from 0 to 9"),
    ],
)
def test_unusable_pickle_is_named_with_its_fault(tmp_path, content, message):
    write_pickles(tmp_path, "cifar10", make_arrays("cifar10"))
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        datasets.cifar10(tmp_path)
    assert str(tmp_path / "data_batch_2") in str(error.value)


def _nested(depth):
    value = [1] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


class _Promise:
    """An array of a shape that the file promises without holding its entries."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": _nested(7)},
        {b"data": _Promise(np.ndarray, ((200_000_000, 3072), "u1")), b"labels": [1]},
        {b"data": _Promise(np.empty(0).__reduce__()[0], (np.ndarray, (200_000_000, 3072), "u1")), b"labels": [1]},
        {b"data": _Promise(np.empty(0).__reduce_ex__(5)[0], (b"", "u1", (200_000_000, 3072), "C")), b"labels": [1]},
        {b"data": _Promise(np.int64(1).__reduce__()[0], (np.dtype(object), bytes(8))), b"labels": [1]},
    ],
)
def test_a_pickle_takes_no_more_memory_than_it_holds(tmp_path, batch):
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, 2))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{tmp_path / 'batch'}"):
        cifar.read_pickled_batch(tmp_path / "batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: b"\xff" + c[1:]])
def test_unusable_binary_batch_is_named(tmp_path, damage):
    write_binary(tmp_path, "cifar10", make_arrays("cifar10"))
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError) as error:
        datasets.cifar10(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("form", ["binary", "pickles"])
def test_missing_batch_is_named(tmp_path, form):
    WRITERS[form](tmp_path, "cifar10", make_arrays("cifar10"))
    gone = next(path for path in tmp_path.iterdir() if path.name.startswith("data_batch_5"))
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"{gone.name} is missing, although 5 of the 6"):
        datasets.cifar10(tmp_path)


def test_missing_folder_and_folder_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        datasets.cifar10(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither the batches of cifar100"):
        datasets.cifar100(tmp_path)


def test_npz_of_other_images_is_refused(tmp_path):
    arrays = make_arrays("cifar10")
    arrays["x_test"] = arrays["x_test"][..., 0]
    write_npz(tmp_path, "cifar10", arrays)
    with pytest.raises(ValueError, match=r"\(n, 32, 32, 3\)"):
        datasets.cifar10(tmp_path)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for variable in ("TFDS_DATA_DIR", "KERAS_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))
    monkeypatch.setattr(image_data, "from_keras", lambda name: None)
    return tmp_path / "empty" / "datasets"


def test_keras_cache_is_used_and_a_broken_one_passed_over(offline):
    arrays = make_arrays("cifar10")
    offline.mkdir(parents=True)
    write_pickles(offline / "cifar-10-batches-py", "cifar10", arrays)
    assert_is(datasets.cifar10(), arrays)
    (offline / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="give `data_dir`"):
        datasets.cifar10()


def test_download_has_labels_in_a_column(offline, monkeypatch):
    arrays = make_arrays("cifar100")
    columns = {part: array[:, None] if part[0] == "y" else array for part, array in arrays.items()}
    monkeypatch.setattr(image_data, "from_keras", lambda name: columns)
    assert_is(datasets.cifar100(), arrays)


def test_old_and_new_names_of_numpys_core_are_the_same_function():
    unpickler = cifar._ArrayUnpickler(open(os.devnull, "rb"))
    names = ("numpy.core.multiarray", "numpy._core.multiarray")
    functions = {unpickler.find_class(module, "_reconstruct") for module in names}
    assert len(functions) == 1
