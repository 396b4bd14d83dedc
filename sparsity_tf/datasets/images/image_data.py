"""`ImageData`: labelled images as arrays in memory, and the places from which all such data sets are read.

Two ideas live here. The first: an `ImageData` has been checked as a whole, so that later code need not check it again.
The second: it is read from an `.npz` file, from TFDS or through `keras.datasets`. Every failure becomes a `ValueError`
that names the file, or `None` if other places are left to try.
"""

import contextlib
import dataclasses
import io
import os
import socket
import warnings

import numpy as np

from sparsity_tf.extras import MissingPackageError, import_optional

PARTS = ("x_train", "y_train", "x_test", "y_test")
_DOWNLOAD_TIMEOUT = 5.0  # seconds without an answer after which a download is given up


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set of labelled images, whole in memory.

    Attributes:
        x_train: uint8 array `(n_train, height, width)` or `(n_train, height, width, 3)`, values 0..255.
        y_train: uint8 array `(n_train,)`, values 0..num_classes - 1.
        x_test: uint8 array, as `x_train` with `n_test` images.
        y_test: uint8 array `(n_test,)`.
        num_classes: Number of classes.
        name: Name of the data set, e.g. `"mnist"`.
        source: A sentence that says where the arrays came from.

    Example:

    >>> data = ImageData(np.zeros((8, 28, 28), "uint8"), np.zeros(8, "uint8"), np.zeros((4, 28, 28), "uint8"),
    ...                  np.zeros(4, "uint8"), 10, "blank", "made here")
    >>> data.image_shape
    (28, 28, 1)
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of the images that a network sees."""
        shape = self.x_train.shape[1:]
        return shape if len(shape) == 3 else (*shape, 1)


def checked(arrays, name, source, origin, num_classes=10, image_shape=(28, 28)):
    """Makes an `ImageData`, or raises an error that says what is wrong with `arrays`; `origin` names file or folder."""
    parts = {}
    accepted = [tuple(image_shape)]
    if len(image_shape) == 2:
        accepted += [(*image_shape, 1), (int(np.prod(image_shape)),)]
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        x, y = np.asarray(arrays[images]), np.asarray(arrays[labels])
        if x.shape[1:] not in accepted:
            raise ValueError(
                f"`{images}` in {origin} must have shape (n, {', '.join(map(str, image_shape))}). "
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


def tfds_root():
    """The folder where TFDS keeps its data sets."""
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets")))


def from_tfds(name):
    """The four arrays of a data set that TFDS has already prepared on this disk, or `None`."""
    root = tfds_root()
    if not os.path.isdir(os.path.join(root, name)):
        return None
    try:
        import_optional("tensorflow")  # tfds reads its files with it
        tfds = import_optional("tensorflow_datasets")
        splits = tfds.load(name, data_dir=root, download=False, batch_size=-1, as_supervised=True)
    except MissingPackageError as error:
        warnings.warn(f"{os.path.join(root, name)} is not read. {error}", stacklevel=2)
        return None
    except Exception:  # a half-prepared folder may raise many kinds of errors; then the next place is tried
        return None
    train, test = (tfds.as_numpy(splits[split]) for split in ("train", "test"))
    return dict(zip(PARTS, (*train, *test), strict=True))


def keras_cache():
    """The folder where Keras keeps its downloads."""
    return os.path.join(os.path.expanduser(os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))), "datasets")


def from_keras(name):
    """Downloads the four arrays through `keras.datasets`; returns `None` within seconds if there is no network."""
    import keras

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train, test = getattr(keras.datasets, name).load_data()
    except Exception:  # Keras raises bare Exception for every network failure
        return None
    finally:
        socket.setdefaulttimeout(timeout)
    return dict(zip(PARTS, (*train, *test), strict=True))
