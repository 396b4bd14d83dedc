"""From a path to named tensors: what a checkpoint is here, and which reader a path gets.

One small interface, `Checkpoint`, hides four families of files: `.keras` archives, HDF5 weight
files, TensorFlow checkpoints (V1, V2, object-based) and SavedModel directories. Tensors are read
one at a time, so a checkpoint larger than memory can be examined. No code stored in a file runs:
Keras archives are read as zip + JSON + HDF5 and SavedModels as plain checkpoints.
"""

import glob
import os
import re
import zipfile

import numpy as np


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged, or does not hold what was asked of it."""


class Checkpoint:
    """The variables of one checkpoint, read on demand. Optimizer slots are not among them.

    A variable may be known under several names (an object-based TensorFlow checkpoint has the path
    of Python attributes and the variable's own name; a Keras file the HDF5 path and the path made
    of layer names). `names` lists one unique name each; `aliases` gives all of them, and `find`
    goes the other way.

    Use it as a context manager, or call `close`. Subclasses define `_shape`, `_is_floating` and
    `_read`, and call `_register` for each variable.

    Example:

    ```python
    with open_checkpoint("model.keras") as checkpoint:
        for name in checkpoint.names():
            print(name, checkpoint.shape(name))
    ```
    """

    def __init__(self, path):
        self.path = str(path)
        self._aliases = {}
        self._by_alias = {}

    def _register(self, name, aliases):
        self._aliases[name] = tuple(dict.fromkeys(aliases))
        for alias in self._aliases[name]:
            self._by_alias.setdefault(alias, []).append(name)

    def names(self):
        """Returns: list of str, the variables' names, sorted, without optimizer slots."""
        return sorted(self._aliases, key=natural_order)

    def aliases(self, name):
        """Returns: tuple of str, every name under which the variable `name` is known."""
        return self._aliases[self._known(name)]

    def find(self, alias):
        """Returns: list of str, the variables that have `alias` among their names."""
        return self._by_alias.get(alias, [])

    def shape(self, name):
        """Returns: tuple of ints, the shape of `name`; the tensor itself is not read."""
        return self._shape(self._known(name))

    def is_floating(self, name):
        """Returns: bool, whether `name` holds floating-point numbers (bfloat16 included)."""
        return self._is_floating(self._known(name))

    def tensor(self, name):
        """Reads one tensor.

        Args:
            name: One of `names()`.

        Returns:
            A numpy array in the stored type, except that bfloat16 and 8-bit floats come as float32.

        Raises:
            CheckpointError: if there is no such tensor, or its bytes are damaged or cut off.
        """
        self._known(name)
        try:
            value = np.asarray(self._read(name))
        except Exception as error:  # each library beneath has exception types of its own
            raise CheckpointError(
                f"Cannot read tensor '{name}' of checkpoint '{self.path}': {one_line(error)}"
            ) from error
        return value if value.dtype.kind in "biuf" else value.astype("float32")

    def layer_option(self, name, option):
        """Looks up a constructor argument of the layer that owns a variable.

        Args:
            name: One of `names()`.
            option: Name of the argument, e.g. `"log_alpha_threshold"`.

        Returns:
            The value, or None where the file does not say (only `.keras` files hold it).

        Raises:
            CheckpointError: if several layers of this name disagree and none can be preferred.
        """
        del name, option
        return None

    def close(self):
        """Releases files. The object cannot be used afterwards."""

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _known(self, name):
        if name not in self._aliases:
            raise CheckpointError(f"Checkpoint '{self.path}' has no tensor named '{name}'")
        return name


def open_checkpoint(path):
    """Opens a checkpoint of any supported kind for reading.

    Args:
        path: str or path-like. One of
            - a `.keras` file, a `.weights.h5` file or another HDF5 file saved by Keras;
            - a SavedModel directory;
            - the prefix of a TensorFlow checkpoint (`model.ckpt-500000`), one of its files
              (`.index`, `.data-?????-of-?????`, `.meta`), or a TensorFlow 1 file in V1 format;
            - a directory of TensorFlow checkpoints: the one that its `checkpoint` file names as the
              latest, otherwise the one with the newest `.index` file (equal times: the highest
              number in the name).

    Returns:
        A `Checkpoint`. TensorFlow is imported only for TensorFlow formats.

    Raises:
        CheckpointError: if there is no such file, or it is damaged, or of an unknown kind.
    """
    from sparsity_tf.checkpoints import keras_files

    path = os.path.expanduser(os.fspath(path))
    if not path:
        raise CheckpointError("`path` must name a checkpoint. Received: path=''")
    if os.path.isdir(path):
        return _open_directory(path)
    if os.path.isfile(path):
        if path.endswith((".index", ".meta")) or re.search(r"\.data-\d+-of-\d+$", path):
            return _open_tensorflow(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path), path)
        if os.path.basename(path) in ("saved_model.pb", "saved_model.pbtxt"):
            return _open_directory(os.path.dirname(path) or ".")
        if path.endswith(".keras") or zipfile.is_zipfile(path):
            return keras_files.open_keras_archive(path)
        if path.endswith((".h5", ".hdf5")) or _has_hdf5_signature(path):
            return keras_files.open_hdf5(path)
    return _open_tensorflow(path, path)


def _open_directory(path):
    if any(os.path.isfile(os.path.join(path, f"saved_model.{end}")) for end in ("pb", "pbtxt")):
        return _open_tensorflow(os.path.join(path, "variables", "variables"), path)
    prefix = _latest_by_state_file(path) or _newest_index(path)
    if prefix is None:
        raise CheckpointError(
            f"Directory '{path}' holds no checkpoint: it has no saved_model.pb, no `checkpoint` "
            "file that names an existing checkpoint, and no *.index file"
        )
    return _open_tensorflow(prefix, path)


def _latest_by_state_file(directory):
    """The prefix named by the `checkpoint` file, also when the directory was moved since."""
    try:
        with open(os.path.join(directory, "checkpoint"), encoding="utf-8") as file:
            match = re.search(r'^model_checkpoint_path: "(.*)"\s*$', file.read(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    if match is None:
        return None
    stored = match.group(1)
    for prefix in (os.path.join(directory, stored), _in_directory(directory, stored)):
        # A V1 checkpoint is one file of that very name.
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
    except ImportError as error:
        raise CheckpointError(
            f"'{path}' is a TensorFlow checkpoint; reading it needs the package tensorflow"
        ) from error
    return tensorflow_files.open_tensorflow(prefix, path)


def _has_hdf5_signature(path):
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {one_line(error)}") from error


def one_line(error):
    """Returns: str, the message of an exception on one line, never empty."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def natural_order(text):
    """Sort key under which `layer_2` comes before `layer_10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]
