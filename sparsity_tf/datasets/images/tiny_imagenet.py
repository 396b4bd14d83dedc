"""TinyImageNet as arrays in memory, from the two HDF5 files that STR's program reads.

Source: STR (Kusupati et al., ICML 2020, arXiv 2002.03231), whose program has the option `--set TinyImageNet`. The files
`train.h5` and `val.h5` hold two data sets each. In the order of their names, the first has the images and the second
has the labels. There are 100,000 + 10,000 colour images of 64 x 64 pixels in 200 classes.
"""

import os

import h5py
import numpy as np

from sparsity_tf.bounded_files import check_unpacked, one_line
from sparsity_tf.checks import check_path
from sparsity_tf.datasets.images.image_data import ImageData, checked
from sparsity_tf.type_names import PathLike

_CLASSES, _SIDE = 200, 64
_FILES = {"train": "train.h5", "test": "val.h5"}


def tiny_imagenet(data_dir: PathLike | None = None) -> ImageData:
    """TinyImageNet, 100,000 + 10,000 colour images of 200 classes.

    Args:
        data_dir: Folder that holds `train.h5` and `val.h5`, or whose sub-folder `tiny_imagenet` holds them. The images
            are `(n, 64, 64, 3)` or `(n, 3, 64, 64)`. There is no default place.

    Returns:
        An `ImageData`. Arrays are uint8, images `(n, 64, 64, 3)`. The test images are those of `val.h5`, since the
        labels of the original test images are not public.

    Raises:
        FileNotFoundError: `data_dir` is `None`, or a file is missing.
        ValueError: A file is damaged, lacks images or labels, or holds other shapes or values. The message names it.

    Example:

    >>> import h5py
    >>> for name in ("train", "val"):
    ...     with h5py.File(f"{name}.h5", "w") as file:
    ...         file["images"] = np.zeros((2, 64, 64, 3), "uint8")
    ...         file["labels"] = [0, 199]
    >>> tiny_imagenet(".").y_train.tolist()
    [0, 199]
    """
    if data_dir is None:
        raise FileNotFoundError("`data_dir` must be given for tiny_imagenet: a folder with train.h5 and val.h5.")
    check_path("data_dir", data_dir)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    places = [data_dir, os.path.join(data_dir, "tiny_imagenet")]
    folder = next((one for one in places if os.path.isfile(os.path.join(one, _FILES["train"]))), None)
    if folder is None or not os.path.isfile(os.path.join(folder, _FILES["test"])):
        raise FileNotFoundError(f"{data_dir} must hold train.h5 and val.h5, or a sub-folder tiny_imagenet with them.")
    arrays = {}
    for part, name in _FILES.items():
        arrays[f"x_{part}"], arrays[f"y_{part}"] = _read(os.path.join(folder, name))
    source = f"tiny_imagenet from the HDF5 files in {folder}."
    return checked(arrays, "tiny_imagenet", source, folder, _CLASSES, (_SIDE, _SIDE, 3))


def _read(path):
    """The images and labels of a file, two arrays."""
    try:
        with h5py.File(path, "r") as file:
            found = [file[name] for name in sorted(file) if isinstance(file[name], h5py.Dataset)]
            if len(found) < 2:
                raise _Wrong(f"it must hold two data sets, images and labels, not {len(found)}")
            for dataset in found[:2]:
                if dataset.external or dataset.is_virtual:
                    raise _Wrong(f"it refers to another file for {dataset.name!r}")
                if dataset.dtype.kind not in "iu" or dataset.shape is None:
                    raise _Wrong(f"{dataset.name!r} must hold integers, not {dataset.dtype}")
                # HDF5 fills in missing bytes in memory, so the size that a header claims is checked first.
                check_unpacked(path, dataset.size * dataset.dtype.itemsize)
            images, labels = (dataset[()] for dataset in found[:2])
    except _Wrong as error:
        raise ValueError(f"{path} holds no images of TinyImageNet: {error}.") from None
    except ValueError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ... for damaged files
        raise ValueError(f"{path} is not a readable HDF5 file ({one_line(error)}).") from error
    if images.shape[1:] == (3, _SIDE, _SIDE):
        images = images.transpose(0, 2, 3, 1)
    return images, labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else np.asarray(labels)


class _Wrong(Exception):
    """What is wrong with a file, in words."""
