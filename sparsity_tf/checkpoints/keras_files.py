"""Reads Keras files (`.keras` archives and HDF5 files) as named tensors, with zipfile, json and h5py alone.

A `.keras` file is a zip of `config.json` (how the layers were constructed) and `model.weights.h5`.
In the HDF5 file every layer is a group with a subgroup `vars`. The attribute `name` of `vars` is the
name of the layer, and its datasets are the layer's variables. Layers of Keras number their datasets
"0", "1", ...; layers of this package give them the variables' own names.
"""

import json
import math
import os
import shutil
import tempfile
import zipfile

import h5py
import numpy as np

from sparsity_tf.bounded_files import check_archive, check_unpacked, one_line
from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError

_WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"


class HDF5Checkpoint(Checkpoint):
    """The variables of a Keras HDF5 file.

    Args:
        path: str, the path that the user gave; used in messages.
        file: An open `h5py.File`.
        config: The parsed `config.json`, or None.
        folder: A `tempfile.TemporaryDirectory` to remove with the reader, or None.
    """

    def __init__(self, path, file, config=None, folder=None):
        super().__init__(path)
        self._file = file
        self._folder = folder
        self._layers = list(_layer_configs(config, ()))
        self._layer_names = {}  # HDF5 path of a variable -> names of its layer and those around it
        for key in self._variables():
            self._layer_names[key] = self._names_around(key)
        readable = {key: self._readable_name(key) for key in self._layer_names}
        counts = {}
        for name in readable.values():
            counts[name] = counts.get(name, 0) + 1
        self._keys = {}
        for key, name in readable.items():
            # If several variables have the same readable name, their HDF5 path serves as the unique name.
            unique = name if counts[name] == 1 and name not in self._keys else key
            self._keys[unique] = key
            self._register(unique, (key, name))

    def _variables(self):
        held = {}

        def visit(key, item):
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                held[key] = item

        self._file.visititems(visit)
        self._check_sizes(held)
        found = {key: item for key, item in held.items() if item.dtype.kind in "biuf" or _is_bfloat16(item)}
        return [key for key in found if not self._is_optimizer_variable(key, found)]

    def _check_sizes(self, datasets):
        """Refuses datasets that claim more than the file's size justifies: HDF5 fills in missing bytes in memory."""
        size = 0
        for key, dataset in datasets.items():
            if dataset.external or dataset.is_virtual:
                raise CheckpointError(
                    f"'{self.path}' can't be read: it does not hold its tensor '{key}', but refers to another file "
                    "for it"
                )
            # HDF5 unpacks a chunk as a whole, and a chunk may be larger than its dataset.
            entries = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
            size += entries * dataset.dtype.itemsize
        check_unpacked(self._file.filename, size)

    def _is_optimizer_variable(self, key, variables):
        """Recognises an optimizer's group by its first two variables: an integer iteration, then a learning rate."""
        if key.split("/")[0] in ("optimizer", "optimizer_weights"):
            return True
        first, second = (variables.get(f"{key.rpartition('/')[0]}/{i}") for i in range(2))
        return (
            first is not None
            and second is not None
            and first.shape == second.shape == ()
            and first.dtype.kind in "iu"
            and second.dtype.kind == "f"
        )

    def _names_around(self, key):
        """The names of the layers around a variable, outermost first; None if the file lacks one of them."""
        parts = key.split("/")
        if len(parts) < 2 or parts[-2] != "vars":
            return None
        names = []
        for depth in range(len(parts) - 1):
            group = "/".join([*parts[:depth], "vars"])
            if group in self._file:
                names.append(self._file[group].attrs.get("name"))
        return None if None in names else tuple(_text(name) for name in names)

    def _readable_name(self, key):
        names = self._layer_names[key]
        if not names:
            return key.removesuffix(":0")  # files of Keras 2
        # The outermost name belongs to the model itself and is left out.
        return "/".join([*(names[1:] or names), key.rpartition("/")[2]])

    def _shape(self, name):
        return tuple(self._file[self._keys[name]].shape)

    def _is_floating(self, name):
        dataset = self._file[self._keys[name]]
        return dataset.dtype.kind == "f" or _is_bfloat16(dataset)

    def _is_quantized(self, name):
        dataset = self._file[self._keys[name]]
        return dataset.dtype.kind in "iu" and dataset.dtype.itemsize == 1 and len(dataset.shape) >= 2

    def _read(self, name):
        dataset = self._file[self._keys[name]]
        value = dataset[()]
        if _is_bfloat16(dataset):
            # bfloat16 is the upper half of a float32.
            return (value.view("<u2").astype("uint32") << 16).view("float32")
        return value

    def layer_option(self, name, option):
        """Looks up a layer's constructor argument in `config.json`. See `Checkpoint`."""
        around = self._layer_names[self._keys[self._known(name)]]
        if not around:
            return None
        given = [(names, config[option]) for names, config in self._layers if option in config]
        # First look for the layer at its place in the model, then for its name alone. A cell that a Keras recurrent
        # layer creates has no config of its own: the enclosing layer's config holds the option.
        for wanted, length in ((around, None), (around[:-1], None), (around[-1:], -1), (around[-2:-1], -1)):
            matching = [(names, value) for names, value in given if names[length:] == wanted]
            if matching:
                break
        if _differ(matching):
            raise CheckpointError(
                f"Checkpoint '{self.path}' has several layers that may be '{'/'.join(around)}', and their values of "
                f"`{option}` differ: the value for '{name}' is not certain"
            )
        return matching[0][1] if matching else None

    def close(self):
        """Closes the file and removes the unpacked copy."""
        self._file.close()
        if self._folder is not None:
            self._folder.cleanup()
        super().close()


def open_hdf5(path):
    """Opens a `.weights.h5` (or other HDF5) file written by Keras. See `open_checkpoint`."""
    try:
        return HDF5Checkpoint(path, h5py.File(path, "r"))
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ... on damage
        raise CheckpointError(
            f"'{path}' is not a readable HDF5 file (damaged or cut off?): {one_line(error)}"
        ) from error


def open_keras_archive(path):
    """Opens a `.keras` file. See `open_checkpoint`.

    The weights are unpacked to a temporary file instead of being read inside the archive. Only unpacking
    verifies their checksum, and it uses disk space instead of memory.
    """
    folder = tempfile.TemporaryDirectory(prefix="sparsity_tf_")
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            members = archive.namelist()
            if _WEIGHTS not in members or _CONFIG not in members:
                raise CheckpointError(
                    f"'{path}' is not a .keras file: it must hold {_CONFIG} and {_WEIGHTS}. Received: {members[:8]}"
                )
            config = json.loads(archive.read(_CONFIG))
            weights = os.path.join(folder.name, _WEIGHTS)
            with archive.open(_WEIGHTS) as source, open(weights, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return HDF5Checkpoint(path, h5py.File(weights, "r"), config, folder)
    except CheckpointError:
        folder.cleanup()
        raise
    except Exception as error:  # zipfile, zlib and json raise many kinds of errors for a damaged file
        folder.cleanup()
        raise CheckpointError(
            f"'{path}' is not a readable .keras file (damaged or cut off?): {one_line(error)}"
        ) from error


def _layer_configs(node, around):
    """Yields (names, config) for every layer in a `config.json`; names are outermost first."""
    if isinstance(node, dict):
        config = node.get("config")
        if "class_name" in node and isinstance(config, dict) and isinstance(config.get("name"), str):
            around = (*around, config["name"])
            yield around, config
            # A layer that creates its own sublayers lists the sparse ones in its config (see `layers.composite`).
            for sublayer in config.get("sparse_sublayers") or ():
                yield (*around, sublayer["name"]), sublayer["options"]
        for value in node.values():
            yield from _layer_configs(value, around)
    elif isinstance(node, list):
        for value in node:
            yield from _layer_configs(value, around)


def _differ(matching):
    return any(value != matching[0][1] for _, value in matching)


def _is_bfloat16(dataset):
    # h5py has no bfloat16. Keras stores two opaque bytes a number and writes the type into the attribute `dtype`.
    return dataset.dtype == np.dtype("V2") and _text(dataset.attrs.get("dtype")) == "bfloat16"


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
