"""Which layers the papers make sparse, as values of `where=`.

In every network of the zoo but the LeNets the first layer with weights is called `stem` and the last `classifier`;
what is between has the stage, the block and its place in the name: `stage2_block1_conv2`, `stage2_block1_projection`,
`block7_depthwise`, `fc1`. (The exact names stand at the top of each family's file.) So a regular expression says which
layers to make sparse; those here are strings and tuples of strings, which also fit into a recipe or a flag. Sparse
momentum and STR make all kernels sparse: `where=None`.
"""

import re

from sparsity_tf.checks import check_string


def all_but(*patterns: str) -> str:
    """A regular expression for `where` that selects all layers but some.

    Args:
        *patterns: Regular expressions, matched in full against the last part of the layer's path, which is its name.

    Returns:
        A string for `where`, matched by a layer if none of `patterns` matches.

    Raises:
        ValueError: No pattern, or one that is no valid regular expression.

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
    # `sparsify` tries names as well as paths: a name that is excluded must not come back in by its path.
    return rf"(?!(.*/)?({'|'.join(patterns)})$).*"


# The first layer stays dense: uniform sparsity in RigL (ResNet-50), `--first-layer-dense` in STR,
# `prune_first_layer=False` in State of Sparsity's extended recipe.
FIRST_LAYER_DENSE = all_but("stem")

# The last layer stays dense: `--last-layer-dense` in STR, `prune_last_layer=False` in State of Sparsity.
LAST_LAYER_DENSE = all_but("classifier")

FIRST_AND_LAST_LAYER_DENSE = all_but("stem", "classifier")

# MobileNet in RigL: the first layer and the depthwise convolutions stay dense.
FIRST_AND_DEPTHWISE_DENSE = all_but("stem", ".*_depthwise")

# DSR, wide residual networks: the 3x3 convolutions inside the blocks.
DSR_WIDE_RESNET = (r"stage\d+_block\d+_conv\d+",)

# DSR, ResNet-50: the convolutions of the bottlenecks and the classifier; stem and projections stay dense.
DSR_RESNET = (r"stage\d+_block\d+_conv\d+", "classifier")
