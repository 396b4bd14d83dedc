"""How far the runs of a study are: read from their folders, which are all that a study keeps."""

import dataclasses
import json
import os

from sparsity_tf.bounded_files import DamagedFileError, one_line, read_json
from sparsity_tf.study.plan import PlannedRun, Study
from sparsity_tf.train import folder_lock, run_folder, summary

# What the program printed, in the folder of a run.
LOG = "log.txt"
# Written where a scheduler has ended a run before its last epoch.
STOPPED = "stopped.json"
# The states of a run, in the order in which a table shows them.
STATES = ("finished", "collapsed", "stopped early", "running", "unfinished", "not begun")
# The states of runs that a second start leaves alone.
SETTLED = ("finished", "collapsed", "stopped early")


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of a run.

    Attributes:
        run: The `PlannedRun`.
        folder: Its folder.
        state: One of `STATES`. The network of a collapsed run is broken, but the run has ended.
        detail: A sentence about it, or "".
        results: The content of `results.json` if the run has finished, otherwise `None`.
    """

    run: PlannedRun
    folder: str
    state: str
    detail: str = ""
    results: dict | None = None

    @property
    def settled(self):
        """Whether there is nothing left to do."""
        return self.state in SETTLED


def of_run(folder: str, run: PlannedRun) -> Progress:
    """The state of a run of a study in a folder."""
    own = os.path.join(folder, run.folder)
    if os.path.exists(os.path.join(own, run_folder.RESULTS)):
        found = summary.read_run(own)
        if isinstance(found, summary.Run):
            return Progress(run, own, "finished", results=found.results)
        if not found.reason.startswith("damaged"):
            return Progress(run, own, "collapsed", found.reason)
        return Progress(run, own, "unfinished", found.reason)
    if os.path.exists(os.path.join(own, STOPPED)):
        return Progress(run, own, "stopped early", _why_stopped(os.path.join(own, STOPPED)))
    if _is_in_use(own):
        return Progress(run, own, "running", summary.read_run(own).reason)
    if not os.path.exists(os.path.join(own, run_folder.RECIPE)):
        return Progress(run, own, "not begun", last_error(own))
    return Progress(
        run, own, "unfinished", last_error(own) or summary.read_run(own).reason.removeprefix("unfinished: ")
    )


def of_study(folder: str, runs: list) -> list:
    """The states of runs, a list of `Progress` in the same order."""
    return [of_run(folder, run) for run in runs]


def _is_in_use(folder):
    if not os.path.exists(os.path.join(folder, folder_lock.LOCK)):
        return False
    try:
        folder_lock.FolderLock(folder).release()
    except ValueError:
        return True
    return False


def last_error(folder):
    """The last line of the log in a folder if it is the error of a program; otherwise ""."""
    path = os.path.join(folder, LOG)
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 10_000))
        lines = file.read().decode("utf-8", "replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    # The last line of an error that the program did not expect is its name, after "Traceback".
    failed = lines and (lines[-1].startswith("error: ") or any(line.startswith("Traceback") for line in lines))
    return one_line(lines[-1], 500) if failed else ""


def write_stopped(folder, by, figures):
    """Says in the folder of a run that a scheduler has ended it early. `figures` is a dict."""
    with run_folder.writing(os.path.join(folder, STOPPED)) as file:
        json.dump({"by": by, **figures}, file)


def _why_stopped(path):
    try:
        found = read_json(path)
    except (DamagedFileError, ValueError, OSError) as error:
        return one_line(error)
    said = [f"{name} {value}" for name, value in found.items() if name != "by"] if isinstance(found, dict) else []
    return f"by {found.get('by')} at {', '.join(said)}" if said else ""


def check_settings(folder: str, runs: list) -> list[str]:
    """The runs in a folder that have other settings than the study: a list of sentences."""
    problems = []
    for run, recipe in runs:
        try:
            run_folder.check_settings(os.path.join(folder, run.folder), recipe)
        except ValueError as error:
            problems.append(one_line(error))
    return problems


def status_text(study: Study, folder: str, runs: list) -> str:
    """A table of the numbers of runs in each state, with a line for each run that is not settled but begun."""
    from tabulate import tabulate

    found = of_study(folder, runs)
    used = [state for state in STATES if any(one.state == state for one in found)]
    rows = []
    for method in study.methods:
        own = [one.state for one in found if one.run.method is method]
        rows.append([method.name, *(own.count(state) or "" for state in used), len(own)])
    total = [sum(one.state == state for one in found) for state in used]
    rows.append(["all", *total, len(found)])
    text = tabulate(rows, ["method", *used, "runs"], colalign=["left", *["right"] * (len(used) + 1)])
    lines = [f"{one.state}: {one.run.label}: {one.detail}" for one in found if one.detail]
    return "\n".join([text, *lines])
