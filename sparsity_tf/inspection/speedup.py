"""Estimates how much faster a model could be if zeros cost nothing: `estimate_speedup`.

The estimate comes from Dettmers and Zettlemoyer, "Sparse Networks from Scratch" (arXiv 1907.04840; the option `--bench`
of their program). It times each dense convolution and multiplies the time t by the fraction that is not zero:

* channel sparse: t (1 - c_w) (1 - c_x), where c_w is the fraction of input channels whose weights are all 0, and c_x
  the fraction of input maps, over examples and channels, that are 0 everywhere;
* fully sparse: t d_w d_x, where d_w and d_x are the fractions of non-zero weights and inputs.

Nothing is computed sparsely: the results are times on perfect hardware, not on yours. (`count_flops` makes the same
estimate without a clock, and without the zeros of the inputs.)
"""

import csv
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers as kl

from sparsity_tf.backend import causal_padding
from sparsity_tf.checks import check_built
from sparsity_tf.inspection.forward import batches_of, run_and_hear
from sparsity_tf.inspection.weights import as_numpy, kernel_value
from sparsity_tf.layers import flatten_layers
from sparsity_tf.matching import match_layers
from sparsity_tf.text_table import text_table
from sparsity_tf.type_names import Data, Where

_DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D, *_DEPTHWISE)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)


@dataclass(frozen=True)
class SpeedupRow:
    """The convolutions of one layer, summed over its calls.

    Args:
        name: path of the layer.
        calls: int, number of calls timed.
        dense: seconds of the dense convolution.
        channel: seconds if channels that are 0 cost nothing.
        sparse: seconds if every 0 cost nothing.
    """

    name: str
    calls: int
    dense: float
    channel: float
    sparse: float

    @property
    def channel_speedup(self) -> float:
        """`dense / channel`; infinite if nothing is left to compute."""
        return _ratio(self.dense, self.channel)

    @property
    def sparse_speedup(self) -> float:
        """`dense / sparse`; infinite if nothing is left to compute."""
        return _ratio(self.dense, self.sparse)


class SpeedupTable:
    """Estimated times of convolutions, layer by layer and in total; made by `estimate_speedup`.

    Tables of the same model can be added up, in training for instance: `running = running + estimate_speedup(...)`.
    `str(table)` is a readable table.

    Args:
        rows: sequence of `SpeedupRow`.

    Example:

    ```python
    table = estimate_speedup(model, x[:32])
    print(table.channel_speedup, table.sparse_speedup)
    ```
    """

    def __init__(self, rows: Sequence[SpeedupRow]) -> None:
        self.rows = list(rows)

    @property
    def dense(self) -> float:
        """Seconds of all dense convolutions."""
        return sum(row.dense for row in self.rows)

    @property
    def channel(self) -> float:
        """Seconds if channels that are 0 cost nothing."""
        return sum(row.channel for row in self.rows)

    @property
    def sparse(self) -> float:
        """Seconds if every 0 cost nothing."""
        return sum(row.sparse for row in self.rows)

    @property
    def channel_speedup(self) -> float:
        """`dense / channel`; infinite if nothing is left to compute."""
        return _ratio(self.dense, self.channel)

    @property
    def sparse_speedup(self) -> float:
        """`dense / sparse`; infinite if nothing is left to compute."""
        return _ratio(self.dense, self.sparse)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the rows and a row `total` as CSV: layer, calls, three times in seconds of all calls, two ratios.

        Args:
            path: Path of the file; an existing file is replaced.

        Example:

        ```python
        estimate_speedup(model, x[:32]).to_csv("speedup.csv")
        ```
        """
        total = SpeedupRow("total", sum(row.calls for row in self.rows), self.dense, self.channel, self.sparse)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                [
                    "layer",
                    "calls",
                    "dense_seconds",
                    "channel_seconds",
                    "sparse_seconds",
                    "dense/channel",
                    "dense/sparse",
                ]
            )
            for row in (*self.rows, total):
                writer.writerow(
                    [row.name, row.calls, row.dense, row.channel, row.sparse, row.channel_speedup, row.sparse_speedup]
                )

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __add__(self, other):
        names = [row.name for row in self.rows]
        if not isinstance(other, SpeedupTable) or [row.name for row in other.rows] != names:
            raise ValueError(f"Tables of the same layers can be added up. Received: {self!r} and {other!r}")
        return SpeedupTable(
            SpeedupRow(a.name, a.calls + b.calls, a.dense + b.dense, a.channel + b.channel, a.sparse + b.sparse)
            for a, b in zip(self.rows, other.rows, strict=True)
        )

    def __str__(self):
        header = ["layer", "calls", "dense, ms", "channel, ms", "sparse, ms", "dense/channel", "dense/sparse"]
        body = [
            [row.name, f"{row.calls:,}", *(_milliseconds(t / row.calls) for t in (row.dense, row.channel, row.sparse))]
            + [_times(row.channel_speedup), _times(row.sparse_speedup)]
            for row in self.rows
        ]
        body.append(
            ["total", "", *map(_milliseconds, (self.dense, self.channel, self.sparse))]
            + [_times(self.channel_speedup), _times(self.sparse_speedup)]
        )
        table = text_table(body, header, ["left", *["right"] * 6])
        return (
            f"{table}\nRows of layers: mean of one call. Row total: sum of all calls. An estimate: nothing was "
            "computed sparsely."
        )

    def __repr__(self):
        return f"<SpeedupTable rows={len(self.rows)}, dense={self.dense:.3g} s, sparse={self.sparse:.3g} s>"


def estimate_speedup(model: keras.layers.Layer, data: Data, where: Where = None) -> SpeedupTable:
    """Estimates how much faster the convolutions of a model could be, from the zeros in weights and inputs.

    The function runs the model for inference (batch normalisation and dropout too), eagerly, on the default device. It
    times every convolution with the kernel that inference uses, without bias and activation. Zeros in inputs mostly
    come from ReLU, so `data` should be real.

    Args:
        model: built Keras model, dense or sparse.
        data: batches of inputs: an array, a tuple `(inputs, targets)`, or an iterable of either, such as a
            `tf.data.Dataset`. Targets are ignored. More batches make the times more exact.
        where: which layers to time, as in `sparsify`: names, regular expressions or a predicate. `None` (default):
            every `Conv1D/2D/3D` and `DepthwiseConv1D/2D`. The source's program leaves out the shortcuts of residual
            networks.

    Returns:
        A `SpeedupTable` with one row for each layer, in the order of the model. Layers that did not run have no row.

    Raises:
        ValueError: if `model` is not built, `data` is empty or no layer is selected.

    Example:

    ```python
    print(estimate_speedup(model, x[:128], where=["conv.*"]))
    ```
    """
    check_built("model", model)
    selected = timed_layers(model, where)
    kernels = {}
    sums = {id(layer): np.zeros(4) for layer in selected}

    def hear(layer, inputs, _):
        if id(layer) not in kernels:
            kernels[id(layer)] = kernel_value(layer)
        x, kernel = as_numpy(inputs), kernels[id(layer)]
        seconds = _seconds(layer, inputs, kernel)
        dead_weights, dead_inputs = _dead_channels_of_kernel(layer, kernel), _dead_maps(layer, x)
        channel = (1 - dead_weights) * (1 - dead_inputs)
        sparse = _density(kernel) * _density(x)
        sums[id(layer)] += (1, seconds, seconds * channel, seconds * sparse)

    for inputs, _ in batches_of(data):
        run_and_hear(model, inputs, selected, hear)
    rows = []
    for layer in selected:
        calls, dense, channel, sparse = sums[id(layer)].tolist()
        if calls:
            rows.append(SpeedupRow(layer.path or layer.name, int(calls), dense, channel, sparse))
    return SpeedupTable(rows)


def timed_layers(model, where=None):
    """The layers that `estimate_speedup` times.

    Raises:
        ValueError: None of the selected layers is a convolution.
    """
    chosen = flatten_layers(model) if where is None else match_layers(model, where)
    chosen = [layer for layer in chosen if isinstance(layer, _CONVOLUTIONS) and not isinstance(layer, _TRANSPOSED)]
    if not chosen:
        raise ValueError(
            f"`where` must select a convolution of the model. Received: where={where!r} with model={model.name!r}"
        )
    return chosen


def _seconds(layer, inputs, kernel):
    """Wall time of the layer's dense convolution. A first call, which may compile, is not counted."""
    kernel = keras.ops.convert_to_tensor(kernel, dtype=inputs.dtype)
    for _ in range(2):
        start = time.perf_counter()
        outputs = _convolve(layer, inputs, kernel)
        # Reading one element waits for the whole result. The cast is needed because numpy can't read a bfloat16 scalar
        # of TensorFlow.
        keras.ops.convert_to_numpy(keras.ops.cast(outputs[(0,) * len(outputs.shape)], "float32"))
        seconds = time.perf_counter() - start
    return seconds


def _convolve(layer, inputs, kernel):
    padding = layer.padding
    if padding == "causal":
        inputs, padding = keras.ops.pad(inputs, causal_padding(layer)), "valid"
    operation = keras.ops.depthwise_conv if isinstance(layer, _DEPTHWISE) else keras.ops.conv
    return operation(
        inputs,
        kernel,
        strides=layer.strides,
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _dead_channels_of_kernel(layer, kernel):
    """The fraction of input channels whose weights are all 0."""
    groups = 1 if isinstance(layer, _DEPTHWISE) else layer.groups
    # A filter of group g reads the channels of group g only. Axes: (positions, channels a group, groups, filters a
    # group).
    by_group = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
    return 1 - np.count_nonzero(by_group.any(axis=(0, 3))) / (kernel.shape[-2] * groups)


def _dead_maps(layer, x):
    """The fraction of maps, over examples and channels, that are 0 everywhere."""
    channel = x.ndim - 1 if layer.data_format == "channels_last" else 1
    live = x.any(axis=tuple(axis for axis in range(1, x.ndim) if axis != channel))
    return 1 - np.count_nonzero(live) / live.size


def _density(array):
    return np.count_nonzero(array) / array.size


def _ratio(dense, other):
    if other:
        return dense / other
    return math.inf if dense else 1.0


def _milliseconds(seconds):
    return f"{1e3 * seconds:.3f}"


def _times(ratio):
    return f"{ratio:.2f}x"
