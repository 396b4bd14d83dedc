"""Draws accuracy and sparsity against the width of the network: `plot_widths`.

The picture imitates the one of SparseVD (Molchanov, Ashukha and Vetrov, ICML 2017, arXiv 1701.05369, VGG-like nets of
scale k on CIFAR): a line for the accuracy of each technique, and a dashed line for the sparsity that it finds.
"""

import inspect
import json
import statistics
from collections.abc import Sequence

from sparsity_tf import models
from sparsity_tf.checks import check_string
from sparsity_tf.inspection.plots import new_figure, require_matplotlib, written
from sparsity_tf.study.result import TECHNIQUE_LABELS, standard_error
from sparsity_tf.study.runs import Run, read_runs
from sparsity_tf.type_names import Figure, PathLike

_COLORS = ("#1f5fa8", "#d1651d", "#2f8f4e", "#7d5ba6", "#b03a3a", "#1a9db0", "#8a6d3b")
_METRIC = "top-1 accuracy"


def plot_widths(
    runs: Sequence[PathLike | Run],
    sparsity_of: str = "sparse_weights",
    title: str | None = None,
    path: PathLike | None = None,
) -> Figure:
    """Draws accuracy (left axis) and sparsity (right axis, dashed) of one's own runs against the width.

    The width is the setting `width` of the recipe's `model_options`, the scale k of SparseVD. Runs that differ in the
    width alone are joined by a line. Runs of one width that differ in the seed alone are repeats: a marker is their
    mean, a bar its standard error. Dense networks have no dashed line. The files that runs begin with
    (`load_weights`) may differ, because every width begins with a network of its own.

    Args:
        runs: List of folders of finished runs of classifiers, or of `Run`s.
        sparsity_of: How runs count, as for `read_run`.
        title: Title; the names of the networks and data sets by default.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: A folder can't be read, a run is no classifier or its network has no width, or all runs collapsed.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    settings = {"dataset": "cifar10", "model_options": {"width": 0.5}}
    run = Run("runs/a", "vgg_like", "vd", 0.97, "top-1 accuracy", 92.1, None, seed=0, settings=settings)
    plot_widths([run], path="widths.png")
    ```
    """
    require_matplotlib()
    if title is not None:
        check_string("title", title)
    lines = lines_of(read_runs(runs, sparsity_of))
    figure = new_figure((7.4, 4.8))
    axes = figure.add_subplot()
    right = axes.twinx()
    sparse = False
    for index, (label, points) in enumerate(lines.items()):
        color = _COLORS[index % len(_COLORS)]
        _draw(axes, points, "score", color, "o-", f"accuracy, {label}")
        if not points[0].dense:
            sparse = True
            _draw(right, points, "sparsity", color, "s--", f"sparsity, {label}")
    axes.set_xlabel("width of the network (scale k)")
    axes.set_ylabel("accuracy (%)")
    right.set_ylabel("sparsity (%)")
    right.set_visible(sparse)
    axes.set_xticks(sorted({point.width for points in lines.values() for point in points}))
    axes.set_xticklabels([f"{tick:g}" for tick in axes.get_xticks()])
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    handles = [entry for one in (axes, right) for entry in zip(*one.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    axes.set_title(title or _title(lines), fontsize=11, loc="left")
    return written(figure, path)


class WidthPoint:
    """Repeats of one experiment at one width.

    Attributes:
        width: The width.
        dense: Whether the runs have no technique.
        score, score_error: Mean accuracy in percent and its standard error, which is `None` for one run.
        sparsity, sparsity_error: The same of the sparsity, in percent.
        runs: List of the `Run`s.
    """

    def __init__(self, width, runs):
        self.width, self.runs = width, runs
        self.dense = runs[0].technique == "none"
        for name, scale in (("score", 1), ("sparsity", 100)):
            values = [scale * getattr(run, name) for run in runs]
            setattr(self, name, statistics.fmean(values))
            setattr(self, f"{name}_error", standard_error(values))


def lines_of(runs):
    """The lines of the picture: a dict from label to a list of `WidthPoint`, in the order of the width.

    Args:
        runs: List of `Run`. Collapsed ones are left out.

    Raises:
        ValueError: As for `plot_widths`.
    """
    groups = {}
    for run in runs:
        if run.metric != _METRIC:
            raise ValueError(f"`runs` must be classifiers. Received: {run.folder}, whose score is {run.metric}")
        width = _width(run)
        if run.collapsed is None:
            groups.setdefault(_series(run), {}).setdefault(width, []).append(run)
    if not groups:
        reasons = "; ".join(f"{run.folder} ({run.collapsed})" for run in runs)
        raise ValueError(f"`runs` must hold a run that did not collapse. Received: {reasons or 'no run'}")
    lines = {}
    for series, by_width in sorted(groups.items(), key=lambda item: json.loads(item[0])["technique"] != "none"):
        label = _label(json.loads(series), [json.loads(other) for other in groups])
        lines[label] = [WidthPoint(width, by_width[width]) for width in sorted(by_width)]
    return lines


def left_out(runs):
    """A list of sentences, one for each run that is not drawn."""
    return [f"left out: {run.folder} ({run.collapsed})" for run in runs if run.collapsed is not None]


def _options(run):
    return run.settings.get("model_options") or {}


def _width(run):
    """The width of a run: the one of its settings, or the default of its network."""
    builder = getattr(models, run.model, None)
    parameter = inspect.signature(builder).parameters.get("width") if builder else None
    width = _options(run).get("width", parameter.default if parameter else None)
    if not isinstance(width, int | float):
        raise ValueError(f"`runs` must be of networks that have a width. Received: {run.folder}, a {run.model}")
    return float(width)


def _series(run):
    """A text that is equal for runs on one line: all settings but the width and the file that the run begins with."""
    options = {name: value for name, value in _options(run).items() if name != "width"}
    settings = {name: value for name, value in run.settings.items() if name != "load_weights"}
    settings |= {"model_options": options, "model": run.model, "technique": run.technique}
    return json.dumps(settings, sort_keys=True, default=str)


def _label(settings, all_settings):
    """The technique, and the settings in which lines of this technique differ."""
    technique = settings["technique"]
    others = [one for one in all_settings if one["technique"] == technique]
    names = sorted({name for one in others for name in one})
    differing = [name for name in names if len({json.dumps(one.get(name)) for one in others}) > 1]
    parts = [TECHNIQUE_LABELS.get(technique, technique)]
    parts += [f"{name}={settings.get(name)}" for name in differing]
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({', '.join(parts[1:])})"


def _draw(axes, points, name, color, style, label):
    errors = [getattr(point, f"{name}_error") or 0.0 for point in points]
    axes.errorbar(
        [point.width for point in points],
        [getattr(point, name) for point in points],
        yerr=errors if any(errors) else None,
        fmt=style,
        color=color,
        markersize=5,
        markerfacecolor=color if name == "score" else "white",
        linewidth=1.6,
        capsize=3,
        label=label,
    )


def _title(lines):
    runs = [run for points in lines.values() for point in points for run in point.runs]
    models_ = sorted({run.model for run in runs})
    data = sorted({str(run.settings["dataset"]) for run in runs if run.settings.get("dataset")})
    return ", ".join(models_) + (f" on {', '.join(data)}" if data else "")
