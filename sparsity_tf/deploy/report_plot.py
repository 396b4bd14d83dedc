"""Draws a `DeploymentReport`: `plot_deployment`."""

import numpy as np

from sparsity_tf.deploy.report import TARGETS, DeploymentReport
from sparsity_tf.inspection.plots import new_figure, require_matplotlib, written
from sparsity_tf.type_names import Figure, PathLike

_SIZE = "#b9c2cc"
_SPEED = ("#3b6ea8", "#7fa3c7", "#24466b", "#a9c3dc")


def plot_deployment(report: DeploymentReport, path: PathLike | None = None) -> Figure:
    """Shows as bars how much smaller and faster each way of shipping is than the dense network.

    Args:
        report: a `DeploymentReport`.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure` with sizes on the left and speeds on the right, both relative to the dense network
        (the line at 1), on logarithmic axes. Rows that were not measured are left out.

    Raises:
        ValueError: if `report` is not a `DeploymentReport`, or nothing was measured.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    report = sparsity_tf.deployment_report(model, targets=("keras",), rounds=1)
    plot_deployment(report, "deployment.png")
    ```
    """
    require_matplotlib()
    rows = [row for row in report if row.smaller] if isinstance(report, DeploymentReport) else []
    if not rows:
        raise ValueError(f"`report` must be a `DeploymentReport` with a measured row. Received: report={report!r}")
    positions = np.arange(len(rows))
    figure = new_figure((9.5, 1.6 + 0.5 * len(rows)))
    sizes, speeds = figure.subplots(1, 2, sharey=True)
    _bars(sizes, positions, [row.smaller for row in rows], 0.6, _SIZE, "file")
    height = 0.8 / len(report.batch_sizes)
    for index, batch in enumerate(report.batch_sizes):
        offset = (index + 0.5) * height - 0.4
        ratios = [row.speedup[batch] for row in rows]
        _bars(speeds, positions + offset, ratios, 0.9 * height, _SPEED[index % len(_SPEED)], f"batch {batch}")
    sizes.set_yticks(positions, [f"{TARGETS[row.target]}, {row.way}" for row in rows], fontsize=8)
    sizes.set_ylim(len(rows) - 0.5, -0.5)
    for axes, label in ((sizes, "times smaller than dense"), (speeds, "times faster than dense")):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel(label, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*speeds.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(report.gain, fontsize=9)
    return written(figure, path)


def _bars(axes, positions, ratios, height, color, label):
    """Draws bars that begin at 1, so that a loss points to the left."""
    axes.set_xscale("log")
    axes.barh(positions, np.array(ratios) - 1, height, left=1, color=color, label=label)
    for position, ratio in zip(positions, ratios, strict=True):
        right = ratio >= 1
        axes.annotate(
            f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x",
            (ratio, position),
            xytext=(3 if right else -3, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=7,
        )
    # The limits leave room for the figures. They also ensure that the axis shows a number, even within a single decade.
    axes.set_xlim(min(0.5, 0.6 * min(ratios)), max(2.5, 2 * max(ratios)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if str(f"{x:g}").strip("0.")[:1] in ("2", "5") else "")
    axes.tick_params(axis="x", which="both", labelsize=7)
