r"""Converts a checkpoint that *The State of Sparsity* or *STR* published into a `.keras` network.

```
python -m sparsity_tf.train.import_checkpoint --checkpoint=model.ckpt-500000 --output=transformer.keras \
    [--num_heads=8] [--target_space=0] [--log_alpha_threshold=2.5] [--overwrite]
python -m sparsity_tf.train.import_checkpoint --checkpoint=model_best.pth --output=resnet50.keras \
    [--form=auto|soft_threshold|masked|dense] [--input_shape=224,224,3] [--overwrite]
```

The command recognises the network by the names of its variables. TensorFlow (also in the published `.tar`): the sparse
Transformer (magnitude and random pruning, variational dropout, L0), tensor2tensor's own dense Transformer, or a sparse
ResNet. PyTorch (`.pth`, read without PyTorch): STR's ResNets and MobileNetV1, and dense ResNets with the same names.
The variables also tell the sizes and the technique. `train.translate` (with the vocabulary file of tensor2tensor) and
`train.evaluate` can use the result, and training can go on from it. Exit status 1 if anything is wrong, 2 for wrong
flags; a command that fails leaves no file behind.
"""

import sys

from absl import flags

from sparsity_tf.checkpoints.str_checkpoints import FORMS
from sparsity_tf.tools.command import (
    CommandError,
    appearing,
    check_output,
    define_log_alpha_threshold,
    parse_shape,
    run,
)

_NAME = "import_checkpoint"


def main(argv=None):
    """Runs the command; returns the exit status: 0, 1 (it failed) or 2 (wrong flags)."""
    return run(_NAME, __doc__, _define_flags, _run, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("checkpoint", None, "TensorFlow: prefix, folder or .tar; PyTorch: .pth file.", **own)
    flags.DEFINE_string("output", None, "Where to write the network, a .keras file.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the output if it is there.", **own)
    flags.DEFINE_integer(
        "num_heads", None, "Attention heads of a Transformer; default: one for every 64 units.", lower_bound=1, **own
    )
    flags.DEFINE_integer(
        "target_space",
        0,
        "For a Transformer with a table of target spaces: the row of the table to use.",
        lower_bound=0,
        **own,
    )
    define_log_alpha_threshold(values, "Default 3.")
    text = (
        "STR: what becomes of the weights. auto keeps raw weights and thresholds if the file has them, soft_threshold "
        "demands them; masked and dense hold the weights of inference, zeros included."
    )
    flags.DEFINE_enum("form", "auto", FORMS, text, **own)
    flags.DEFINE_string("input_shape", None, "Shape of one image, default 224,224,3.", **own)


def _run(values):
    for name in ("checkpoint", "output"):
        if values[name].value is None:
            raise flags.Error(f"Flag --{name} is required")
    check_output(values.output, ".keras", values.overwrite)
    from sparsity_tf import inspection
    from sparsity_tf.checkpoints import open_checkpoint
    from sparsity_tf.checkpoints.networks import build_network

    shape = parse_shape(values.input_shape)
    with open_checkpoint(values.checkpoint) as checkpoint:
        model = build_network(checkpoint, values.num_heads, values.target_space, values.form, shape)
    if values.log_alpha_threshold is not None:
        from sparsity_tf.tools.convert import set_log_alpha_threshold

        set_log_alpha_threshold(_sparse_weights(model), values.log_alpha_threshold)
    table = inspection.sparsity_table(model, include_dense=True)
    if not table.finite:
        raise CommandError("the network diverged: weights are not finite")
    with appearing(values.output, values.overwrite) as unfinished:
        model.save(unfinished)
    techniques = sorted({weight.technique.name for weight in _sparse_weights(model)})
    print(
        f"{values.output}: {model.name}, {', '.join(techniques) or 'dense'}, {table.nonzeros:,} of {table.size:,} "
        f"weights not zero: sparsity {100 * table.sparsity:.2f} %"
    )


def _sparse_weights(model):
    from sparsity_tf.layers import get_sparse_weights

    return get_sparse_weights(model)


if __name__ == "__main__":
    sys.exit(main())
