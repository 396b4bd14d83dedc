"""Summarizes runs: mean, standard error and 95 % interval of groups that differ in the seed only.

    sparsity-tf summarize RUNS... [--output=FILE.csv] [--str_csv=FILE.csv] [--sparse_momentum_csv=FILE.csv]
        [--format=table|csv|json] [--overwrite]

`python -m sparsity_tf.train.summarize RUNS...` does the same. RUNS are folders of runs of any training program, or
folders that hold such folders. The table goes to standard output; n is the number of runs, and the interval that of
Student's t distribution. Runs that are unfinished, damaged, diverged or collapsed, and copies of the same settings and
seed, are listed with the reason, on standard error for the formats csv and json. They count nowhere. The exit status is
0, 1 (no run can be counted, or a file can't be written) or 2 (wrong usage).
"""

import csv
import dataclasses
import datetime
import json
import math
import os
import sys

from absl import flags

from sparsity_tf.bounded_files import one_line
from sparsity_tf.tools import command

_NAME = "summarize"
_OUTPUTS = ("output", "str_csv", "sparse_momentum_csv")
_STR_COLUMNS = (
    *("Date Finished", "Base Config", "Name", "Prune Rate"),
    *("Current Val Top 1", "Current Val Top 5", "Best Val Top 1", "Best Val Top 5", "Best Train Top 1"),
    "Best Train Top 5",
)
_SPARSE_MOMENTUM_COLUMNS = (
    *("Config", "Metric", "Median", "Mean", "Standard Error", "Sample size", "95% CI Lower", "95% CI Upper"),
)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("output", None, "Where to write the rows of the table, a .csv file (fractions).", **own)
    flags.DEFINE_string(
        "str_csv",
        None,
        "Where to write the classifiers in the layout of STR's runs/results.csv: accuracies in percent, one row for "
        "each run. Val is the held-out images, or the test images where none are held out; Best Val is empty there.",
        **own,
    )
    flags.DEFINE_string(
        "sparse_momentum_csv",
        None,
        "Where to write the classifiers with the figures of sparse momentum's get_results_from_logs: accuracy, error "
        "and loss on the test images as fractions, and its interval, which is the mean +- 1.96 standard errors.",
        **own,
    )
    flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "How to print the summary.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace files that are there.", **own)


def _run(values, paths):
    if not paths:
        raise flags.Error("Folders of runs are required: sparsity-tf summarize runs/*")
    given = {name: values[name].value for name in _OUTPUTS if values[name].value is not None}
    if len({os.path.abspath(path) for path in given.values()}) < len(given):
        raise flags.Error(f"Flags {', '.join(f'--{name}' for name in given)} must name different files")
    for name, path in given.items():
        command.check_output(path, ".csv", values.overwrite, flag=f"--{name}")
    from sparsity_tf.train.summary import summarize

    found = summarize(paths)
    if not found.runs:
        for left in found.left_out:
            command.note(_NAME, f"{left.folder}: {left.reason}")
        raise command.CommandError(f"none of the {len(found.left_out)} runs can be counted")
    _print(found, values.format)
    writers = {"output": found.write_csv, "str_csv": lambda file: _write_str(found, file)}
    writers["sparse_momentum_csv"] = lambda file: _write_sparse_momentum(found, file)
    for name, path in given.items():
        with command.appearing(path, values.overwrite) as unfinished:
            with open(unfinished, "w", newline="", encoding="utf-8") as file:
                writers[name](file)


def _print(found, form):
    if form == "table":
        print(found)
        return
    if form == "csv":
        found.write_csv(sys.stdout)
    else:
        left = [dataclasses.asdict(one) for one in found.left_out]
        print(json.dumps({"rows": found.rows(), "left_out": left}, indent=2, ensure_ascii=False))
    for left in found.left_out:
        command.note(_NAME, f"left out: {left.folder}: {left.reason}")


def _classifiers(runs, flag):
    """The runs of classifiers; a note names the others."""
    chosen = [run for run in runs if run.results.get("test_error") is not None]
    for run in runs:
        if run not in chosen:
            command.note(_NAME, f"{run.folder} is no classifier, and not in the file of --{flag}")
    return chosen


def _write_str(found, file):
    """Writes the layout of STR's `results.csv`: cells are separated by a comma and a space."""
    file.write(", ".join(_STR_COLUMNS) + "\n")
    for run in _classifiers(found.runs, "str_csv"):
        file.write(", ".join(_str_cells(run)) + "\n")


def _str_cells(run):
    from sparsity_tf.train import log, run_folder

    settings, results = run.settings, run.results
    finished = os.path.getmtime(os.path.join(run.folder, run_folder.RESULTS))
    config = "-".join(str(settings.get(name)) for name in ("dataset", "model", "technique"))
    held_out = results.get("val_error") is not None
    prefix = "val" if held_out else "test"
    try:
        rows = log.read_metrics(run.folder)
    except (ValueError, OSError) as error:
        command.note(_NAME, f"no best accuracies of {run.folder}: {one_line(error)}")
        rows = []
    best = [_best(rows, name, largest=False) if held_out else None for name in ("val_error", "val_top5_error")]
    return [
        datetime.datetime.fromtimestamp(finished).strftime("%m-%d-%y_%H:%M:%S"),
        config,
        # Their file has no quotes, so a comma would begin a new cell.
        run.folder.replace(",", ";"),
        f"{settings.get('final_sparsity') or 0.0}",
        *(_accuracy(results.get(f"{prefix}_{name}")) for name in ("error", "top5_error")),
        *map(_accuracy, best),
        _percent(_best(rows, "accuracy", largest=True)),
        "",  # the top-5 accuracy of training images is not measured
    ]


def _best(rows, name, largest):
    """The best figure of a column over all epochs; `None` if it has none."""
    figures = [float(row[name]) for row in rows if row.get(name)]
    figures = [figure for figure in figures if not math.isnan(figure)]
    return (max if largest else min)(figures, default=None)


def _accuracy(error):
    return "" if error is None else _percent(1 - error)


def _percent(fraction):
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _write_sparse_momentum(found, file):
    from sparsity_tf.train.summary import Statistics

    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_SPARSE_MOMENTUM_COLUMNS)
    chosen = _classifiers(found.runs, "sparse_momentum_csv")
    for group in found.groups:
        runs = [run.results for run in group.runs if run in chosen]
        values = {
            "Accuracy": [1 - results["test_error"] for results in runs],
            "Error": [results["test_error"] for results in runs],
            "Loss": [results["test_loss"] for results in runs if results.get("test_loss") is not None],
        }
        for metric, figures in values.items():
            if not figures:
                continue
            all_runs = Statistics.of(figures)
            error = all_runs.standard_error
            ends = ["", ""] if error is None else [all_runs.mean - 1.96 * error, all_runs.mean + 1.96 * error]
            error = "" if error is None else error
            writer.writerow([group.label, metric, all_runs.median, all_runs.mean, error, all_runs.n, *ends])


def main(argv=None):
    """Runs the command; arguments and exit status as for `command.run`."""
    return command.run(_NAME, __doc__, _define_flags, _run, argv, takes_paths=True)


if __name__ == "__main__":
    sys.exit(main())
