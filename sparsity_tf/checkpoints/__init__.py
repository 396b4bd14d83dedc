"""Reading checkpoints, ours and those that other systems wrote, without building their models.

`open_checkpoint` gives access to the tensors of a file by name. `checkpoint_sparsity` counts the
zeros that the sparse layers of the file produce at inference. The command
`python -m sparsity_tf.checkpoint_sparsity` uses both.
"""

from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from sparsity_tf.checkpoints.readers import open_checkpoint
from sparsity_tf.checkpoints.report import CheckpointSparsity, TensorSparsity
from sparsity_tf.checkpoints.sparsity import checkpoint_sparsity

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointSparsity",
    "TensorSparsity",
    "checkpoint_sparsity",
    "open_checkpoint",
]


def __dir__():
    return __all__
