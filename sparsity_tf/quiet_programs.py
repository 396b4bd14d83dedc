"""Programs of this package hide what TensorFlow and JAX say of themselves. `import sparsity_tf` alone hides nothing."""

import os
import sys


def quieten():
    """Hides TensorFlow's and XLA's notes and warnings in a program of this package; errors stay.

    A level that the user has set stays, too. The level counts only if it is set before the backend is imported.
    (`sparsity-tf` sets it itself: see `sparsity_tf_cli`.)
    """
    if _is_program():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _is_program():
    """Whether this import belongs to the start of `python -m sparsity_tf...`."""
    # While Python looks for the module of `-m` and imports the packages around it, `sys.argv` begins with "-m".
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    module = next((word for option, word in pairs if option == "-m"), "")
    return sys.argv[:1] == ["-m"] and module.startswith("sparsity_tf.")
