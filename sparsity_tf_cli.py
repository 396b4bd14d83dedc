"""The console command `sparsity-tf`: finds the program that its arguments name, and runs it as `python -m` would.

This module lies beside the package, not in it: importing a module of the package imports the package first, and with it
Keras and its backend, which takes seconds. `--help`, `--version` and the programs in `_WITHOUT_KERAS` need neither.
"""

import ast
import difflib
import importlib.util
import os
import pathlib
import runpy
import select
import sys

# By the words that name it: the module of a program, and what it does.
PROGRAMS = {
    "train classifier": ("sparsity_tf.train.classifier", "train an image classifier: MNIST, CIFAR, ImageNet"),
    "train translator": ("sparsity_tf.train.translator", "train a Transformer to translate"),
    "train language-model": ("sparsity_tf.train.language_model", "train a recurrent network to predict characters"),
    "train text-classifier": ("sparsity_tf.train.text_classifier", "train an LSTM to classify texts"),
    "checkpoint-sparsity": (
        "sparsity_tf.tools.checkpoint_sparsity",
        "show how sparse a checkpoint file is, weight by weight",
    ),
    "evaluate": ("sparsity_tf.tools.evaluate", "measure error and sparsity of a saved classifier"),
    "convert": (
        "sparsity_tf.tools.convert",
        "convert a sparse .keras file to a plain one that holds the zeros in its weights",
    ),
    "budget": (
        "sparsity_tf.tools.budget",
        "write the sparsity of each layer of a network to a CSV file, for another training",
    ),
    "summarize": ("sparsity_tf.tools.summarize", "show mean, standard error and 95 % interval of runs over seeds"),
    "report": ("sparsity_tf.tools.report", "measure how much smaller and faster a network gets in each runtime"),
    "tradeoff": ("sparsity_tf.tools.tradeoff", "show published and own results: quality at each level of sparsity"),
    "study": ("sparsity_tf.tools.study", "run a grid of trainings that a file describes, with its table and plots"),
    "widths": ("sparsity_tf.tools.widths", "draw accuracy and sparsity of own runs against the width of the network"),
    "translate": ("sparsity_tf.tools.translate", "translate a text with a trained Transformer"),
    "bleu": ("sparsity_tf.tools.bleu", "score translations with BLEU"),
    "import-checkpoint": (
        "sparsity_tf.tools.import_checkpoint",
        "convert a published checkpoint (TensorFlow, PyTorch) to a .keras file",
    ),
    "check-published": (
        "sparsity_tf.tools.check_published",
        "measure a published checkpoint and compare the score with its claim",
    ),
}
_WITHOUT_KERAS = ("bleu",)


def main(argv=None):
    """Runs the command.

    Args:
        argv: List of str, program name first; `sys.argv` by default.

    Returns:
        int, the exit status: 0 success, 2 a command that does not exist. A program that runs ends the process with its
        own status, by `SystemExit`.
    """
    try:
        try:
            status = _main((sys.argv if argv is None else argv)[1:])
        except SystemExit:
            _flush()
            raise
        _flush()
        return status
    except BrokenPipeError:
        if _has_reader(sys.stdout):  # Another pipe is broken, which is an error of the program.
            raise
        # The reader, such as `head`, has gone. Python would try to write what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _flush():
    if sys.stdout is not None:  # None: the process was started without one, as by `>&-`.
        sys.stdout.flush()


def _has_reader(output):
    """Whether a write to the output can arrive; not if it is a pipe that nobody reads any more."""
    if output is None:
        return True
    try:
        output.flush()
        if hasattr(select, "poll"):  # Output without a buffer has nothing to flush.
            poll = select.poll()
            poll.register(output, select.POLLOUT)
            return not any(event & select.POLLERR for _, event in poll.poll(0))
    except BrokenPipeError:
        return False
    except (OSError, ValueError):  # It is no file of the system.
        pass
    return True


def _main(arguments):
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_help(PROGRAMS))
        return 0
    if arguments[0] == "--version":
        print(f"sparsity-tf {_version()}")
        return 0
    words = 2 if arguments[0] == "train" else 1
    # `language_model` is how the module is called.
    name = " ".join(arguments[:words]).replace("_", "-")
    if name in PROGRAMS:
        return _run(name, arguments[words:])
    if arguments[0] == "train" and (len(arguments) == 1 or arguments[1] in ("--help", "-h")):
        print(_help([one for one in PROGRAMS if one.startswith("train ")]))
        return 0
    near = difflib.get_close_matches(name, ["train", *PROGRAMS], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return _fail(f"no command {' '.join(arguments[:words])!r}; {hint}(--help lists the commands)", status=2)


def _run(name, arguments):
    module = PROGRAMS[name][0]
    loaded = "sparsity_tf" in sys.modules
    if name in _WITHOUT_KERAS:
        if not loaded:
            _register_without_keras()
    else:
        # Only errors: the log of TensorFlow and XLA would hide what the program prints.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import sparsity_tf  # noqa: F401
        except ModuleNotFoundError as error:
            if type(error).__name__ != "MissingPackageError":
                raise
            # The status of the programs themselves for what they can't use.
            return _fail(error, status=2 if name.startswith("train ") else 1)
    old = sys.argv
    sys.argv = [f"sparsity-tf {name}", *arguments]
    try:
        # `--help` of the program shows the name.
        runpy.run_module(module, {"CALLED_AS": f"sparsity-tf {name}"}, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = old
        if name in _WITHOUT_KERAS and not loaded:
            for one in [one for one in sys.modules if one.partition(".")[0] == "sparsity_tf"]:
                del sys.modules[one]
    return 0


def _register_without_keras():
    """Makes the modules of the package importable without a run of its `__init__`, which imports Keras."""
    sys.modules["sparsity_tf"] = importlib.util.module_from_spec(importlib.util.find_spec("sparsity_tf"))


def _help(names):
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {PROGRAMS[name][1]}" for name in names]
    return "\n".join(
        [
            "usage: sparsity-tf COMMAND [FLAGS]        (sparsity-tf COMMAND --help shows the flags)",
            "       sparsity-tf --help | --version",
            "",
            *lines,
        ]
    )


def _version():
    """The package's `__version__`, read from its file."""
    source = pathlib.Path(importlib.util.find_spec("sparsity_tf").origin).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__version__":
            return ast.literal_eval(node.value)
    raise AssertionError("sparsity_tf/__init__.py sets no __version__")


def _fail(message, status):
    print(f"sparsity-tf: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
