"""Which layers the papers make sparse, as values of `where=`.

In every network here but the LeNets the first layer with weights is called `stem` and the last `classifier`. The names
of the layers between them hold the stage, the block and the place in the block: `stage2_block1_conv2`,
`stage2_block1_projection`, `block7_depthwise`, `fc1`. (The exact names stand at the top of each family's file.) So a
regular expression can say which layers to make sparse. The values here are strings and tuples of strings, which also
fit into a recipe or a flag. Sparse momentum and STR make all kernels sparse: `where=None`.
"""

import re

from sparsity_tf.checks import check_string


def all_but(*patterns: str) -> str:
    """Makes a regular expression for `where` that selects all layers but some.

    Args:
        *patterns: Regular expressions for the layers to leave out. Each must match the whole name of a layer, which is
            the last part of the layer's path.

    Returns:
        A string for `where`. It matches a layer if none of `patterns` does.

    Raises:
        ValueError: No pattern is given, or a pattern is not a valid regular expression.

    Example:
        >>> model = cifar_resnet(20, technique="masked", where=all_but("stem", ".*_projection"))
    """
    if not patterns:
        raise ValueError("`patterns` must hold at least one regular expression. Received: none")
    for pattern in patterns:
        check_string("patterns", pattern)
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`patterns` holds an invalid regular expression {pattern!r}: {error}") from None
    # `sparsify` tries names and paths. A layer whose name is excluded must not be selected by its path.
    return rf"(?!(.*/)?({'|'.join(patterns)})$).*"


# The first layer stays dense: uniform sparsity in RigL (ResNet-50), `--first-layer-dense` in STR,
# `prune_first_layer=False` in State of Sparsity's extended recipe.
FIRST_LAYER_DENSE = all_but("stem")

# The last layer stays dense: `--last-layer-dense` in STR, `prune_last_layer=False` in State of Sparsity.
LAST_LAYER_DENSE = all_but("classifier")

# The first and the last layer stay dense.
FIRST_AND_LAST_LAYER_DENSE = all_but("stem", "classifier")

# MobileNet in RigL: the first layer and the depthwise convolutions stay dense.
FIRST_AND_DEPTHWISE_DENSE = all_but("stem", ".*_depthwise")

# DSR, wide residual networks: the 3x3 convolutions inside the blocks.
DSR_WIDE_RESNET = (r"stage\d+_block\d+_conv\d+",)

# DSR, ResNet-50: the convolutions of the bottlenecks and the classifier; stem and projections stay dense.
DSR_RESNET = (r"stage\d+_block\d+_conv\d+", "classifier")
