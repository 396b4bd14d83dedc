"""CIFAR-10 and CIFAR-100 as arrays in memory, read from every form in which they are published.

Two ideas live here. The first is the three layouts of the files: binary batches and Python pickles (A. Krizhevsky,
"Learning Multiple Layers of Features from Tiny Images", 2009), and one `.npz`. The second is reading a pickle without
running code that it names: the unpickler knows only the few names that an array needs, and refuses every other name.
Labels of CIFAR-100 are always the 100 fine ones.
"""

import contextlib
import io
import os
import pickle

import numpy as np

from sparsity_tf.bounded_files import one_line, read_npz
from sparsity_tf.checks import check_path
from sparsity_tf.datasets.images import image_data
from sparsity_tf.datasets.images.image_data import ImageData, checked
from sparsity_tf.type_names import PathLike

_PIXELS = 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))

# For each data set: number of classes, files of the training and the test part (without `.bin`), label bytes in a
# binary record (the last of them is the label that is used), key of the labels in a pickle, folders in the archives.
_LAYOUTS = {
    "cifar10": (10, _TRAIN, ("test_batch",), 1, "labels", ("cifar-10-batches-bin", "cifar-10-batches-py")),
    "cifar100": (100, ("train",), ("test",), 2, "fine_labels", ("cifar-100-binary", "cifar-100-python")),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, strings, numbers and numpy arrays. It refuses any other object before making it."""

    _ALLOWED = {
        # The published batches use numpy 1's module name; numpy 2 calls the module `_core`.
        ("numpy.core.multiarray", "_reconstruct"): "_empty_array",
        ("numpy._core.multiarray", "_reconstruct"): "_empty_array",
        ("numpy.core.multiarray", "scalar"): "_scalar",
        ("numpy._core.multiarray", "scalar"): "_scalar",
        # Pickle protocol 5, the default of Python 3.14, writes arrays with this function.
        ("numpy.core.numeric", "_frombuffer"): "_array_from_buffer",
        ("numpy._core.numeric", "_frombuffer"): "_array_from_buffer",
        ("numpy", "ndarray"): "_Array",
        ("numpy", "dtype"): "dtype",
        # In the old protocols Python 3 writes bytes with this function.
        ("_codecs", "encode"): "_encode_latin1",
    }

    def find_class(self, module, name):
        found = self._ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which an image batch has no use for")
        return np.dtype if found == "dtype" else globals()[found]


class _Array:
    """Replaces `numpy.ndarray` in a pickle. A sound pickle only names the class; a call could ask for any size."""

    def __new__(cls, *args, **kwargs):
        raise pickle.UnpicklingError("it makes an array without its content")


def _empty_array(cls, shape, kind):
    """Replaces numpy's `_reconstruct`, with which every pickled array begins; the content follows later."""
    if cls is not _Array or shape != (0,):
        raise pickle.UnpicklingError("it makes an array without its content")
    return np.empty(0, np.uint8)


def _array_from_buffer(content, kind, shape, order, axes=None):
    """Makes an array from pickle protocol 5. It is a view of bytes in the file, so it is not larger than the file."""
    array = np.frombuffer(content, kind)
    return array.reshape(shape, order=order) if axes is None else array.reshape(shape).transpose(axes)


def _scalar(kind, content):
    """Makes a numpy number; the labels in a pickle may be numpy numbers."""
    if not isinstance(kind, np.dtype) or kind.kind not in "biuf":
        raise pickle.UnpicklingError(f"it makes a scalar of type {kind}")
    return np.frombuffer(content, kind, count=1)[0]


def _encode_latin1(text, encoding="latin1"):
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes a string as {encoding!r}, and not as latin1")
    return text.encode("latin1")


def _from_planes(pixels):
    """Images `(n, 32, 32, 3)` from rows of 3,072 bytes: the red plane, then green, then blue."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def read_binary_batch(path, label_bytes=1):
    """Reads a binary batch. A record has `label_bytes` bytes, the last of which is the label, and 3,072 pixel bytes.

    Args:
        path: Path of the file.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100 (coarse label, fine label).

    Returns:
        `(images, labels)`: uint8 `(n, 32, 32, 3)` and `(n,)`.

    Raises:
        ValueError: The file is empty, or its length is not a whole number of records.
    """
    content = np.fromfile(path, np.uint8)
    size = label_bytes + _PIXELS
    if not len(content) or len(content) % size:
        raise ValueError(
            f"{path} is truncated or no CIFAR batch: its length must be a positive multiple of {size} bytes. "
            f"Received: {len(content)} bytes"
        )
    records = content.reshape(-1, size)
    return _from_planes(records[:, label_bytes:]), records[:, label_bytes - 1].copy()


def read_pickled_batch(path, label_key="labels"):
    """Reads a batch of the Python version without running any code that the file names.

    Args:
        path: Path of the file.
        label_key: Key of the labels: `"labels"`, or `"fine_labels"` for CIFAR-100.

    Returns:
        `(images, labels)`: uint8 `(n, 32, 32, 3)` and int64 `(n,)`.

    Raises:
        ValueError: The file is no pickle, is truncated, names objects other than numpy arrays, or lacks data or labels.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise KeyError, EOFError, ValueError and many others
        raise ValueError(f"{path} is not a readable pickle of a CIFAR batch ({one_line(error)}).") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path} must hold a dict. Received: {type(batch).__name__}")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    for key in ("data", label_key):
        if key not in batch:
            names = [str(name)[:50] for name in list(batch)[:20] if isinstance(name, str | int)]
            raise ValueError(f"{path} must have the key {key!r}. Received: {', '.join(names)}")
    pixels, labels = batch["data"], batch[label_key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise ValueError(
            f"`data` in {path} must be a uint8 array of shape (n, {_PIXELS}). "
            f"Received: {getattr(pixels, 'dtype', type(pixels).__name__)} of shape {np.shape(pixels)}"
        )
    # Nested lists are refused: a pickle can repeat one list many times, and the array of it would fill the memory.
    flat = labels.dtype.kind in "iu" if isinstance(labels, np.ndarray) else isinstance(labels, list)
    if not flat or not all(isinstance(label, int | np.integer) for label in labels):
        raise ValueError(f"`{label_key}` in {path} must be integers, one for each image.")
    try:
        return _from_planes(pixels), np.array(labels, np.int64)
    except OverflowError as error:
        raise ValueError(f"`{label_key}` in {path} must be integers, one for each image ({error}).") from error


def _batch_files(folder, name):
    """The files of the training and the test part in `folder`, and their reader; `None` if it has no such file."""
    _, train, test, label_bytes, label_key, _ = _LAYOUTS[name]
    for suffix, read in (
        (".bin", lambda path: read_binary_batch(path, label_bytes)),
        ("", lambda path: read_pickled_batch(path, label_key)),
    ):
        paths = [[os.path.join(folder, file + suffix) for file in files] for files in (train, test)]
        every = [*paths[0], *paths[1]]
        missing = [path for path in every if not os.path.isfile(path)]
        # CIFAR-100's files are named `train` and `test`, and many other data sets have folders with these names.
        if missing and len(missing) < len(every):
            raise FileNotFoundError(
                f"{missing[0]} is missing, although {len(every) - len(missing)} of the {len(every)} files of {name} "
                "are there."
            )
        if not missing:
            return paths, read
    return None


def _from_batches(folder, name):
    found = _batch_files(folder, name)
    if found is None:
        return None
    paths, read = found
    arrays = {}
    for part, files in zip(("train", "test"), paths, strict=True):
        images, labels = zip(*(read(path) for path in files), strict=True)
        for path, one, label in zip(files, images, labels, strict=True):
            if label.shape != (len(one),) or label.min(initial=0) < 0 or label.max(initial=0) >= _LAYOUTS[name][0]:
                raise ValueError(
                    f"{path} must hold one label from 0 to {_LAYOUTS[name][0] - 1} for each of its {len(one)} images. "
                    f"Received: {label.size} labels from {label.min(initial=0)} to {label.max(initial=0)}"
                )
        arrays[f"x_{part}"], arrays[f"y_{part}"] = np.concatenate(images), np.concatenate(labels)
    return _checked(arrays, name, f"the batches in {folder}", folder)


def _from_npz(path, name):
    return _checked(read_npz(path, image_data.PARTS), name, path, path)


def _checked(arrays, name, place, origin):
    arrays = dict(arrays)
    for part in ("x_train", "x_test"):
        if arrays[part].shape[1:] == (3, 32, 32):
            arrays[part] = arrays[part].transpose(0, 2, 3, 1)
    for part in ("y_train", "y_test"):
        if arrays[part].ndim == 2 and arrays[part].shape[1] == 1:  # `keras.datasets` gives labels as one column
            arrays[part] = arrays[part][:, 0]
    return checked(arrays, name, f"{name} from {place}.", origin, _LAYOUTS[name][0], (32, 32, 3))


def _from_data_dir(data_dir, name):
    check_path("data_dir", data_dir)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    if os.path.isfile(data_dir):
        return _from_npz(data_dir, name)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` does not exist. Received: data_dir={data_dir}")
    below = (name, *_LAYOUTS[name][-1])
    python = _LAYOUTS[name][-1][-1]
    for folder in (data_dir, *(os.path.join(data_dir, sub) for sub in (*below, f"{python}-target/{python}"))):
        data = _from_batches(folder, name) if os.path.isdir(folder) else None
        if data is not None:
            return data
        path = os.path.join(folder, f"{name}.npz")
        if os.path.isfile(path):
            return _from_npz(path, name)
    archives = sorted(file for file in os.listdir(data_dir) if file.endswith(".npz"))
    if len(archives) == 1:
        return _from_npz(os.path.join(data_dir, archives[0]), name)
    first = _LAYOUTS[name][1][0]
    raise FileNotFoundError(
        f"{data_dir} holds neither the batches of {name} ({first}.bin, ... or the pickles {first}, ...; also in a "
        f"sub-folder {', '.join(_LAYOUTS[name][-1])}) nor {name}.npz."
    )


def _load(name, data_dir):
    if data_dir is not None:
        return _from_data_dir(data_dir, name)
    arrays = image_data.from_tfds(name)
    if arrays is not None:
        return _checked(arrays, name, f"TFDS in {image_data.tfds_root()}", image_data.tfds_root())
    if os.path.isdir(image_data.keras_cache()):
        # An interrupted download may have left a broken file here; then the next place is tried.
        with contextlib.suppress(ValueError, FileNotFoundError):
            return _from_data_dir(image_data.keras_cache(), name)
    arrays = image_data.from_keras(name)
    if arrays is None:
        raise FileNotFoundError(
            f"{name} is not on this disk (TFDS, Keras cache) and cannot be downloaded: give `data_dir`, a folder with "
            f"the binary or Python batches or {name}.npz."
        )
    return _checked(arrays, name, "keras.datasets (downloaded)", "keras.datasets")


def cifar10(data_dir: PathLike | None = None) -> ImageData:
    """CIFAR-10, 50,000 + 10,000 colour images of 10 classes (Krizhevsky, 2009).

    Args:
        data_dir: A folder, or the path of an `.npz` file with `x_train y_train x_test y_test`. The folder, or a
            sub-folder `cifar10`, `cifar-10-batches-bin` or `cifar-10-batches-py` of it, holds the binary batches
            `data_batch_1.bin` ... `test_batch.bin`, the Python batches `data_batch_1` ... `test_batch`, or
            `cifar10.npz`; or the folder holds exactly one `.npz`. Defaults to `None`: the TFDS and Keras caches on
            this disk, then a download that gives up after 5 seconds without an answer.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 32, 32, 3)`.

    Raises:
        FileNotFoundError: `data_dir` or a file in it is missing; or `data_dir` is `None`, and the data set is not on
            this disk and cannot be downloaded.
        ValueError: A file is corrupt, truncated or of the wrong kind, a pickle names objects other than arrays, or
            labels are out of range. The message names the file or folder.

    Example:
        >>> data = cifar10("/data/cifar-10-batches-bin")  # needs the files
        >>> data.x_train.shape
        (50000, 32, 32, 3)
    """
    return _load("cifar10", data_dir)


def cifar100(data_dir: PathLike | None = None) -> ImageData:
    """CIFAR-100, 50,000 + 10,000 colour images, with its 100 fine labels (Krizhevsky, 2009).

    Args:
        data_dir: As for `cifar10`, with `train.bin` and `test.bin`, or the Python files `train` and `test`, or
            `cifar100.npz`, and sub-folders `cifar100`, `cifar-100-binary`, `cifar-100-python`.

    Returns:
        An `ImageData`, as `cifar10` with 100 classes.

    Raises:
        FileNotFoundError: As for `cifar10`.
        ValueError: As for `cifar10`.

    Example:

    >>> data = cifar100("/data/cifar-100-binary")  # needs the files
    >>> data.num_classes
    100
    """
    return _load("cifar100", data_dir)
