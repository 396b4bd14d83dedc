"""`Checkpoint`: the variables of a file as named tensors, read one at a time, the same for every file format."""

import contextlib
import re
from typing import Any

import numpy as np

from sparsity_tf.bounded_files import one_line
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.type_names import PathLike


class CheckpointError(ValueError):
    """The checkpoint is absent or damaged, or it does not hold the requested tensor.

    Example:

    ```python
    try:
        open_checkpoint("no_such_file.keras")
    except CheckpointError as error:
        print(error)
    ```
    """


class Checkpoint(CallRepr):
    """The variables of one checkpoint, read on demand. Optimizer slots are not among them.

    A variable may be known under several names. An object-based TensorFlow checkpoint stores the path
    of Python attributes and the variable's own name. A Keras file has the HDF5 path and the path made
    of layer names. `names` lists one unique name for each variable, `aliases` gives all names of a
    variable, and `find` gives the variables that have a certain alias.

    Use it as a context manager, or call `close`. Subclasses define `_shape`, `_is_floating` and
    `_read`, and call `_register` for each variable.

    Example:

    ```python
    model.save("model.keras")
    with open_checkpoint("model.keras") as checkpoint:
        for name in checkpoint.names():
            print(name, checkpoint.shape(name))
    ```
    """

    def __init__(self, path: PathLike) -> None:
        self.path = str(path)
        self._aliases = {}
        self._by_alias = {}
        self._resources = contextlib.ExitStack()

    def _register(self, name, aliases):
        self._aliases[name] = tuple(dict.fromkeys(aliases))
        for alias in self._aliases[name]:
            self._by_alias.setdefault(alias, []).append(name)

    def names(self) -> list[str]:
        """Returns: list of str, the variables' names, sorted, without optimizer slots."""
        return sorted(self._aliases, key=natural_order)

    def aliases(self, name: str) -> tuple[str, ...]:
        """Returns: tuple of str, every name under which the variable `name` is known."""
        return self._aliases[self._known(name)]

    def find(self, alias: str) -> list[str]:
        """Returns: list of str, the variables that have `alias` among their names."""
        return self._by_alias.get(alias, [])

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns: tuple of ints, the shape of `name`; the tensor itself is not read."""
        return self._shape(self._known(name))

    def is_floating(self, name: str) -> bool:
        """Returns: bool, whether `name` holds floating-point numbers (bfloat16 included)."""
        return self._is_floating(self._known(name))

    def is_quantized(self, name: str) -> bool:
        """Returns: bool, whether `name` is a matrix of 8-bit integers, as Keras saves weights of `quantize`."""
        return self._is_quantized(self._known(name))

    def tensor(self, name: str) -> np.ndarray:
        """Reads one tensor.

        Args:
            name: One of `names()`.

        Returns:
            A numpy array of the stored type; bfloat16 and 8-bit floats are converted to float32.

        Raises:
            CheckpointError: if there is no such tensor, or its bytes are damaged or cut off.
        """
        self._known(name)
        try:
            value = np.asarray(self._read(name))
        except Exception as error:  # h5py, zipfile and TensorFlow each raise exception types of their own
            raise CheckpointError(
                f"Cannot read tensor '{name}' of checkpoint '{self.path}': {one_line(error)}"
            ) from error
        return value if value.dtype.kind in "biuf" else value.astype("float32")

    def layer_option(self, name: str, option: str) -> Any:
        """Looks up a constructor argument of the layer that owns a variable.

        Args:
            name: One of `names()`.
            option: Name of the argument, e.g. `"log_alpha_threshold"`.

        Returns:
            The value, or None if the file does not store it (only `.keras` files store constructor arguments).

        Raises:
            CheckpointError: if several layers have this name, their values differ, and nothing tells which is meant.
        """
        del name, option
        return None

    def close(self) -> None:
        """Closes the files. The object cannot be used afterwards."""
        self._resources.close()

    def close_also(self, resources: contextlib.ExitStack) -> None:
        """Hands over files and folders that belong to the checkpoint: `close` closes them, too."""
        self._resources.push(resources)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _is_quantized(self, name):
        # Only Keras files hold quantized matrices, so other formats answer False.
        del name
        return False

    def _known(self, name):
        if name not in self._aliases:
            raise CheckpointError(f"Checkpoint '{self.path}' has no tensor named '{name}'")
        return name


def natural_order(text):
    """Sort key under which `layer_2` comes before `layer_10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]
