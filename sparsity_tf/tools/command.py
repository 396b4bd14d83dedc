"""Functions that the small commands of this folder share: flags, one-line errors, and reading and writing files."""

import contextlib
import json
import math
import os
import sys
import tempfile

from absl import flags

from sparsity_tf import atomic_files, help_text
from sparsity_tf.bounded_files import LONGEST_COMPLAINT, one_line

# Endings of files of other systems, whose networks are known by the names of their tensors.
_PUBLISHED = (".pth", ".pt", ".tar", ".index")


class CommandError(Exception):
    """An error that ends a command. The user sees its message as one line."""


def run(name, usage, define_flags, action, argv=None, takes_paths=False):
    """Parses the flags of a command and runs it.

    Args:
        name: Name of the command in messages.
        usage: Text above the list of flags in `--help`.
        define_flags: Function that takes an `absl.flags.FlagValues` and defines the flags on it. (The global flags are
            not used, because other programs in the process may use the same names.)
        action: Function that takes the parsed `FlagValues` and does the work.
        argv: List of str, program name first; `sys.argv` by default.
        takes_paths: Whether arguments without hyphens are allowed. `action` gets the list of them as a second argument.

    Returns:
        int, the exit status: 0 success, 1 the command failed, 2 wrong usage. An error is one line on standard error.
    """
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="?", flag_values=values)
    # Flags may stand after paths. (By default absl takes everything after the first path for a path.)
    values.set_gnu_getopt(takes_paths)
    try:
        rest = values(sys.argv if argv is None else argv)[1:]
        if rest and not takes_paths:
            raise flags.Error(f"Unexpected argument: {rest[0]}")
    except flags.Error as error:
        return _fail(name, f"{error} (--help shows the flags)", status=2)
    if values.help:
        print(f"{help_text.head(usage)}\n\nFlags:\n{values.get_help()}")
        return 0
    try:
        action(values, *([rest] if takes_paths else []))
    except flags.Error as error:
        return _fail(name, f"{error} (--help shows the flags)", status=2)
    except (CommandError, ValueError, OSError, MemoryError, ImportError) as error:
        return _fail(name, error, status=1)
    return 0


def define_log_alpha_threshold(values, default):
    """Defines the flag for the threshold of variational dropout.

    Args:
        values: `absl.flags.FlagValues`.
        default: A sentence for `--help` that says what happens without the flag.
    """
    text = f"For variational dropout: weights with a log alpha of this number or more become zero. {default}"
    flags.DEFINE_float("log_alpha_threshold", None, text, flag_values=values)
    flags.register_validator(
        "log_alpha_threshold", lambda x: x is None or math.isfinite(x), "must be a finite number", flag_values=values
    )


def note(name, message):
    """Prints a note on standard error, for example about an assumption."""
    print(f"{name}: note: {message}", file=sys.stderr)


def _fail(name, message, status):
    print(f"{name}: error: {one_line(message, LONGEST_COMPLAINT)}", file=sys.stderr)
    return status


def load_model(path):
    """Loads a network, sparse or dense, without its optimizer: a `.keras` file, or a checkpoint of another system.

    Args:
        path: A `.keras` file, or what `checkpoints.networks.build_network` takes: a published TensorFlow checkpoint of
            *State of Sparsity* (prefix, folder or `.tar`), or a PyTorch checkpoint of STR.

    Raises:
        CommandError: The file is missing, damaged, of another kind, or needs classes that this process does not know.
    """
    import sparsity_tf  # noqa: F401  (registers the package's layers with Keras)
    from sparsity_tf.train import run_folder as state

    if path.endswith(_PUBLISHED) or os.path.isfile(f"{path}.index") or _holds_index(path):
        from sparsity_tf.checkpoints import networks, open_checkpoint

        try:
            with open_checkpoint(path) as checkpoint:
                return networks.build_network(checkpoint)
        except ValueError as error:
            raise CommandError(str(error)) from error
    if not os.path.exists(path):
        raise CommandError(f"{path} does not exist")
    if not os.path.isfile(path) or not path.endswith(".keras"):
        raise CommandError(f"{path} must be a .keras file, which holds the network and its weights")
    try:
        return state.load(path, compile=False)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _holds_index(path):
    """Whether a path is a folder with a TensorFlow checkpoint."""
    return os.path.isdir(path) and any(name.endswith(".index") for name in os.listdir(path))


def parse_shape(text):
    """Parses the shape in a flag: "32,32,3", or "[16],[8,2]" for a model with several inputs; `None` gives `None`.

    Raises:
        absl.flags.Error: The text has another form.
    """
    if text is None:
        return None
    with contextlib.suppress(json.JSONDecodeError):
        shape = json.loads(f"[{text}]")
        shapes = shape if all(isinstance(size, list) for size in shape) else [shape]
        if shape and all(type(size) is int and size > 0 for one in shapes for size in one):
            return tuple(shape) if shapes == [shape] else shape
    raise flags.Error(
        "Flag --input_shape must be positive integers such as 32,32,3, or lists of them such as [16],[8,2] for a model "
        f"with several inputs. Received: {text}"
    )


def check_output(path, suffix, overwrite, flag="--output", saved_model=False, **sources):
    """Refuses an output that can't or must not be written, before any work is done.

    Args:
        path: The path of the output.
        suffix: The ending that the path must have.
        overwrite: Whether an existing file may be replaced.
        flag: The flag that gives the path, for messages.
        saved_model: Whether the output is a folder, a SavedModel of TensorFlow. Only a SavedModel may be replaced.
        **sources: Paths of files that the command reads, by the names of their flags. `None` values are ignored.

    Raises:
        CommandError: `path` has another ending, its folder is missing or not writable, it is one of the sources, or it
            exists already and `overwrite` is false.
    """
    if not path.endswith(suffix):
        raise CommandError(f"{flag} must end in {suffix}. Received: {path}")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise CommandError(f"the folder of {flag} does not exist: {path}")
    if saved_model and os.path.exists(path) and not os.path.isfile(os.path.join(path, "saved_model.pb")):
        raise CommandError(f"{flag} must be a new folder, or one that holds a SavedModel. Received: {path}")
    if os.path.isdir(path) and not saved_model:
        raise CommandError(f"{flag} must be a file. Received the folder {path}")
    if os.path.exists(path):
        for name, source in sources.items():
            if source is not None and os.path.exists(source) and os.path.samefile(path, source):
                raise CommandError(f"{flag} must not be the {name} itself. Received: {path}")
        if not overwrite:
            raise CommandError(f"{path} is there already: pass --overwrite to replace it")
    try:
        tempfile.TemporaryDirectory(prefix=atomic_files.UNFINISHED, dir=os.path.dirname(path) or ".").cleanup()
    except OSError as error:
        raise CommandError(f"{flag} can't be written: {path} ({error.strerror})") from error


def appearing(path, overwrite=False):
    """As `atomic_files.appearing`, but replaces a file that has appeared meanwhile only if `overwrite` is true."""

    def check():
        if os.path.exists(path) and not overwrite:
            raise CommandError(f"{path} was created by another program meanwhile: pass --overwrite to replace it")

    return atomic_files.appearing(path, before_replacing=check)


def read_lines(path):
    """The lines of a UTF-8 text file, or of standard input for "-", without their line ends.

    Raises:
        CommandError: The file is missing, empty, or not UTF-8.
    """
    name = "standard input" if path == "-" else path
    if path == "-":
        content = sys.stdin.buffer.read()
    else:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise CommandError(f"{path} can't be read: {error.strerror}") from error
    # `splitlines` would not do: it also splits at symbols that can be part of a sentence, such as U+2028.
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CommandError(f"{name}, line {number} is not UTF-8: {error}") from error
    if not any(text.strip() for text in texts):
        raise CommandError(f"{name} is empty: there is nothing to read")
    return texts
