"""Refuses checkpoints of techniques whose zeros can't be counted in a file: `refuse_uncountable`.

These layers of the package choose their zeros by a rule of their own, or hold no kernel: hashed layers, movement
pruning, structured Bayesian pruning, SR-STE. Without this, their weights would count as dense, and their other
variables as weights.
"""

from sparsity_tf.checkpoints.checkpoint import CheckpointError
from sparsity_tf.checkpoints.sibling_names import base, leaf

# A variable of such a technique -> another one that is beside it.
_VARIABLES = {"scores": "live", "soft_scores": None, "mu": "log_sigma", "bank": None}


def refuse_uncountable(checkpoint):
    """Raises a `CheckpointError` that names a variable of such a layer, if the checkpoint has one.

    In a file without the layers' arguments (`.weights.h5`), SR-STE can't be recognised.
    """
    for name in checkpoint.names():
        if _is_uncountable(checkpoint, name):
            raise CheckpointError(
                f"'{name}' in '{checkpoint.path}' is of a layer whose zeros can't be counted in the file: "
                "load the model and use `inspection.sparsity_table`"
            )


def _is_uncountable(checkpoint, name):
    aliases = checkpoint.aliases(name)
    for alias in aliases:
        variable = leaf(alias)
        # Only layers of this package name their variables in a file of Keras.
        if variable in _VARIABLES and alias.endswith(f"/vars/{variable}"):
            other = _VARIABLES[variable]
            return other is None or bool(checkpoint.find(base(alias, variable) + other))
    if not any(leaf(alias) == "kernel" for alias in aliases) or checkpoint.layer_option(name, "decay") is None:
        return False
    # SR-STE: beside a decay, the layer has a structure such as "2:4".
    return ":" in str(checkpoint.layer_option(name, "structure"))
