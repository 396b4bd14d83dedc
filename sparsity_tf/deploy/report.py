"""Measures on this machine how much shipping a sparse network gains, runtime by runtime: `deployment_report`.

Each runtime runs the sparse network and a dense network of the same layers, in turns. Some figures can't be measured on
this machine (a GPU with 2:4 sparsity). They come from publications, and the report names the source.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers as kl

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_built, check_integer, check_integers, check_model, check_number
from sparsity_tf.deploy import litert
from sparsity_tf.deploy.compact_file import save_compact
from sparsity_tf.deploy.export import FORMATS, example_inputs, export
from sparsity_tf.deploy.runtimes import open_runtime
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.inspection.weights import kernel_value, weight_records
from sparsity_tf.layers import flatten_layers
from sparsity_tf.text_table import text_table, wrapped
from sparsity_tf.to_dense import to_dense
from sparsity_tf.type_names import Data

TARGETS = {"keras": "Keras", "litert": "LiteRT", "onnx": "ONNX Runtime", "openvino": "OpenVINO", "gpu_2_4": "GPU, 2:4"}
_MEASURED = "measured"
_READ_GPU = (
    "read: pytorch/tutorials#3236, NVIDIA/TensorRT#2310 and #3849, NVIDIA/Model-Optimizer#1974 (0 to 15 % end to end, "
    "sometimes slower)"
)
# A ratio below this one is no gain: the medians of equal networks differ by as much.
_GAIN = 1.1
# A table with more batch sizes is continued in a second one.
_BATCHES_ACROSS = 3


@dataclass(frozen=True)
class DeploymentRow:
    """One way to ship a network in one runtime.

    Args:
        target: "keras", "litert", "onnx", "openvino" or "gpu_2_4".
        way: "sparse" (unchanged), "shrunk" (without units that do nothing) or "shrunk, int8".
        bytes: int, size of the file, or `None` if no file could be written.
        dense_bytes: int, size of the file of the dense network, or `None`.
        seconds: dict, batch size -> median seconds of processor time of a call.
        speedup: dict, batch size -> how many times faster than the dense network: the median over rounds.
        why: the reason for the figures, or the reason why there is no gain and what to do about it.
        source: "measured", or "read: ..." for figures that others published.
    """

    target: str
    way: str
    bytes: int | None
    dense_bytes: int | None
    seconds: dict = field(default_factory=dict)
    speedup: dict = field(default_factory=dict)
    why: str = ""
    source: str = _MEASURED

    @property
    def smaller(self) -> float | None:
        """How many times smaller the file is than the dense network's; `None` if there is no file."""
        return self.dense_bytes / self.bytes if self.bytes and self.dense_bytes else None


class DeploymentReport:
    """The gain from shipping, made by `deployment_report`; `str(report)` is a readable table.

    Args:
        rows: sequence of `DeploymentRow`.
        lint: list of `litert.Finding`: rules of LiteRT that the network breaks.
        sparsity: fraction of zeros in the kernels.
        parameters: `(dense, shrunk)`; the second is `None` if the model can't be shrunk.
        batch_sizes: tuple of ints.

    Example:

    ```python
    report = sparsity_tf.deployment_report(model, targets=("keras",), rounds=1)
    print(report.gain)
    for row in report.rows:
        print(row.target, row.way, row.bytes, row.speedup)
    ```
    """

    def __init__(
        self,
        rows: Sequence[DeploymentRow],
        lint: list[litert.Finding],
        sparsity: float,
        parameters: tuple[int, int | None],
        batch_sizes: tuple[int, ...],
    ) -> None:
        self.rows, self.lint = list(rows), list(lint)
        self.sparsity, self.parameters, self.batch_sizes = sparsity, parameters, tuple(batch_sizes)

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __repr__(self):
        return f"<DeploymentReport rows={len(self.rows)}, sparsity={self.sparsity:.4f}>"

    @property
    def gain(self) -> str:
        """The best result that was measured at the smallest batch size, in one sentence."""
        batch = min(self.batch_sizes)
        rows = [row for row in self.rows if row.source == _MEASURED and row.smaller and batch in row.speedup]
        if not rows:
            return "Shipping: nothing could be measured."
        best = max(rows, key=lambda row: (row.speedup[batch] if row.speedup[batch] >= _GAIN else 1.0, row.smaller))
        speed = best.speedup[batch]
        faster = f"{speed:.1f} times faster" if speed >= _GAIN else "no faster"
        gain = f"{best.smaller:.1f} times smaller and {faster} than dense at batch {batch}"
        return f"Shipping gains most in {TARGETS[best.target]} ({best.way}): {gain}."

    def __str__(self):
        first = f"{100 * self.sparsity:.2f} % of the weights of kernels are zero"
        dense, small = self.parameters
        if small is not None:
            first += f"; {dense:,} parameters, {small:,} after `shrink`"
        lines = wrapped(first)
        for start in range(0, len(self.batch_sizes), _BATCHES_ACROSS):
            lines.append(self._table(self.batch_sizes[start : start + _BATCHES_ACROSS]))
        lines += wrapped(
            "faster: processor time of a dense network with the same layers, divided by the time of this row (medians)"
        )
        reasons = {}
        for row in self.rows:
            why = row.why if row.source == _MEASURED else f"{row.why} ({row.source})".strip()
            if why:
                reasons.setdefault(why, []).append(f"{TARGETS[row.target]} ({row.way})")
        rules = {}
        for finding in self.lint:
            rules.setdefault(f"{finding.rule} ({finding.source})", []).append(finding.layer)
        for title, items in (("Why:", reasons), ("LiteRT's rules:", rules)):
            if items:
                lines.append(title)
            for text, names in items.items():
                lines += wrapped(f"- {', '.join(names)}: {text}", "  ")
        return "\n".join([*lines, *wrapped(self.gain)])

    def _table(self, batch_sizes):
        header = ["runtime", "way", "bytes", "smaller", *(f"batch {n}:\nfaster" for n in batch_sizes)]
        body = [
            [
                TARGETS[row.target],
                row.way,
                "" if row.bytes is None else f"{row.bytes:,}",
                "" if row.smaller is None else f"{row.smaller:.2f}x",
                *(f"{row.speedup[n]:.2f}x" if n in row.speedup else "" for n in batch_sizes),
            ]
            for row in self.rows
        ]
        align = ["left", "left", *["right"] * (2 + len(batch_sizes))]
        return text_table(body, header, align)

    def to_dict(self) -> dict:
        """Returns the report as plain Python values.

        Returns:
            `{"rows": [{"target", "way", "bytes", "dense_bytes", "seconds", "speedup", "why", "source"}, ...], "lint":
            [{"layer", "rule", "blocks", "source"}, ...], "sparsity", "parameters", "batch_sizes", "gain"}`.
        """
        return {
            "rows": [dict(vars(row)) for row in self.rows],
            "lint": [dict(vars(finding)) for finding in self.lint],
            "sparsity": self.sparsity,
            "parameters": list(self.parameters),
            "batch_sizes": list(self.batch_sizes),
            "gain": self.gain,
        }


def deployment_report(
    model: keras.Model,
    data: Data | None = None,
    targets: Sequence[str] = tuple(TARGETS),
    batch_sizes: Sequence[int] = (1, 32),
    rounds: int = 9,
    seconds: float = 0.05,
) -> DeploymentReport:
    """Measures how much a sparse network gains over a dense network of the same layers, and explains missing gains.

    For each runtime the network is written and run in several ways: unchanged, shrunk (`sparsity_tf.shrink`), and with
    `data` also shrunk and quantised to int8 (LiteRT). The dense network has the same layers and no zeros. The ways run
    in turns, on one thread if the runtime allows this setting. Times are processor time. Nothing is kept on disk, and
    the model is left as it is.

    If the package of a runtime is missing, or this backend of Keras can't write its format, a row of the report says
    so.

    Args:
        model: Built Keras model, sparse or with zeros, whose input shapes are fixed except for the batch.
        data: Representative inputs, as for `export`. Default: random inputs.
        targets: Some of "keras", "litert", "onnx", "openvino", "gpu_2_4".
        batch_sizes: Tuple of batch sizes.
        rounds: Number of rounds. Each way runs once in every round.
        seconds: Approximate time for which a way runs in a round.

    Returns:
        A `DeploymentReport`; `deploy.plot_deployment` draws it.

    Raises:
        ValueError: `model` is not built or has inputs of unknown shape, or an argument is wrong.

    Example:

    ```python
    print(sparsity_tf.deployment_report(model))
    ```
    """
    check_model("model", model)
    check_built("model", model)
    if not isinstance(targets, list | tuple) or not targets or any(target not in tuple(TARGETS) for target in targets):
        raise ValueError(f"`targets` must be a list of some of {list(TARGETS)}. Received: targets={targets!r}")
    check_integers("batch_sizes", batch_sizes, 1)
    check_integer("rounds", rounds, 1)
    check_number("seconds", seconds, above=0)
    inputs = {batch: example_inputs(model, data, batch) for batch in batch_sizes}
    ways, notes = _ways(model)
    facts = _Facts(ways)
    rows = []
    for target in targets:
        if target == "gpu_2_4":
            rows.append(_gpu_row(facts))
            continue
        more = {"shrunk, int8": ways.get("shrunk", ways["sparse"])} if target == "litert" and data is not None else {}
        rows += _rows_of_target(target, {**ways, **more}, facts, inputs, data, rounds, seconds)
    shrunk_size = facts.parameters.get("shrunk")
    report = DeploymentReport(
        rows, litert.lint(ways["sparse"]), facts.sparsity, (facts.parameters["sparse"], shrunk_size), batch_sizes
    )
    if notes:
        report.rows.append(DeploymentRow(targets[0], "shrunk", None, None, why=notes[0]))
    return report


def _ways(model):
    """The plain models to compare, by name, and notes on models that can't be made."""
    sparse = to_dense(model)
    ways, notes = {"dense": _filled(sparse), "sparse": sparse}, []
    try:
        ways["shrunk"] = shrink(sparse)
    except ValueError as error:
        notes.append(f"can't be shrunk: {one_line(error)}")
    return ways, notes


def _filled(model):
    """A copy in which other values of the same kernel replace its zeros, scaled to the same variance."""
    dense = to_dense(model)
    rng = np.random.default_rng(0)
    for layer in flatten_layers(dense):
        for record in weight_records(layer):
            if "float" not in record.variable.dtype:
                continue
            value = np.array(keras.ops.convert_to_numpy(keras.ops.cast(record.variable, "float32")))
            zeros, live = value == 0, value[value != 0]
            if zeros.any():
                if not len(live):
                    live = np.array([-0.01, 0.01], "float32")
                value[zeros] = rng.choice(live, np.count_nonzero(zeros))
                record.variable.assign(value * np.sqrt(record.nonzeros / value.size or 1.0))
    return dense


class _Facts:
    """The facts for the reasons: which kernels have zeros, in blocks or not, and how much shrinking removes."""

    def __init__(self, ways):
        self.parameters = {name: model.count_params() for name, model in ways.items()}
        layers = flatten_layers(ways["sparse"])
        records = [record for layer in layers for record in weight_records(layer)]
        size = sum(int(np.prod(record.shape)) for record in records)
        self.sparsity = 1 - sum(record.nonzeros for record in records) / size if size else 0.0
        sparse = [layer for layer in layers if litert.sparsity_of(layer) >= litert.SPARSE_FROM]
        self.sparse = bool(sparse)
        dense = [layer for layer in sparse if type(layer) is kl.Dense]
        self.unstructured = [layer.name for layer in dense if not litert.is_blocked(layer)]
        self.blocked = [layer.name for layer in dense if litert.is_blocked(layer)]
        self.convolutions = [layer.name for layer in sparse if type(layer) is not kl.Dense]
        self.two_of_four = self.sparse and all(_is_two_of_four(layer) for layer in sparse)

    @property
    def shrinks(self):
        small = self.parameters.get("shrunk")
        return small is not None and self.parameters["sparse"] >= _GAIN * small


def _is_two_of_four(layer):
    kernel = kernel_value(layer)
    inputs = kernel.shape[-2]
    if inputs % 4:
        return False
    groups = np.moveaxis(kernel, -2, -1).reshape(-1, 4)
    return bool((np.count_nonzero(groups, axis=1) <= 2).all())


def _rows_of_target(target, ways, facts, inputs, data, rounds, seconds):
    with tempfile.TemporaryDirectory(prefix="sparsity_tf_") as folder:
        written, reasons = {}, {}
        for way, model in ways.items():
            path = os.path.join(folder, way.replace(", ", "_"))
            try:
                written[way] = _write(target, way, model, path, data)
            except (ValueError, RuntimeError, ImportError) as error:
                if way == "dense":
                    return [DeploymentRow(target, "sparse", None, None, why=f"not measured: {one_line(error)}")]
                reasons[way] = f"not written: {one_line(error)}"
        times = {}
        for batch, arrays in inputs.items():
            calls = {way: _call(target, ways[way], written[way], arrays) for way in written}
            times[batch] = _interleaved(calls, rounds, seconds)
    rows = []
    for way in ways:
        if way == "dense":
            continue
        if way not in written:
            rows.append(DeploymentRow(target, way, None, None, why=reasons[way]))
            continue
        median = {batch: statistics.median(times[batch][way]) for batch in inputs}
        speedup = {
            batch: statistics.median(a / b for a, b in zip(times[batch]["dense"], times[batch][way], strict=True))
            for batch in inputs
        }
        why = _why(target, way, facts, written[way])
        rows.append(DeploymentRow(target, way, written[way].bytes, written["dense"].bytes, median, speedup, why))
    return rows


@dataclass
class _Stored:
    path: str
    bytes: int
    densify: int = 0
    notes: tuple = ()


def _write(target, way, model, path, data):
    if target == "keras":
        path += ".keras"
        if way == "dense":
            model.save(path)
            return _Stored(path, os.path.getsize(path))
        return _Stored(path, save_compact(model, path).bytes)
    path += FORMATS[target].ending
    quantize = "int8" if way.endswith("int8") else None
    report = export(model, path, target, quantize=quantize, data=data)
    return _Stored(path, report.bytes, report.densify, report.notes)


def _call(target, model, stored, arrays):
    """A function without arguments that computes one batch."""
    if target != "keras":
        names = [x.name for x in getattr(model, "inputs", None) or []]
        return open_runtime(target, stored.path, names, threads=1).prepared(arrays)
    from sparsity_tf.deploy.export import packed

    batch = packed(model, arrays)
    return lambda: model.predict_on_batch(batch)


def _interleaved(calls, rounds, seconds):
    """Processor times of a call: for each way a list with one time for each round."""
    repeats = {}
    for way, call in calls.items():
        call()
        start = time.process_time()
        call()
        repeats[way] = max(1, round(seconds / max(time.process_time() - start, 1e-6)))
    times = {way: [] for way in calls}
    for _ in range(rounds):
        for way, call in calls.items():
            start = time.process_time()
            for _ in range(repeats[way]):
                call()
            times[way].append(max(time.process_time() - start, 1e-9) / repeats[way])
    return times


def _why(target, way, facts, stored):
    """The reason for the figures, or the reason why there is no gain."""
    if way.startswith("shrunk"):
        if not facts.shrinks:
            return "every unit and filter has an effect, so `shrink` removes nothing: prune with structure='channel'"
        before, after = facts.parameters["sparse"], facts.parameters["shrunk"]
        return f"units without effect are removed: {before:,} -> {after:,} parameters"
    if not facts.sparse:
        return "no kernel has zeros in at least half of its weights"
    if target == "keras":
        return "the file compresses zeros, but Keras multiplies them like other numbers: shrink for speed"
    if target == "litert":
        return _why_litert(facts, stored)
    name = TARGETS[target]
    return f"{name} stores and multiplies zeros like other numbers: shrink for size and speed"


def _why_litert(facts, stored):
    if stored.notes and not stored.densify:
        return stored.notes[0]
    reasons = []
    if facts.blocked:
        reasons.append("dense kernels with blocks of zeros are computed sparsely: faster at small batches")
    if facts.unstructured:
        reasons.append("kernels have zeros without a structure: retrain with structure='4x1'")
    if facts.convolutions:
        reasons.append(
            "convolutions are computed densely on this kind of processor: prune with structure='filter' and shrink"
        )
    return "; ".join(reasons)


def _gpu_row(facts):
    if facts.two_of_four:
        why = (
            "every sparse kernel is 2:4, which makes networks 0 to 15 % faster: measure on your GPU with torch or "
            "TensorRT"
        )
    else:
        why = (
            "the kernels are not 2:4 (structure='2:4'), which would make networks 0 to 15 % faster: try `shrink` first"
        )
    return DeploymentRow("gpu_2_4", "sparse", None, None, why=why, source=_READ_GPU)
