"""`open_checkpoint`: chooses the reader for a path.

There are readers for five families of files: `.keras` archives, HDF5 weight files, TensorFlow checkpoints (V1, V2,
object-based; also in a `.tar`), SavedModel directories, and files of `torch.save`. No code stored in a file runs: Keras
archives are read as zip + JSON + HDF5, SavedModels as plain checkpoints, and pickles as data.
"""

import glob
import os
import re
import zipfile

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checkpoints import keras_files, tar_files, torch_files
from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError, natural_order
from sparsity_tf.checks import check_path
from sparsity_tf.extras import MissingPackageError
from sparsity_tf.type_names import PathLike

_TORCH = (".pth", ".pt", ".pth.tar")


def open_checkpoint(path: PathLike) -> Checkpoint:
    """Opens a checkpoint of any supported kind for reading.

    Args:
        path: str or path-like. One of
            - a `.keras` file, a `.weights.h5` file or another HDF5 file saved by Keras;
            - a SavedModel directory;
            - the prefix of a TensorFlow checkpoint (`model.ckpt-500000`), one of its files
              (`.index`, `.data-?????-of-?????`, `.meta`), or a TensorFlow 1 file in V1 format;
            - a directory of TensorFlow checkpoints. The reader opens the checkpoint that the file
              `checkpoint` names as the latest, otherwise the one with the newest `.index` file (of
              files with equal times, the one with the highest number in its name);
            - a `.tar` file of such a directory, as *State of Sparsity* publishes them;
            - a file of `torch.save` that holds the tensors of a network (`.pth`, `.pt`, `.pth.tar`), of any
              release of PyTorch since 0.4.

    Returns:
        A `Checkpoint`. Only the TensorFlow formats import TensorFlow, and none imports torch.

    Raises:
        CheckpointError: if the file is missing, damaged, or of an unknown kind.

    Example:

    ```python
    model.save_weights("model.weights.h5")
    with open_checkpoint("model.weights.h5") as checkpoint:
        print({name: checkpoint.shape(name) for name in checkpoint.names()})
    ```
    """
    check_path("path", path)
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        return _open_directory(path)
    if os.path.isfile(path):
        if path.endswith((".index", ".meta")) or re.search(r"\.data-\d+-of-\d+$", path):
            return _open_tensorflow(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path), path)
        if os.path.basename(path) in ("saved_model.pb", "saved_model.pbtxt"):
            return _open_directory(os.path.dirname(path) or ".")
        if path.endswith(_TORCH) or torch_files.is_torch_file(path):
            return torch_files.open_torch(path)
        if tar_files.is_tar_file(path):
            return tar_files.open_tar(path, _open_directory)
        if path.endswith(".keras") or zipfile.is_zipfile(path):
            return keras_files.open_keras_archive(path)
        if path.endswith(".weights.json"):
            raise CheckpointError(
                f"'{path}' is only the list of the files that hold the weights. Give one of its .weights.h5 files, or "
                "save the model as one .keras or .weights.h5 file"
            )
        if path.endswith((".h5", ".hdf5")) or _has_hdf5_signature(path):
            return keras_files.open_hdf5(path)
    return _open_tensorflow(path, path)


def _open_directory(directory, path=None):
    """Opens the checkpoint in a directory. `path`: what the user gave, if that is not the directory."""
    path, directory_or_file = path or directory, "Directory" if path is None else "File"
    if any(os.path.isfile(os.path.join(directory, f"saved_model.{end}")) for end in ("pb", "pbtxt")):
        return _open_tensorflow(os.path.join(directory, "variables", "variables"), path)
    prefix = _latest_by_state_file(directory, path != directory) or _newest_index(directory)
    if prefix is None:
        raise CheckpointError(
            f"{directory_or_file} '{path}' holds no checkpoint: it has no saved_model.pb, no `checkpoint` "
            "file that names an existing checkpoint, and no *.index file"
        )
    return _open_tensorflow(prefix, path)


def _latest_by_state_file(directory, inside_only):
    """The prefix that the `checkpoint` file names, even if the directory has been moved since it was written.

    A path in the file may lead to another directory. With `inside_only`, only its last part is used: the `checkpoint`
    file of a `.tar` must not choose other files of this computer.
    """
    try:
        with open(os.path.join(directory, "checkpoint"), encoding="utf-8") as file:
            match = re.search(r'^model_checkpoint_path: "(.*)"\s*$', file.read(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    if match is None:
        return None
    stored = match.group(1)
    moved = _in_directory(directory, stored)
    for prefix in [moved] if inside_only else [os.path.join(directory, stored), moved]:
        # A V1 checkpoint is a single file whose name is the prefix itself.
        if os.path.isfile(prefix + ".index") or os.path.isfile(prefix):
            return prefix
    return None


def _in_directory(directory, prefix):
    return os.path.join(directory, os.path.basename(prefix))


def _newest_index(directory):
    files = glob.glob(os.path.join(glob.escape(directory), "*.index"))
    if not files:
        return None
    return max(files, key=lambda f: (os.stat(f).st_mtime_ns, natural_order(f)))[: -len(".index")]


def _open_tensorflow(prefix, path):
    if not (os.path.isfile(prefix + ".index") or os.path.isfile(prefix)):
        raise CheckpointError(f"No checkpoint at '{path}': no such file, directory or prefix")
    try:
        from sparsity_tf.checkpoints import tensorflow_files
    except MissingPackageError as error:
        raise CheckpointError(f"'{path}' is a TensorFlow checkpoint. {error}") from error
    return tensorflow_files.open_tensorflow(prefix, path)


def _has_hdf5_signature(path):
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {one_line(error)}") from error
