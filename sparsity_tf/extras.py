"""Imports optional packages where they are used. If one is missing, the error says in one sentence how to install it.

`pip install sparsity-tf` installs the packages that `import sparsity_tf` needs. Every other package belongs to an extra
of `pyproject.toml`; `EXTRAS` says to which.
"""

import importlib
import importlib.util
import os

# Name under which a package is imported -> the extra that installs the package.
EXTRAS = {
    "ai_edge_litert": "export",
    "onnx": "export",
    "onnxruntime": "export",
    "openvino": "export",
    "tf2onnx": "export",
    "PIL": "plot",
    "importlib_resources": "train",
    "jax": "jax",
    "matplotlib": "plot",
    "mlxtend": "demo",
    "optuna": "optuna",
    "ray": "ray",
    "sacrebleu": "text",
    "sacremoses": "text",
    "sentencepiece": "text",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "train",
    "torch": "torch",
}
# The backends of Keras, in the order in which the error message proposes them.
BACKENDS = ("tensorflow", "jax", "torch")


class MissingPackageError(ModuleNotFoundError):
    """An optional package is not installed. The message names the `pip install` command for it."""


def import_optional(name, instead=None):
    """Imports a package that an extra installs, or a module of such a package.

    Args:
        name: Dotted name of the module. Its first part is a key of `EXTRAS`.
        instead: Another remedy, for the end of the message: "give `data_dir`".

    Returns:
        The module.

    Raises:
        MissingPackageError: The package, or a package that it needs, is not installed. The message is one sentence.
        ImportError: The package is installed but broken. This is the package's own error, unchanged.

    Example:

    >>> Image = import_optional("PIL.Image")
    >>> Image.new("L", (3, 2)).size
    (3, 2)
    """
    package = name.partition(".")[0]
    extra = EXTRAS[package]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        if missing == package and _is_installed(package):
            raise  # This release of the package does not have the module.
        reason = "" if missing == package else f", which {package} needs,"
        also = f", or {instead}" if instead else ""
        raise MissingPackageError(
            f"The package {missing}{reason} is not installed: {pip_install(extra)}{also}.", name=missing
        ) from error


def import_keras():
    """Imports Keras with the backend that Keras is set to.

    Raises:
        MissingPackageError: The backend is not installed. The message is one sentence. If another backend is installed,
            the message proposes it.
    """
    try:
        return importlib.import_module("keras")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in BACKENDS or _is_installed(missing):
            raise
    others = [name for name in BACKENDS if name != missing and _is_installed(name)]
    if others:
        remedy = (
            f"set the environment variable KERAS_BACKEND={others[0]}, which is installed, or {pip_install(missing)}"
        )
    elif os.environ.get("KERAS_BACKEND") == missing:
        remedy = pip_install(missing)
    else:
        remedy = f'{pip_install(missing)} (or "sparsity-tf[jax]" or "sparsity-tf[torch]", and set KERAS_BACKEND to it)'
    # `from None`, because Keras's traceback says nothing that the sentence does not say.
    raise MissingPackageError(
        f"Keras is set to a backend that needs {missing}, which is not installed: {remedy}.", name=missing
    ) from None


def pip_install(extra):
    """The command that installs an extra."""
    return f'pip install "sparsity-tf[{extra}]"'


def _is_installed(package):
    return importlib.util.find_spec(package) is not None
