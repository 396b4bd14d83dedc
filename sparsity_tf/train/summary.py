"""Summarizes finished runs: groups of runs that differ in the seed only, with mean, standard error and 95 % interval.

`summarize` reads the folders of runs of any program. It trains nothing and needs no data. Runs that can't be counted
(unfinished, damaged, diverged or collapsed ones, and a second run of the same settings and seed) are listed with the
reason.

The standard error of n runs is their standard deviation (with n - 1) / sqrt(n). The 95 % interval is the mean plus and
minus the standard error times the quantile of Student's t distribution with n - 1 degrees of freedom, such as 4.30 for
three runs and 2.78 for five. It says how well the mean over seeds is known, if results are about normally distributed.
"""

import csv
import dataclasses
import json
import math
import os
import statistics

from sparsity_tf.bounded_files import one_line, read_json
from sparsity_tf.train import log, run_folder

SEED = "seed"
SUMMARY = "summary.csv"
# Settings that name a group best, the first ones first.
_TELLING = ("dataset", "model", "cell", "technique", "final_sparsity", "distribution")
# The files by which the folder of a run is known.
_OF_A_RUN = {run_folder.RECIPE, run_folder.RESULTS, run_folder.METRICS, run_folder.CHECKPOINT, run_folder.MODEL}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure in `results.json`.

    Attributes:
        name: Its keys, joined by dots.
        label: How a table calls it.
        scale: The factor by which a table shows it.
    """

    name: str
    label: str
    scale: float = 1.0

    def of(self, results):
        """The figure in the content of a `results.json`; `None` if it is not there."""
        for key in self.name.split("."):
            results = results.get(key) if isinstance(results, dict) else None
        return results


FIGURES = (
    Figure("test_error", "test error, %", 100.0),
    Figure("test_top5_error", "test top-5 error, %", 100.0),
    Figure("test_loss", "test loss"),
    Figure("val_error", "validation error, %", 100.0),
    Figure("best.val_error", "validation error of best.keras, %", 100.0),
    Figure("best.test_error", "test error of best.keras, %", 100.0),
    Figure("bleu", "BLEU"),
    Figure("validation.perplexity", "validation perplexity"),
    Figure("bits_per_character.validation", "validation bits per character"),
    Figure("bits_per_character.test", "test bits per character"),
    Figure("sparsity", "sparsity, %", 100.0),
    Figure("compression", "compression"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        settings: Dict of all settings in its recipe.
        data: What `recipe.json` says of its data, a dict, or `None`.
        results: The content of its `results.json`.
    """

    folder: str
    settings: dict
    data: object
    results: dict

    @property
    def seed(self):
        return self.settings[SEED]

    @property
    def compared(self):
        """Dict of what two runs of a group have in common: all settings that influence the result but the seed."""
        free = {SEED, *run_folder.FREE}
        compared = {name: value for name, value in {**run_folder.DEFAULTS, **self.settings}.items() if name not in free}
        data = self.data
        if isinstance(data, dict) and "train_pairs" in data:
            # A translator's vocabulary is trained with the seed of the run.
            data = {name: value for name, value in data.items() if name not in ("checksum", "vocabulary_size")}
        return {**compared, "data": data}


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A folder that is not counted, and the reason."""

    folder: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A figure of several runs.

    Attributes:
        n: Number of runs.
        mean, median: Of the runs.
        standard_error: Of the mean; `None` for one run.
        low, high: Ends of the 95 % interval of the mean, after Student; `None` for one run.
    """

    n: int
    mean: float
    median: float
    standard_error: object
    low: object
    high: object

    @classmethod
    def of(cls, values):
        """Of a list of at least one number."""
        n, mean, median = len(values), statistics.fmean(values), statistics.median(values)
        if n == 1:
            return cls(n, mean, median, None, None, None)
        error = statistics.stdev(values) / math.sqrt(n)
        half = student_quantile(n - 1) * error
        return cls(n, mean, median, error, mean - half, mean + half)


def student_quantile(degrees, probability=0.95):
    """The number t for which a variable of Student's t distribution lies between -t and t with a probability.

    Args:
        degrees: Integer of at least 1, the degrees of freedom.
        probability: Number above 0 and below 1.

    Example:

    >>> round(student_quantile(2), 3), round(student_quantile(4), 3)
    (4.303, 2.776)
    """
    low, high = 0.0, 1.0
    while _between(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, degrees) < probability else (low, middle)
    return high


def _between(t, degrees):
    """The probability of -t to t: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine_squared, odd = math.cos(angle) ** 2, degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine_squared
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in the seed only, in the order of their seeds.

    Attributes:
        label: The settings that tell the group from the others of the summary.
        runs: List of `Run`.
    """

    label: str
    runs: list

    def statistics(self):
        """Dict from `Figure` to its `Statistics`, for the figures that any of the runs has."""
        found = {}
        for figure in FIGURES:
            values = [value for value in (figure.of(run.results) for run in self.runs) if value is not None]
            if values:
                found[figure] = Statistics.of(values)
        return found


class Summary:
    """The summary of runs; made by `summarize`. `str(summary)` is a readable table.

    Attributes:
        groups: List of `Group`.
        left_out: List of `LeftOut`.
    """

    def __init__(self, groups, left_out):
        self.groups = groups
        self.left_out = left_out

    @property
    def runs(self):
        """All runs that are counted."""
        return [run for group in self.groups for run in group.runs]

    def rows(self):
        """One dict for each group and figure: fractions, not percent; `None` where one run has no spread."""
        return [
            {
                "group": group.label,
                "figure": figure.name,
                "n": found.n,
                "mean": found.mean,
                "standard_error": found.standard_error,
                "low": found.low,
                "high": found.high,
                "median": found.median,
                "seeds": " ".join(str(run.seed) for run in runs),
                "folders": " ".join(run.folder for run in runs),
            }
            for group in self.groups
            for figure, found in group.statistics().items()
            # A run may lack a figure, for example `best.test_error` where no model was kept.
            for runs in [[run for run in group.runs if figure.of(run.results) is not None]]
        ]

    def to_csv(self, path):
        """Writes `rows` as CSV, one line each. Runs that are left out have no row."""
        with run_folder.writing(path) as file:
            self.write_csv(file)

    def write_csv(self, file):
        """As `to_csv`, into an open text file."""
        rows = self.rows()
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["group", "figure", "n"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    def __str__(self):
        from tabulate import tabulate

        body = []
        for group in self.groups:
            for figure, found in group.statistics().items():
                scaled = [
                    "" if value is None else f"{value * figure.scale:.3f}"
                    for value in (found.mean, found.standard_error, found.low, found.high)
                ]
                interval = f"{scaled[2]} to {scaled[3]}" if found.n > 1 else "(one run)"
                first = group.label if not body or body[-1][-1] is not group else ""
                body.append([first, figure.label, found.n, *scaled[:2], interval, group])
        header = ["runs", "figure", "n", "mean", "standard error", "95 % interval"]
        lines = []
        if body:
            shown = [row[:-1] for row in body]
            alignment = ("left", "left", *["right"] * 4)
            lines.append(tabulate(shown, header, colalign=alignment, disable_numparse=True))
        if self.left_out:
            total = len(self.left_out) + len(self.runs)
            lines.append(f"left out, {len(self.left_out)} of {total}:")
            lines += [f"  {left.folder}: {left.reason}" for left in self.left_out]
        return "\n".join(lines)


def summarize(paths):
    """Summarizes runs.

    Args:
        paths: Folders of runs, or folders that hold such folders at any depth.

    Returns:
        A `Summary`.
    """
    runs, left_out, seen = [], [], set()
    for path in map(os.fspath, paths):
        folders = list(_folders_of_runs(path))
        if not folders:
            reason = "no run in it" if os.path.isdir(path) else "not a folder"
            left_out.append(LeftOut(path, reason if os.path.exists(path) else "does not exist"))
        for folder in folders:
            if os.path.realpath(folder) in seen:
                continue
            seen.add(os.path.realpath(folder))
            run = read_run(folder)
            (runs if isinstance(run, Run) else left_out).append(run)
    groups = {}
    for run in runs:
        group = groups.setdefault(json.dumps(run.compared, sort_keys=True), {})
        if run.seed in group:
            left_out.append(LeftOut(run.folder, f"the same settings and seed as {group[run.seed].folder}"))
        else:
            group[run.seed] = run
    members = [[group[seed] for seed in sorted(group)] for group in groups.values()]
    labels = _labels([runs[0].compared for runs in members])
    return Summary([Group(label, runs) for label, runs in zip(labels, members, strict=True)], left_out)


def _folders_of_runs(path):
    """The folders of runs at a path and below it."""
    for folder, inner, files in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if not _OF_A_RUN.isdisjoint(files):
            yield folder


def read_run(folder):
    """Reads a run that has finished.

    Args:
        folder: Path of an existing folder.

    Returns:
        `Run`; `LeftOut` if the run is unfinished, damaged, diverged or collapsed.
    """
    try:
        settings = run_folder.read_recipe(folder)
        if settings is None:
            return LeftOut(folder, f"damaged: {run_folder.RECIPE} is missing")
        data = settings.pop("data", None)
        if not isinstance(settings.get(SEED), int):
            return LeftOut(folder, f"damaged: {run_folder.RECIPE} has no seed")
        path = os.path.join(folder, run_folder.RESULTS)
        if not os.path.exists(path):
            return LeftOut(folder, _progress(folder, settings))
        results = read_json(path)
    except (ValueError, OSError) as error:
        return LeftOut(folder, f"damaged: {one_line(error)}")
    reason = _fault(results)
    return LeftOut(folder, reason) if reason else Run(folder, settings, data, results)


def _progress(folder, settings):
    """Says how far a run without results has come."""
    try:
        rows = log.read_metrics(folder)
    except (ValueError, OSError) as error:
        return f"unfinished, and damaged: {one_line(error)}"
    wanted = f" of {settings['epochs']}" if isinstance(settings.get("epochs"), int) else ""
    done = rows[-1]["epoch"] if rows else 0
    return f"unfinished: {done}{wanted} epochs done"


def _fault(results):
    """Says why the content of a `results.json` can't be counted; `None` if it can."""
    if not isinstance(results, dict):
        return f"damaged: {run_folder.RESULTS} must hold a JSON object"
    if results.get("collapsed"):
        return one_line(results["collapsed"])
    found = {figure.name: figure.of(results) for figure in FIGURES}
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            return f"damaged: {name} in {run_folder.RESULTS} must be a finite number, not {one_line(repr(value), 50)}"
    if all(value is None for value in found.values()):
        return f"damaged: {run_folder.RESULTS} holds no figure"
    return None


def _labels(groups):
    """Texts that tell groups apart with few settings. `groups` is a list of dicts of settings."""
    names = list(dict.fromkeys([*_TELLING, *(name for group in groups for name in group if name != "data"), "data"]))
    chosen = []

    def labels():
        return [", ".join(f"{name}={_short(group.get(name))}" for name in chosen) for group in groups]

    for name in names:
        different = len(set(labels()))
        chosen.append(name)
        if len(set(labels())) == different:
            chosen.pop()
    return labels() if chosen else [_short(group.get("technique")) for group in groups]


def _short(value):
    return value if isinstance(value, str) else one_line(json.dumps(value), 60)
