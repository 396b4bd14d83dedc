"""Quality against sparsity: the best score of each technique at each level, of published results and of one's own runs.

`tradeoff_table` chooses the points, and `plot_tradeoff` (in `tradeoff_plot.py`) draws them.
"""

import csv
import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence

from sparsity_tf.checks import check_choice, check_fraction, check_path, shown
from sparsity_tf.study.result import (
    LOWER_IS_BETTER,
    SYSTEM_LABELS,
    TECHNIQUE_LABELS,
    PublishedResult,
    key,
    standard_error,
)
from sparsity_tf.study.runs import SPARSITY_OF, Run, experiment, read_runs
from sparsity_tf.type_names import PathLike

# The levels of a technique whose networks have many different sparsities.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
# A network reaches a level if it is at most this much below it: schedules may end a few weights short.
SLACK = 0.002
_MOST_OWN_LEVELS = 12
OWN = "own runs"


@dataclasses.dataclass(frozen=True)
class TradeoffPoint:
    """One row of a `TradeoffTable`: the best settings of a technique at a level of sparsity.

    Args:
        system: The system that published it, or `"own runs"`.
        model: The network.
        technique: Name of the technique; `"none"` for the dense network.
        level: The level that the row stands for.
        sparsity: The network's sparsity, at the level or above it (the mean over repeats).
        sparsity_error: Standard error of the sparsity over one's own repeats, or `None`.
        score: The metric (the mean over repeats).
        standard_error: Standard error of the score over repeats, or `None` if there is one run.
        repeats: Number of runs behind the score; `None` if it is not published.
        flops: Multiply-accumulates without the zeros, or `None`.
        settings: Dict of the settings.
        source: File and line of the published result and the name of its checkpoint, or the folders of the runs.
        seconds: Time of training (the mean over repeats), or `None`.
    """

    system: str
    model: str
    technique: str
    level: float
    sparsity: float
    sparsity_error: float | None
    score: float
    standard_error: float | None
    repeats: int | None
    flops: float | None
    settings: dict = dataclasses.field(hash=False)
    source: str = ""
    seconds: float | None = None


class TradeoffTable:
    """The best score of each technique at each level of sparsity; made by `tradeoff_table`.

    `str(table)` is a readable table.

    Args:
        rows: sequence of `TradeoffPoint`, of one metric.
        metric: name of the metric, such as `"BLEU"`.
        left_out: sequence of sentences, one for each run that is in no row.

    Example:

    >>> table = tradeoff_table(published_results(model="Transformer", technique=["magnitude", "vd"]))
    >>> print(table)
    technique            system               sparsity    BLEU    +/-    runs
    -------------------  -----------------  ----------  ------  -----  ------
    magnitude pruning    State of Sparsity      50.0 %   26.33
    magnitude pruning    State of Sparsity      60.0 %   25.94
    ...
    variational dropout  State of Sparsity      98.0 %   14.45
    """

    def __init__(self, rows: Sequence[TradeoffPoint], metric: str, left_out: Sequence[str] = ()) -> None:
        self.rows = list(rows)
        self.metric = metric
        self.left_out = list(left_out)

    def __len__(self):
        return len(self.rows)

    def __iter__(self) -> Iterator[TradeoffPoint]:
        return iter(self.rows)

    def __repr__(self):
        return f"TradeoffTable(<{len(self.rows)} rows>, metric={self.metric!r})"

    def __str__(self):
        from tabulate import tabulate

        models = len({key(row.model) for row in self.rows}) > 1
        flops = any(row.flops is not None for row in self.rows)
        header = ["technique", "system", *["model"] * models, "sparsity", self.metric, "+/-", "runs"]
        body = []
        for row in self.rows:
            cells = [
                TECHNIQUE_LABELS.get(row.technique, row.technique),
                SYSTEM_LABELS.get(row.system, row.system),
                *[row.model] * models,
                f"{100 * row.sparsity:.{1 if abs(1000 * row.sparsity - round(1000 * row.sparsity)) < 1e-3 else 2}f} %",
                _number(row.score),
                "" if row.standard_error is None else _number(row.standard_error),
                "" if row.repeats is None else row.repeats,
            ]
            body.append(cells + [_millions(row.flops)] * flops)
        align = ["left", "left", *["left"] * models, *["right"] * (4 + flops)]
        text = tabulate(body, header + ["MACs"] * flops, colalign=align if body else None, disable_numparse=True)
        return "\n".join([text, *self.left_out])

    def to_dict(self) -> dict:
        """The table as plain JSON values, with all fields of the rows."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {
            "metric": self.metric,
            "left_out": list(self.left_out),
            "rows": json.loads(json.dumps(rows, default=str)),
        }

    def to_csv(self, path: PathLike) -> None:
        """Writes one line for each row, all figures in full; settings are JSON.

        Args:
            path: where to write it.
        """
        check_path("path", path)
        with open(path, "w", newline="", encoding="utf-8") as file:
            write_csv(self, file)


def write_csv(table, file):
    """Writes the lines of `TradeoffTable.to_csv` to an open file."""
    fields = [field.name for field in dataclasses.fields(TradeoffPoint)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([table.metric if name == "score" else name for name in fields])
    for row in table:
        cells = {**{name: getattr(row, name) for name in fields}, "settings": json.dumps(row.settings, default=str)}
        writer.writerow(["" if cells[name] is None else cells[name] for name in fields])


def tradeoff_table(
    published: Sequence[PublishedResult] | None = None,
    runs: Sequence[PathLike | Run] = (),
    levels: Sequence[float] | None = None,
    sparsity_of: str = "sparse_weights",
) -> TradeoffTable:
    """Finds the best score of each technique at each level of sparsity.

    Results of one technique and system with equal settings and sparsity are repeats, and count by their mean. A
    network counts at the highest level that it reaches, with 0.002 to spare. Without `levels`, the levels are the
    sparsities that occur, if a technique has at most 12 of them; otherwise .5, .6, .7, .8, .9, .95, .98 and .99. Dense
    networks have a row of their own. The best settings are chosen by the score that is shown, so the best of many
    settings is a little too good.

    Of one's own runs, every experiment (settings without the seed) has a row: nothing is chosen among them. Collapsed
    runs, and published results that have no sparsity or reach no level, are in no row.

    Args:
        published: List of `PublishedResult` of one metric and one model; `None` for none.
        runs: List of folders of finished runs, or of `Run`s, with the same metric.
        levels: List of sparsities, ascending, for all techniques; `None` for the rule above.
        sparsity_of: How runs count, as for `read_run`.

    Returns:
        `TradeoffTable`.

    Raises:
        ValueError: Nothing is given, results differ in metric or (published ones) in model, or a folder can't be read.

    Example:

    >>> table = tradeoff_table(published_results("str", "ResNet-50"), levels=(0.8, 0.9, 0.95, 0.98))
    >>> [(row.level, row.sparsity, row.score) for row in table][:3]
    [(0.0, 0.0, 77.01), (0.8, 0.8127, 76.12), (0.9, 0.9023, 74.31)]
    """
    published = [] if published is None else published
    if not isinstance(published, list | tuple) or not all(isinstance(one, PublishedResult) for one in published):
        raise ValueError(
            "`published` must be a list of `PublishedResult`, such as `published_results(model='ResNet-50')`. "
            f"Received: published={shown(published)}"
        )
    check_choice("sparsity_of", sparsity_of, SPARSITY_OF)
    _check_levels(levels)
    runs = read_runs(runs, sparsity_of)
    left_out = [f"left out: {run.folder} ({run.collapsed})" for run in runs if run.collapsed is not None]
    runs = [run for run in runs if run.collapsed is None]
    known = [result for result in published if result.sparsity is not None]
    if len(known) < len(published):
        left_out.append(f"left out: {len(published) - len(known)} published results without a sparsity")
    metric = _metric(known, runs, left_out)
    rows = _published_rows(known, levels, metric in LOWER_IS_BETTER) + _rows_of_runs(runs)
    return TradeoffTable(rows, metric, left_out)


def _check_levels(levels):
    if levels is None:
        return
    if not isinstance(levels, list | tuple) or not levels:
        raise ValueError(f"`levels` must be a list of sparsities. Received: levels={shown(levels)}")
    for level in levels:
        check_fraction("levels", level)
    if list(levels) != sorted(set(levels)):
        raise ValueError(f"`levels` must ascend. Received: levels={shown(levels)}")


def _metric(published, runs, left_out):
    """The metric that all results share."""
    if not published and not runs:
        reason = f" ({'; '.join(left_out)})" if left_out else ""
        raise ValueError(f"`published` and `runs` must hold at least one result. Received: none{reason}")
    metrics = sorted({one.metric for one in (*published, *runs)})
    if len(metrics) > 1:
        raise ValueError(f"`published` and `runs` must have one metric. Received: {', '.join(metrics)}")
    models = sorted({f"{result.model} on {result.dataset}" for result in published})
    if len(models) > 1:
        raise ValueError(
            f"`published` must be of one model: `published_results(model=...)`. Received: {', '.join(models)}"
        )
    return metrics[0]


def _published_rows(results, levels, lower):
    by_series = {}
    for result in results:
        by_series.setdefault((result.system, result.technique), []).append(result)
    rows = []
    for (system, technique), series in sorted(by_series.items(), key=lambda item: item[0][1] != "none"):
        groups = {}
        for result in series:
            settings = json.dumps(result.settings, sort_keys=True)
            groups.setdefault((result.source, settings, round(result.sparsity, 4)), []).append(result)
        candidates = [_Candidate(group) for group in groups.values()]
        best = {}
        for candidate, level in zip(candidates, _levels_of(candidates, technique, levels), strict=True):
            if level is None:
                continue
            sign = -1 if lower else 1
            if level not in best or sign * candidate.score > sign * best[level].score:
                best[level] = candidate
        rows += [best[level].row(system, technique, level) for level in sorted(best)]
    return rows


def _levels_of(candidates, technique, levels):
    """The level of each candidate; `None` for one that reaches no level."""
    own = [0.0 if technique == "none" else round(candidate.sparsity, 4) for candidate in candidates]
    if technique == "none" or (levels is None and len(set(own)) <= _MOST_OWN_LEVELS):
        return own
    levels = LEVELS if levels is None else levels
    return [max((one for one in levels if one <= candidate.sparsity + SLACK), default=None) for candidate in candidates]


class _Candidate:
    """Published results with equal settings: repeats of one experiment."""

    def __init__(self, group):
        scores = [score for result in group for score in (result.scores or (result.score,))]
        self.first = group[0]
        self.sparsity = statistics.fmean(result.sparsity for result in group)
        self.score = statistics.fmean(scores)
        repeated = len(scores) > 1
        self.standard_error = standard_error(scores) if repeated else self.first.standard_error
        self.repeats = len(scores) if repeated else None

    def row(self, system, technique, level):
        first = self.first
        source = f"{first.source}:{first.line}" + (f" {first.checkpoint}" if first.checkpoint else "")
        return TradeoffPoint(
            system=system,
            model=first.model,
            technique=technique,
            level=level,
            sparsity=self.sparsity,
            sparsity_error=None,
            score=self.score,
            standard_error=self.standard_error,
            repeats=self.repeats,
            flops=first.flops,
            settings=first.settings,
            source=source,
        )


def _rows_of_runs(runs):
    groups = {}
    for run in runs:
        groups.setdefault(experiment(run), []).append(run)
    rows = [
        TradeoffPoint(
            system=OWN,
            model=group[0].model,
            technique=group[0].technique,
            level=round(statistics.fmean(run.sparsity for run in group), 3),
            sparsity=statistics.fmean(run.sparsity for run in group),
            sparsity_error=standard_error([run.sparsity for run in group]),
            score=statistics.fmean(run.score for run in group),
            standard_error=standard_error([run.score for run in group]),
            repeats=len(group),
            flops=None if any(run.flops is None for run in group) else statistics.fmean(run.flops for run in group),
            settings=group[0].settings,
            source=", ".join(run.folder for run in group),
        )
        for group in groups.values()
    ]
    return sorted(rows, key=lambda row: (row.technique != "none", key(row.model), row.technique, row.sparsity))


def _number(value):
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _millions(flops):
    if flops is None:
        return ""
    return f"{flops / 1e6:,.1f}M" if flops >= 1e5 else f"{flops:,.0f}"
