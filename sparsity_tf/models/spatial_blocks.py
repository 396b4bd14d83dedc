"""Residual blocks that compute a part of their maps only: with masks of positions, or with a spatial bottleneck.

The spatial bottleneck (Peng et al., 2018, arXiv 1809.02601) halves the maps inside a block: the first convolution has
twice the stride, and a transposed convolution with stride 2 restores the size. So both compute a quarter of the
positions. DSR's `dst` package has it, and masks (`layers.SparseActivation`) that imitate it: they set positions to zero
between the two convolutions. Masks show the effect on accuracy, but save no arithmetic.
"""

from dataclasses import dataclass

from keras import layers

from sparsity_tf.checks import check_bool, check_choice, check_seed
from sparsity_tf.layers import SparseActivation, SparseBatchNormalization

MASKS = ("none", "structured", "static", "dynamic")


@dataclass
class Positions:
    """Which positions the blocks of a network compute.

    Args:
        spatial_mask: "none" (or `None`), or a mode of `SparseActivation`.
        quarters: Number of quarters of the positions that are live, 1, 2 or 3. It has no effect without a mask.
        spatial_bottleneck: Whether blocks have the real spatial bottleneck; only without a mask.
        seed: Integer seed of random masks; `None` draws the seeds.

    Raises:
        ValueError: For any other argument.
    """

    spatial_mask: str | None
    quarters: int
    spatial_bottleneck: bool
    seed: int | None
    # Number of masks made.
    made: int = 0

    def __post_init__(self):
        self.spatial_mask = "none" if self.spatial_mask is None else self.spatial_mask
        check_choice("spatial_mask", self.spatial_mask, MASKS)
        check_choice("quarters", self.quarters, (1, 2, 3))
        check_bool("spatial_bottleneck", self.spatial_bottleneck)
        check_seed("seed", self.seed)
        if self.spatial_bottleneck and self.spatial_mask != "none":
            raise ValueError(
                "`spatial_bottleneck` must be False with a `spatial_mask`, which imitates it. Received: "
                f"spatial_bottleneck=True, spatial_mask={self.spatial_mask!r}"
            )

    @property
    def are_masked(self):
        """Whether blocks have masks."""
        return self.spatial_mask != "none"

    def new_mask(self):
        """A `SparseActivation` for the next block. Each block has a mask of its own, and a seed of its own."""
        seed = None if self.seed is None else self.seed + self.made
        self.made += 1
        return SparseActivation(
            self.spatial_mask, self.quarters / 4, data_format="channels_last", seed=seed, name="sparse_activation"
        )


def pair(net, x, inner, filters, strides, positions, first, second):
    """Two 3x3 convolutions of which the first, or both, compute a part of the positions; no ReLU at the end.

    Args:
        net: The `Layers` of the network.
        x: Input of the pair.
        inner, filters: Numbers of filters of the first and of the second convolution.
        strides: Stride of the pair.
        positions: `Positions`.
        first, second: Names of the convolutions. Batch normalisation `<name>_bn` follows each.
    """
    x = net.conv(x, inner, 3, 2 * strides if positions.spatial_bottleneck else strides, name=first)
    if positions.are_masked:
        mask = positions.new_mask()
        x = SparseBatchNormalization(momentum=0.9, epsilon=1e-5, sparse_activation=mask, name=f"{first}_bn")(x)
    else:
        x = net.batch_norm(x, f"{first}_bn")
    x = net.relu(x, f"{first}_relu")
    if positions.spatial_bottleneck:
        x = net.conv_transpose(x, filters, name=second)
    else:
        x = net.conv(x, filters, 3, name=second)
    return net.batch_norm(x, f"{second}_bn")


def basic_block(net, x, filters, strides, positions, name):
    """3x3 convolution, 3x3 convolution, plus the shortcut."""
    residual = pair(net, x, filters, filters, strides, positions, f"{name}_conv1", f"{name}_conv2")
    return add_shortcut(net, x, residual, strides, name)


def add_shortcut(net, x, residual, strides, name):
    """The residual plus the block's input, through a 1x1 convolution where the shape changes; then ReLU."""
    if strides > 1 or x.shape[-1] != residual.shape[-1]:
        x = net.conv(x, residual.shape[-1], 1, strides, name=f"{name}_projection")
        x = net.batch_norm(x, f"{name}_projection_bn")
    return net.relu(layers.Add(name=f"{name}_add")([residual, x]), f"{name}_relu")
