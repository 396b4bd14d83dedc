"""Draws quality against sparsity, or against multiply-accumulates: `plot_tradeoff`."""

from collections.abc import Sequence

from sparsity_tf.checks import check_choice, check_number, check_string
from sparsity_tf.extras import import_optional
from sparsity_tf.inspection.plots import new_figure, require_matplotlib, written
from sparsity_tf.study.result import LOWER_IS_BETTER, SYSTEM_LABELS, TECHNIQUE_LABELS, PublishedResult, key
from sparsity_tf.study.runs import Run
from sparsity_tf.study.tradeoff import OWN, TradeoffTable, tradeoff_table
from sparsity_tf.type_names import Figure, PathLike

AXES = ("sparsity", "flops", "seconds")
# A technique has one colour in every picture, whoever used it.
_COLORS = {
    "none": "0.45",
    "magnitude": "#1f5fa8",
    "vd": "#d1651d",
    "l0": "#2f8f4e",
    "random": "#b03a3a",
    "str": "#7d5ba6",
    "magnitude_nonuniform": "#1a9db0",
    "sparse_momentum": "#8a6d3b",
    "dsr": "#c9599c",
    "set": "#a3a020",
    "lottery": "#5f6b76",
    "scratch": "#e0a526",
    "rigl": "#3d4fc4",
    "static": "#94b447",
    "deepr": "#6fa8dc",
    "snip": "#b58ad6",
}
_MARKERS = "osD^vPX<>"
_DENSE = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_LABELS = {
    "flops": "multiply-accumulates of one input, without the zeros",
    "seconds": "training time in seconds, on the machine of the study",
}
_MISSING = {"flops": "a number of multiply-accumulates", "seconds": "a time of training"}
# The weights left, as a fraction, of a network without any: a logarithmic axis has no 0.
_LEAST_LEFT = 1e-5
_TICKS = (0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)


def plot_tradeoff(
    published: Sequence[PublishedResult] | None = None,
    runs: Sequence[PathLike | Run] = (),
    x: str = "sparsity",
    levels: Sequence[float] | None = None,
    worst_score: float | None = None,
    sparsity_of: str = "sparse_weights",
    title: str | None = None,
    path: PathLike | None = None,
) -> Figure:
    """Draws the best score of each technique at each level of sparsity, and one's own runs on the same axes.

    The points are those of `tradeoff_table`. Published results are joined by lines, one's own runs are large markers
    with a black edge. Error bars are standard errors over repeats. Dense networks are horizontal lines. The axis of
    sparsity is logarithmic in the weights left, so that 90 % and 99 % are as far apart as 0 % and 90 %.

    Args:
        published: List of `PublishedResult` of one metric and one model, such as
            `published_results(model="ResNet-50")`; `None` for none.
        runs: List of folders of finished runs, or of `Run`s. Runs that differ only in the seed are repeats.
        x: `"sparsity"`; `"flops"`: multiply-accumulates without the zeros; or `"seconds"`: the time of training, known
            of the runs of a study. Points whose number is not known are left out.
        levels: As for `tradeoff_table`.
        worst_score: Points with a worse score are not drawn; `None` draws all.
        sparsity_of: How runs count, as for `read_run`.
        title: Title; model, dataset and metric by default.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: As for `tradeoff_table`, or no point is left to draw.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    results = published_results("state_of_sparsity", "Transformer")
    plot_tradeoff(results, runs=[], path="transformer.png")
    ```
    """
    require_matplotlib()
    check_choice("x", x, AXES)
    if title is not None:
        check_string("title", title)
    table = tradeoff_table(published, runs, levels, sparsity_of)
    if title is None:
        title = title_of(published, table)
    return draw_table(table, x, worst_score, title, path)


def draw_table(
    table: TradeoffTable,
    x: str = "sparsity",
    worst_score: float | None = None,
    title: str = "",
    path: PathLike | None = None,
    joined: bool = False,
) -> Figure:
    """Draws a table that is there already; the arguments are as for `plot_tradeoff`.

    With `joined`, lines join one's own runs of a technique, too: right for a table with one row for each sparsity.
    """
    require_matplotlib()
    check_choice("x", x, AXES)
    if worst_score is not None:
        check_number("worst_score", worst_score)
    rows = [row for row in table if _is_drawn(row, x, worst_score, table.metric in LOWER_IS_BETTER)]
    if not rows:
        missing = _MISSING.get(x, "a score that `worst_score` admits")
        raise ValueError(f"`published` and `runs` must hold a point to draw. Received: none has {missing}")
    dense = [row for row in rows if row.technique == "none" and x == "sparsity"]
    figure = new_figure((8.2, 5.4))
    axes = figure.add_subplot()
    colors = _colors(rows)
    for index, row in enumerate(dense):
        axes.axhline(
            row.score,
            color="0.45",
            linewidth=1.1,
            linestyle=_DENSE[index % len(_DENSE)],
            label=f"{_label(row, rows)}: {row.score:.2f}",
            zorder=1,
        )
    for series in _series(row for row in rows if row not in dense):
        _draw_series(axes, series, rows, table, x, colors[series[0].technique], joined)
    if x == "sparsity":
        _scale_sparsity(axes, [row for row in rows if row not in dense])
    else:
        _scale_counts(axes, rows, x)
    axes.set_ylabel(table.metric + (" (%)" if table.metric.endswith("accuracy") else ""))
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11, loc="left")
    return written(figure, path)


def _is_drawn(row, x, worst, lower):
    if x != "sparsity" and not getattr(row, x):
        return False  # Unknown, or a network without weights, which has no place on a logarithmic axis.
    return worst is None or (row.score <= worst if lower else row.score >= worst)


def title_of(published, table):
    """The title of a picture that the user gave none."""
    if published:
        return f"{published[0].model}, {published[0].dataset}: best {table.metric} by technique"
    models = ", ".join(sorted({row.model for row in table}))
    return f"{models}: {table.metric}"


def _colors(rows):
    """Dict from technique to colour. A technique without a colour of its own gets one that the picture does not use."""
    techniques = dict.fromkeys(row.technique for row in rows)
    free = [color for technique, color in _COLORS.items() if technique not in techniques] or list(_COLORS.values())
    others = [technique for technique in techniques if technique not in _COLORS]
    return {**_COLORS, **{technique: free[index % len(free)] for index, technique in enumerate(others)}}


def _series(rows):
    """Rows of one technique, system and model, in the order of sparsity."""
    found = {}
    for row in rows:
        found.setdefault((row.system, row.technique, row.model), []).append(row)
    return [sorted(series, key=lambda row: row.sparsity) for series in found.values()]


def _label(row, rows):
    """The words of the legend: the system only if there are several, the model of own runs only if it is another."""
    parts = [TECHNIQUE_LABELS.get(row.technique, row.technique)]
    if len({one.system for one in rows}) > 1:
        parts.append(SYSTEM_LABELS.get(row.system, row.system))
    if len({key(one.model) for one in rows}) > 1 and row.system == OWN:
        parts.append(row.model)
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({', '.join(parts[1:])})"


def _draw_series(axes, series, rows, table, x, color, joined):
    own = series[0].system == OWN
    systems = list(dict.fromkeys(row.system for row in rows if row.system != OWN))
    # A star stands out among published results. The points of a study are many, and lines show what belongs together.
    starred = own and not joined
    marker = "*" if starred else "o" if own else _MARKERS[systems.index(series[0].system) % len(_MARKERS)]
    if own and joined:
        axes.plot([_x(row, x) for row in series], [row.score for row in series], color=color, linewidth=1.2, zorder=2)
    if not own:
        # A line through settings that others beat at a higher sparsity would go up and down.
        line = [row for row in series if not _is_beaten(row, series, table.metric in LOWER_IS_BETTER)]
        axes.plot([_x(row, x) for row in line], [row.score for row in line], color=color, linewidth=1.6, zorder=2)
    errors = {"yerr": [row.standard_error or 0.0 for row in series]}
    if x == "sparsity":
        errors["xerr"] = [row.sparsity_error or 0.0 for row in series]
    axes.errorbar(
        [_x(row, x) for row in series],
        [row.score for row in series],
        **{name: sizes for name, sizes in errors.items() if any(sizes)},
        color=color,
        linestyle="none",
        marker=marker,
        markersize=12 if starred else 5.5,
        markeredgecolor="black" if starred else color,
        markeredgewidth=0.8,
        capsize=3,
        elinewidth=1.2,
        ecolor="black" if starred else color,
        label=_label(series[0], rows),
        zorder=4 if own else 3,
    )


def _is_beaten(row, series, lower):
    return any(
        other.sparsity > row.sparsity and (other.score < row.score if lower else other.score > row.score)
        for other in series
    )


def _x(row, x):
    return max(1 - row.sparsity, _LEAST_LEFT) if x == "sparsity" else getattr(row, x)


def _scale_sparsity(axes, rows):
    left = [max(1 - row.sparsity, _LEAST_LEFT) for row in rows] or [1.0]
    # From few zeros at the left to few weights at the right.
    axes.set_xlim(max(left) * 1.12, min(left) / 1.12)
    axes.set_xscale("log")
    ticks = [tick for tick in _TICKS if min(left) / 1.12 <= 1 - tick <= max(left) * 1.12]
    if len(ticks) < 2:
        ticks = sorted({round(1 - one, 4) for one in left})[:8]
    axes.set_xticks([1 - tick for tick in ticks], [f"{100 * tick:.6g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sparsity (% of the weights that are 0; logarithmic in the weights left)")


def _scale_counts(axes, rows, x):
    ticker = import_optional("matplotlib.ticker")
    counts = [_x(row, x) for row in rows]
    axes.set_xlim(min(counts) / 1.25, max(counts) * 1.25)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda count, _: _short(count))
    axes.minorticks_off()
    axes.set_xlabel(_LABELS[x])


def _short(count):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
