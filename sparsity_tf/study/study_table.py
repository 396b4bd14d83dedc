"""The table of a study: for each row the best settings, chosen on validation data, with their test figures."""

import csv
import dataclasses
import json
import os
import statistics
import typing
from collections.abc import Iterator

from sparsity_tf.checks import check_bool, check_choice, check_instance, check_path
from sparsity_tf.study import progress, search, selection
from sparsity_tf.study.plan import Study
from sparsity_tf.study.result import standard_error
from sparsity_tf.study.selection import METRICS, Metric
from sparsity_tf.study.tradeoff import OWN, TradeoffPoint, TradeoffTable
from sparsity_tf.train import run_folder
from sparsity_tf.type_names import PathLike


@dataclasses.dataclass(frozen=True)
class StudyRow:
    """One row of a `StudyTable`: the runs of one method with one combination of settings, over the seeds.

    Args:
        method: Name of the method.
        axes: Dict of the values of the axes.
        tuned: Dict of the settings that were chosen on validation data.
        candidates: Number of combinations that they were chosen from.
        runs: Number of finished runs.
        planned: Number of runs that the study plans for the row: the number of seeds.
        collapsed: Number of runs whose network broke.
        validation: Mean of the figure that chooses; `None` if no run has it.
        validation_error: Its standard error; `None` for one run.
        test: Mean of the reported figure, in the unit of `results.json`.
        test_error: Its standard error.
        sparsity: Mean fraction of zeros among the weights that the technique may prune (of all kernels, if none).
        macs: Mean number of multiply-accumulates of one input without the zeros, or `None`.
        dense_macs: The same of the dense network, or `None`.
        seconds: Mean time of training.
        provisional: Whether the choice may change, because some candidate has runs that have not ended.
        model: The recipe's `model`, or "".
        technique: The recipe's `technique`.
        folders: Tuple of the folders of the finished runs.

    Example:

    >>> figures = {"validation": 0.021, "validation_error": None, "test": 0.019, "test_error": None, "sparsity": 0.9}
    >>> costs = {"macs": 26620, "dense_macs": 266200, "seconds": 12.5, "provisional": False}
    >>> row = StudyRow("rigl", {"final_sparsity": 0.9}, {}, 1, 1, 1, 0, **figures, **costs)
    >>> print(StudyTable([row], "val_error"))
    method      final_sparsity    sparsity, %    validation error, %    +/-    test error, %    +/-    MACs, % ...
    --------  ----------------  -------------  ---------------------  -----  ---------------  -----  --------- ...
    rigl                   0.9          90.00                  2.100                   1.900             10.00 ...
    """

    method: str
    axes: dict = dataclasses.field(hash=False)
    tuned: dict = dataclasses.field(hash=False)
    candidates: int
    runs: int
    planned: int
    collapsed: int
    validation: float | None
    validation_error: float | None
    test: float | None
    test_error: float | None
    sparsity: float | None
    macs: float | None
    dense_macs: float | None
    seconds: float | None
    provisional: bool
    model: str = ""
    technique: str = ""
    folders: tuple = ()


# Columns of the CSV file, in order. `seconds` is the last one: all others are the same if a study is made again.
_COLUMNS = (
    "method,technique,model,axes,tuned,candidates,planned,runs,collapsed,provisional,validation,validation_error,test,"
    "test_error,sparsity,macs,dense_macs,seconds"
).split(",")


class StudyTable:
    """The rows of a study, as `study_table` makes them. `str(table)` is a readable table.

    Args:
        rows: List of `StudyRow`.
        metric: Name of the figure that chooses: `"val_error"`, ...
        everything: Whether the rows are all combinations of settings, and not only the chosen ones.

    Example:

    >>> print(StudyTable([], "val_error"))
    No run of the study has finished.
    """

    def __init__(self, rows: list[StudyRow], metric: str, everything: bool = False) -> None:
        check_choice("metric", metric, list(METRICS))
        self.rows, self.metric, self.everything = list(rows), metric, everything

    def __iter__(self) -> Iterator[StudyRow]:
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        return f"StudyTable(<{len(self.rows)} rows>, metric={self.metric!r})"

    def __str__(self):
        from tabulate import tabulate

        if not any(row.runs or row.collapsed for row in self.rows):
            return "No run of the study has finished."
        metric = METRICS[self.metric]
        axes = list(dict.fromkeys(name for row in self.rows for name in row.axes))
        tuned = any(row.tuned for row in self.rows)
        header = ["method", *axes, "sparsity, %", metric.chosen_by.label, "+/-"]
        reported = [] if self.everything else [metric.reported.label, "+/-"]
        header += [*reported, "MACs, %", "seconds", "runs", *["settings"] * tuned]
        body = [self._cells(row, axes, tuned, metric) for row in self.rows]
        align = ["left", *["right"] * (len(header) - 1 - tuned), *["left"] * tuned]
        lines = [tabulate(body, header, colalign=align, disable_numparse=True)]
        if any(row.provisional for row in self.rows):
            lines.append("* provisional: runs that may change the choice have not ended")
        collapsed = [f"{_words(row)}: {row.collapsed} of {row.planned}" for row in self.rows if row.collapsed]
        if collapsed:
            lines.append(f"networks that diverged or collapsed, in no mean: {'; '.join(collapsed)}")
        return "\n".join(lines)

    def _cells(self, row, axes, tuned, metric):
        figures = [(row.validation, metric.chosen_by), (row.validation_error, metric.chosen_by)]
        if not self.everything:
            figures += [(row.test, metric.reported), (row.test_error, metric.reported)]
        share = None if not row.macs or not row.dense_macs else 100 * row.macs / row.dense_macs
        return [
            row.method + " *" * row.provisional,
            *(_short(row.axes.get(name, "")) for name in axes),
            "" if row.sparsity is None else f"{100 * row.sparsity:.2f}",
            *("" if value is None else f"{value * figure.scale:.3f}" for value, figure in figures),
            "" if share is None else f"{share:.2f}",
            "" if row.seconds is None else f"{row.seconds:.0f}",
            f"{row.runs}/{row.planned}",
            *[", ".join(f"{name}={_short(value)}" for name, value in row.tuned.items())] * tuned,
        ]

    def to_csv(self, path: PathLike) -> None:
        """Writes one line for each row, all figures in full. The last column, `seconds`, is measured time.

        Args:
            path: Where to write the file.
        """
        check_path("path", path)
        with run_folder.writing(os.fspath(path)) as file:
            self.write_csv(file)

    def write_csv(self, file: typing.TextIO) -> None:
        """As `to_csv`, into an open text file.

        Args:
            file: A text file that is open for writing.
        """
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in self.rows:
            cells = {name: getattr(row, name) for name in _COLUMNS}
            cells |= {name: json.dumps(cells[name]) for name in ("axes", "tuned")}
            writer.writerow(["" if cells[name] is None else cells[name] for name in _COLUMNS])

    def to_tradeoff(self) -> TradeoffTable:
        """The rows as points of a `TradeoffTable`, in the unit of published results, without broken networks."""
        metric = METRICS[self.metric]
        shown = [row for row in self.rows if row.test is not None and row.sparsity is not None]
        return TradeoffTable([_point(row, metric) for row in shown], metric.score)


def _point(row: StudyRow, metric: Metric):
    return TradeoffPoint(
        system=OWN,
        model=row.model,
        # A dense network is a line across the picture, whatever the study calls it.
        technique=row.technique if row.technique in (row.method, "none") else row.method,
        level=round(row.sparsity, 3),
        sparsity=row.sparsity,
        sparsity_error=None,
        score=metric.as_score(row.test),
        standard_error=metric.as_error_of_score(row.test_error),
        repeats=row.runs,
        flops=row.macs,
        settings={**row.axes, **row.tuned},
        source=", ".join(row.folders),
        seconds=row.seconds,
    )


def study_table(study: Study, folder: PathLike, everything: bool = False) -> StudyTable:
    """Makes the table of a study from the folders of its runs.

    Of each row, the combination of the settings to tune is chosen whose figure on validation data has the lowest mean
    over the seeds, or over the study's `tune_seeds`. The test figure chooses nothing. A combination with broken
    networks comes after all others, in the order of their number. Runs that ASHA ended early take their combination out
    of the choice.

    Args:
        study: A `Study`.
        folder: Folder of the study.
        everything: Whether to return every combination, with its figures on validation data, in place of the chosen
            ones.

    Returns:
        `StudyTable`. Rows without any run that has ended are left out.

    Raises:
        ValueError: An argument can't be used.

    Example:

    >>> study = Study("mine", "classifier", methods=(), seeds=(0, 1), metric="val_error")
    >>> len(study_table(study, "runs/mine"))
    0
    """
    check_instance("study", study, Study)
    check_path("folder", folder)
    check_bool("everything", everything)
    rows = {}
    for one in progress.of_study(os.fspath(folder), search.planned_runs(study, folder)):
        place = json.dumps([one.run.method.name, one.run.axes], sort_keys=True, default=str)
        rows.setdefault(place, []).append(one)
    found = []
    for runs in rows.values():
        groups = selection.by_settings(runs)
        if everything:
            whole = [_row(group, len(groups), study.choice) for group in groups if selection.is_whole(group)]
            found += [dataclasses.replace(row, provisional=row.runs + row.collapsed < row.planned) for row in whole]
            continue
        choosing = selection.by_settings([one for one in runs if study.chooses_by(one.run)])
        best = selection.best_of(choosing, study.choice)
        if best is not None:
            row = _row(next(group for group in groups if group[0].run.tuned == best), len(groups), study.choice)
            found.append(dataclasses.replace(row, provisional=not all(one.settled for one in runs)))
    return StudyTable(found, study.metric, everything)


def _row(group, candidates, metric):
    """The row of runs that differ in the seed."""
    first = group[0].run
    ended = [one for one in group if one.state == "finished"]
    results = [one.results for one in ended]
    recipe = results[0]["recipe"] if results else {}
    validation, validation_error = _mean([metric.chosen_by.of(one) for one in results])
    test, test_error = _mean([metric.reported.of(one) for one in results])
    return StudyRow(
        method=first.method.name,
        axes=first.axes,
        tuned=first.tuned,
        candidates=candidates,
        runs=len(ended),
        planned=len(group),
        collapsed=sum(one.state == "collapsed" for one in group),
        validation=validation,
        validation_error=validation_error,
        test=test,
        test_error=test_error,
        sparsity=_mean([_sparsity(one) for one in results])[0],
        macs=_mean([(one.get("macs") or {}).get("sparse") for one in results])[0],
        dense_macs=_mean([(one.get("macs") or {}).get("dense") for one in results])[0],
        seconds=_mean([one.get("training_seconds") for one in results])[0],
        provisional=False,
        model=recipe.get("model") or "",
        technique=recipe.get("technique") or "",
        folders=tuple(one.folder for one in ended),
    )


def _sparsity(results):
    of_sparse = results.get("sparsity_of_sparse_weights")
    return results.get("sparsity") if of_sparse is None else of_sparse


def _mean(values):
    """(mean, standard error) of the numbers among values."""
    known = [value for value in values if isinstance(value, int | float)]
    return (statistics.fmean(known), standard_error(known)) if known else (None, None)


def _short(value):
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _words(row):
    settings = [f"{name}={_short(value)}" for name, value in {**row.axes, **row.tuned}.items()]
    return ", ".join([row.method, *settings])
