"""Reads files of `torch.save` as named tensors, without torch and without running anything that a file says.

A file of `torch.save` is a pickle that describes objects, and the bytes of the tensors' storages. Since torch 1.6 the
file is a zip: `<top>/data.pkl` and one member `<top>/data/<key>` a storage. An older file is a row of pickles (a magic
number, a version, the system, the object, the keys of the storages) and then the storages, each after its length.

The pickles are read by `torch_pickles`.
"""

import contextlib
import io
import os
import struct
import zipfile

import numpy as np

from sparsity_tf.bounded_files import check_archive, one_line
from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from sparsity_tf.checkpoints.torch_pickles import LONGEST_PICKLE, Machine, Refused, Stream, Tensor, check

# The integer with which a file before torch 1.6 begins, and the bytes that stand for it in a pickle.
_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_OLD_VERSION = 1001
# Where training programs keep the tensors of a network in the saved dict.
_PLACES = ("state_dict", "model_state_dict", "model", "net")
# Torch's wrapper for several devices adds this to each name.
_WRAPPER = "module."


class TorchCheckpoint(Checkpoint):
    """The tensors of a network in a file of `torch.save`, read on demand.

    Each tensor has its name in the file without `module.`. Under another name, with "/" for ".", a weight is called
    `kernel` and a threshold of STR `raw_threshold`, as in this package's layers.

    Args:
        path: str, the path that the user gave; used in messages.
        file: Binary file, or `zipfile.ZipFile`; closed with the reader.
        tensors: Dict from names to `Tensor`.
        read_storage: Function from a `Storage` to its bytes.
        byteorder: `"<"` or `">"`.
    """

    def __init__(self, path, file, tensors, read_storage, byteorder):
        super().__init__(path)
        self._file, self._read_storage, self._byteorder = file, read_storage, byteorder
        self._tensors = {}
        for key, tensor in tensors.items():
            plain = key
            while plain.startswith(_WRAPPER):
                plain = plain.removeprefix(_WRAPPER)
            # A file may hold a network twice, with and without the wrapper's prefix.
            name = key if plain in tensors or plain in self._tensors else plain
            self._tensors[name] = tensor
            self._register(name, (name, key, plain, _path(plain if name == plain else key)))

    def _shape(self, name):
        return self._tensors[name].shape

    def _is_floating(self, name):
        kind = self._tensors[name].storage.type
        return kind.dtype.kind == "f" or kind.name == "BFloat16Storage"

    def _read(self, name):
        tensor = self._tensors[name]
        dtype = tensor.storage.type.dtype.newbyteorder(self._byteorder)
        numbers = np.frombuffer(self._read_storage(tensor.storage), dtype, tensor.storage.numel)[tensor.offset :]
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        value = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
        if tensor.storage.type.name == "BFloat16Storage":
            return (value.astype("uint32") << 16).view("float32")
        return value.astype(dtype.newbyteorder("="))

    def layer_option(self, name, option):
        """STR's program has one function for the threshold. See `Checkpoint`."""
        self._known(name)
        return "sigmoid" if option == "threshold_function" and name.endswith(".sparseThreshold") else None

    def close(self):
        """Closes the file."""
        self._file.close()
        super().close()


def _path(key):
    """ "layer1.0.conv1.sparseThreshold" becomes "layer1/0/conv1/raw_threshold"."""
    layer, _, variable = key.rpartition(".")
    variable = {"weight": "kernel", "sparseThreshold": "raw_threshold"}.get(variable, variable)
    return "/".join([*layer.split("."), variable] if layer else [variable])


def is_torch_file(path):
    """Whether a file looks like one of `torch.save`, of either format."""
    start = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(64)
    if _MAGIC_BYTES in start and start[:1] == b"\x80":
        return True
    if start[:4] != b"PK\x03\x04":
        return False
    with contextlib.suppress(zipfile.BadZipFile, ValueError, OSError, EOFError), zipfile.ZipFile(path) as archive:
        return any(_is_description(name) for name in archive.namelist())
    return False


def _is_description(member):
    return member == "data.pkl" or member.endswith("/data.pkl")


def open_torch(path):
    """Opens a file of `torch.save`. See `open_checkpoint`."""
    with contextlib.ExitStack() as stack:
        try:
            with open(path, "rb") as file:
                zipped = file.read(4) == b"PK\x03\x04"
            opened = stack.enter_context(zipfile.ZipFile(path) if zipped else open(path, "rb"))
            checkpoint = (_open_zip if zipped else _open_old)(path, opened)
        except CheckpointError:
            raise
        except Refused as error:
            raise CheckpointError(f"'{path}' is not read as a PyTorch checkpoint: {error}") from error
        except Exception as error:  # zipfile, pickletools and the stack machine raise many kinds of errors for damage
            raise CheckpointError(
                f"'{path}' is not a readable PyTorch checkpoint (damaged or cut off?): {one_line(error)}"
            ) from error
        stack.pop_all()
    return checkpoint


def _open_zip(path, archive):
    check_archive(path, archive)
    described = [name for name in archive.namelist() if _is_description(name)]
    if len(described) != 1:
        raise Refused(f"it must hold one data.pkl. Received: {described[:8] or archive.namelist()[:8]}")
    top = described[0].removesuffix("data.pkl")
    member = archive.getinfo(described[0])
    if member.file_size > LONGEST_PICKLE:
        raise Refused(f"its description of the objects is longer than {LONGEST_PICKLE:,} bytes")
    tensors = _network(Machine().run(Stream(io.BytesIO(archive.read(member)))))
    sizes = {item.filename: item.file_size for item in archive.infolist()}
    for name, tensor in tensors.items():
        _check_storage(name, tensor.storage, sizes.get(f"{top}data/{tensor.storage.key}"))
    order = archive.read(f"{top}byteorder") if f"{top}byteorder" in sizes else b"little"
    return TorchCheckpoint(
        path,
        archive,
        tensors,
        lambda storage: archive.read(f"{top}data/{storage.key}"),
        ">" if order == b"big" else "<",
    )


def _open_old(path, file):
    stream = Stream(file)
    magic, version, system = (Machine().run(stream) for _ in range(3))
    if magic != _MAGIC or version != _OLD_VERSION:
        raise Refused("it is of an unknown version of the format")
    machine = Machine()
    tensors = _network(machine.run(stream))
    keys = Machine().run(stream)
    # Nothing but a text is hashed: a nested tuple can take for ever.
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    check(named and sorted(keys) == sorted(machine.storages), "other storages than it holds")
    byteorder = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    size, begin, places = os.path.getsize(path), file.tell(), {}
    for key in keys:
        storage = machine.storages[key]
        file.seek(begin)
        (numel,) = struct.unpack(f"{byteorder}q", file.read(8))
        places[key] = begin + 8
        begin += 8 + numel * storage.type.dtype.itemsize
        if numel != storage.numel or begin > size:
            raise CheckpointError(f"'{path}' is cut off or damaged in its storage {one_line(key, 50)}")

    def read_storage(storage):
        file.seek(places[storage.key])
        return file.read(storage.numel * storage.type.dtype.itemsize)

    return TorchCheckpoint(path, file, tensors, read_storage, byteorder)


def _network(saved):
    """The tensors of the network in a saved object, by name: the object itself, or an entry of it."""
    if isinstance(saved, dict):
        for held in (saved, *(saved.get(place) for place in _PLACES)):
            if isinstance(held, dict) and any(isinstance(value, Tensor) for value in held.values()):
                tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
                check(all(isinstance(key, str) for key in tensors), "tensors without names")
                return tensors
    raise Refused(
        f"it holds no dict of tensors, neither by itself nor as {', '.join(_PLACES)} (a whole module can't be read: "
        "save its `state_dict()`)"
    )


def _check_storage(name, storage, size):
    needed = storage.numel * storage.type.dtype.itemsize
    if size is None:
        raise Refused(f"it lacks the storage of {one_line(name, 100)}: it is damaged")
    if size != needed:
        raise Refused(f"{one_line(name, 100)} needs {needed:,} bytes, and its storage has {size:,}: it is damaged")
