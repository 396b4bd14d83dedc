"""A small `.keras` file that stock Keras reads: `save_compact`.

A `.keras` file is a zip archive. Keras stores its members uncompressed, so the zeros of a sparse network take as much
disk as any other weight. Keras reads with Python's `zipfile`, which also unpacks compressed members, to the same bits.
(A format of our own would gain almost nothing: bzip2 comes within a twentieth of the entropy of the positions and
values of the weights that are left.)
"""

import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass

import h5py
import keras
import numpy as np

from sparsity_tf.atomic_files import appearing
from sparsity_tf.checks import check_bool, check_built, check_choice, check_integer, check_model, check_path
from sparsity_tf.deploy.shared_weights import share_weights
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.to_dense import to_dense
from sparsity_tf.type_names import PathLike

COMPRESSIONS = {"bzip2": zipfile.ZIP_BZIP2, "deflate": zipfile.ZIP_DEFLATED}
_WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"
# A member that compression makes smaller by less than a tenth is stored uncompressed, because it then loads faster.
_WORTH_IT = 0.9
_SMALL_BYTES = 1024
# Readers refuse a member that unpacks to far more than its size, as a possible attack: Keras beyond 100 times (from 256
# MiB on), this package beyond 200 times (from 64 MiB on, `bounded_files.py`).
_SUSPICIOUS_BYTES = 64 << 20
_MOST_EXPANSION = 100
_CHUNK = 1 << 20


@dataclass(frozen=True)
class CompactFile:
    """The result of `save_compact`: the path and sizes of the file.

    Args:
        path: str.
        bytes: int, size of the file.
        stored_bytes: int, size of the same file without compression, as Keras writes it.

    Example:

    ```python
    file = sparsity_tf.save_compact(sparsity_tf.prune(model, 0.9), "small.keras")
    print(file.bytes, file.stored_bytes, file.ratio)
    ```
    """

    path: str
    bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the same file without compression."""
        return self.stored_bytes / self.bytes

    def __str__(self):
        return f"{self.path}: {self.bytes:,} bytes, {self.ratio:.1f} times smaller than stored ({self.stored_bytes:,})"


def save_compact(
    model: keras.Model,
    path: PathLike,
    masks: bool = False,
    optimizer: bool = False,
    compression: str = "bzip2",
    codebook_bits: int | None = None,
) -> CompactFile:
    """Saves a model as an ordinary `.keras` file in which zeros take almost no space.

    `keras.saving.load_model` reads the file like any other, to the same bits. By default `to_dense` first converts a
    sparse model, so that the file loads where this package is not installed. (`to_dense` names the few layers for which
    the package is still needed.)

    The file size depends on the bits of the weights that are left and on their positions. With 90 % zeros in float32
    the file is 9 to 11 times smaller with `"bzip2"` (10.1 for a net of 1024 units a layer pruned by magnitude) and 7 to
    8 times with `"deflate"`. A dense network gains less than a tenth. A member of the archive that would gain less than
    a tenth is stored uncompressed.

    The file appears under its name only when it is complete. It replaces an older file of the same name.

    Args:
        model: Built Keras model, sparse or dense. It is left as it is.
        path: Where to write; must end in `.keras`.
        masks: Whether sparse layers stay sparse layers, with their masks or other variables of the technique, so that
            training can go on. The file then needs this package to load.
        optimizer: Whether to keep the optimizer of a compiled model, with its slots, and the arguments of `compile`.
            For a sparse model this needs `masks=True`.
        compression: `"bzip2"` gives the smallest file; about 20 MB of weights are read a second. `"deflate"` is several
            times as fast, and every zip program can read it.
        codebook_bits: `None`, or an integer from 2 to 8: every kernel gets at most `2 ** codebook_bits - 1` distinct
            values besides zero, chosen by k-means (Han et al., "Deep Compression", arXiv 1510.00149). This loses
            precision; zeros stay zeros. It can't be combined with `masks=True`.

    Returns:
        A `CompactFile`: `bytes`, `stored_bytes`, `ratio`.

    Raises:
        ValueError: `model` is not a built Keras model, `path` does not end in `.keras`, its folder does not exist, the
            arguments exclude each other, or the model can't be copied from its config (`to_dense` says why).

    Example:

    ```python
    file = sparsity_tf.deploy.save_compact(model, "small.keras")
    print(file.ratio)
    keras.saving.load_model("small.keras")
    ```
    """
    check_model("model", model)
    check_built("model", model)
    check_path("path", path)
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if not path.endswith(".keras") or os.path.isdir(path) or not os.path.isdir(folder):
        raise ValueError(
            f"`path` must be the name of a file that ends in .keras, in a folder that exists. Received: path={path!r}"
        )
    check_bool("masks", masks)
    check_bool("optimizer", optimizer)
    check_choice("compression", compression, COMPRESSIONS)
    if codebook_bits is not None:
        check_integer("codebook_bits", codebook_bits, 2, 8)
    if codebook_bits is not None and (masks or optimizer):
        raise ValueError(
            "`masks` and `optimizer` must be False with `codebook_bits`: a file with a codebook holds only the "
            f"weights for inference. Received: codebook_bits={codebook_bits}, masks={masks}, optimizer={optimizer}"
        )
    sparse = bool(get_sparse_weights(model))
    if optimizer and sparse and not masks:
        raise ValueError(
            "`masks` must be True with `optimizer=True` for a sparse model: without masks the file holds a dense "
            "copy, which the optimizer does not fit. Received: optimizer=True, masks=False"
        )
    if codebook_bits is not None or (sparse and not masks):
        model = to_dense(model)
    if codebook_bits is not None:
        share_weights(model, codebook_bits)
    with appearing(path) as unfinished:
        model.save(unfinished)
        file = compress_file(unfinished, compression, optimizer)
        return CompactFile(path, file.bytes, file.stored_bytes)


def compress_file(path, compression, optimizer=True):
    """Compresses a `.keras` file in place. If the process is killed meanwhile, the file may be incomplete.

    Args:
        path: str, path of a file that Keras has written.
        compression: One of `COMPRESSIONS`.
        optimizer: Whether to keep the optimizer and the arguments of `compile`.

    Returns:
        A `CompactFile`.
    """
    with tempfile.TemporaryDirectory(prefix="sparsity_tf_") as scratch:
        stored_bytes = os.path.getsize(path)
        sizes = _unpack(path, scratch)
        if not optimizer:
            _forget_training(scratch, sizes)
        stored_bytes += sum(os.path.getsize(os.path.join(scratch, name)) - size for name, size in sizes.items())
        _pack_small(path, scratch, sizes, COMPRESSIONS[compression])
        return CompactFile(path, os.path.getsize(path), stored_bytes)


def _unpack(path, folder):
    """Unpacks a file that Keras has written; returns the sizes of its members by their names."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        sizes = {member.filename: member.file_size for member in archive.infolist() if not member.is_dir()}
    return sizes


def _forget_training(folder, members):
    """Removes the optimizer and the arguments of `compile` from the files of an unpacked `.keras`."""
    config_path = os.path.join(folder, _CONFIG)
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    if config.pop("compile_config", None) is not None:
        with open(config_path, "w", encoding="utf-8") as file:
            json.dump(config, file)
    if _WEIGHTS not in members:
        return
    weights, rest = os.path.join(folder, _WEIGHTS), os.path.join(folder, "rest.h5")
    with h5py.File(weights, "r") as before:
        if "optimizer" not in before:
            return
        # HDF5 does not free the space of deleted data, so all other data are copied to a new file.
        with h5py.File(rest, "w") as after:
            after.attrs.update(before.attrs)
            for name in before:
                if name != "optimizer":
                    before.copy(name, after)
    os.replace(rest, weights)


def _pack(path, folder, compressions):
    """Writes files of a folder into an archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, compression in compressions.items():
            source_path = os.path.join(folder, name)
            member = zipfile.ZipInfo.from_file(source_path, name)
            member.compress_type = compression
            with open(source_path, "rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, _CHUNK)


def _pack_small(path, folder, members, compression):
    """Writes the archive and compresses each member that becomes small enough by it."""
    large = {name: os.path.getsize(os.path.join(folder, name)) >= _SMALL_BYTES for name in members}
    compressions = {name: compression if large[name] else zipfile.ZIP_STORED for name in members}
    _pack(path, folder, compressions)
    again = False
    with zipfile.ZipFile(path) as archive:
        held = archive.infolist()
    for member in held:
        if member.compress_type != zipfile.ZIP_STORED and member.compress_size > _WORTH_IT * member.file_size:
            compressions[member.filename] = zipfile.ZIP_STORED
            again = True
        elif member.file_size > max(_SUSPICIOUS_BYTES, _MOST_EXPANSION * member.compress_size):
            _pad(os.path.join(folder, member.filename), member.file_size)
            again = True
    if again:
        _pack(path, folder, compressions)


def _pad(path, size):
    """Appends bytes that don't compress, so that no reader refuses the file as an attack. HDF5 does not read them."""
    with open(path, "ab") as file:
        file.write(np.random.default_rng(0).bytes(size // (_MOST_EXPANSION - 10)))
