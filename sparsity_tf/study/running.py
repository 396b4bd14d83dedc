"""Starts the runs of a study on an engine, shows how far they are, and ends cleanly: `run_study`."""

import dataclasses
import os
import signal
import sys
import time

import keras

from sparsity_tf.checks import (
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_path,
    check_string,
)
from sparsity_tf.study import local, programs, progress, ray_engine, search
from sparsity_tf.study.plan import Study
from sparsity_tf.train import run_folder
from sparsity_tf.train.folder_lock import FolderLock
from sparsity_tf.type_names import PathLike

ENGINES = ("local", "ray")


@dataclasses.dataclass(frozen=True)
class RayOptions:
    """How `run_study` uses a Ray cluster.

    Args:
        address: Address of a cluster, such as `"auto"` or `"ray://host:10001"`; `None` starts Ray on this machine.
        cpus: CPU cores for each run, a number above 0.
        gpus: GPUs for each run, a number; 0.25 lets four runs share one.
        asha: Whether ASHA ends runs early whose validation figure is worse than that of other runs at the same epoch.
            The runs that it ends have no part in the table.

    Raises:
        ValueError: For any other value.

    Example:

    >>> RayOptions(address="auto", gpus=0.5).gpus
    0.5
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    asha: bool = False

    def __post_init__(self) -> None:
        if self.address is not None:
            check_string("address", self.address)
        check_number("cpus", self.cpus, above=0)
        check_number("gpus", self.gpus, least=0)
        check_bool("asha", self.asha)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of `run_study`.

    Attributes:
        states: Dict from each state to the number of runs in it: "finished", "collapsed", "unfinished", ...
        failed: List of sentences, one for each run of this start that ended with an error.
        signal: The number of the signal that stopped the study, or `None`.

    Example:

    >>> Outcome({"finished": 12}, failed=[]).states
    {'finished': 12}
    """

    states: dict
    failed: list
    signal: int | None = None


def run_study(
    study: Study,
    folder: PathLike,
    jobs: int = 1,
    engine: str = "local",
    retries: int = 2,
    ray: RayOptions | None = None,
) -> Outcome:
    """Makes the runs of a study that have not ended yet. Those that were interrupted continue from their checkpoints.

    Each run is an ordinary run of a training program, in a folder of its own. A second start leaves finished runs
    alone. SIGINT and SIGTERM end the study cleanly; after a SIGKILL it continues as well.

    In a script, call this below `if __name__ == "__main__":`, as everything that starts processes.

    Args:
        study: A `Study` of `read_study`.
        folder: Folder of the study, which is made if missing. With Ray on several machines, all of them must share it.
        jobs: Integer >= 1: the number of runs at a time.
        engine: `"local"`: processes of this machine. `"ray"`: Ray Tune (`pip install "sparsity-tf[ray]"`).
        retries: Integer >= 0: how often a run continues, from its last checkpoint, whose process or machine died.
        ray: `RayOptions`, for Ray only.

    Returns:
        `Outcome`.

    Raises:
        ValueError: An argument can't be used, another process runs this study, or runs in the folder have other
            settings than the study. The message names every difference.
        ImportError: Ray or Optuna is not installed.

    Example:

    ```python
    plan = Study("empty", "classifier", methods=(), seeds=(0,), metric="val_error")
    outcome = run_study(plan, "runs/empty", jobs=2)
    print(outcome.states)
    ```
    """
    check_instance("study", study, Study)
    check_path("folder", folder)
    check_integer("jobs", jobs, 1)
    check_choice("engine", engine, ENGINES)
    check_integer("retries", retries, 0)
    if ray is not None:
        check_instance("ray", ray, RayOptions)
    folder = os.path.abspath(os.fspath(folder))
    os.makedirs(folder, exist_ok=True)
    lock = FolderLock(folder)
    try:
        return _run(study, folder, jobs, engine, retries, ray or RayOptions())
    finally:
        lock.release()


def _run(study, folder, jobs, engine, retries, ray):
    known = search.planned_runs(study, folder)
    check_folder(study, folder, known)
    done = sum(one.settled for one in progress.of_study(folder, known))
    reporter = Reporter(study, folder, search.count_runs(study), done, jobs)
    with local.stopping() as stopped:
        for runs in search.rounds(study, folder):
            pending = [one.run for one in progress.of_study(folder, runs) if not one.settled]
            if engine == "ray":
                ray_engine.run_all(study, pending, folder, jobs, retries, reporter, stopped, ray)
            else:
                local.run_all(study, pending, folder, jobs, retries, reporter, stopped)
            if stopped.signal is not None or reporter.failed:
                break  # A search must not learn from a round that lacks runs.
    states = [one.state for one in progress.of_study(folder, search.planned_runs(study, folder))]
    counts = {state: states.count(state) for state in progress.STATES if state in states}
    return Outcome(counts, reporter.failed, stopped.signal)


def check_folder(study, folder, runs):
    """Raises a ValueError if runs in the folder have other settings than the study."""
    begun = [run for run in runs if os.path.exists(os.path.join(folder, run.folder, run_folder.RECIPE))]
    recipes = [(run, programs.recipe_of(study.program, run.arguments)) for run in begun]
    problems = progress.check_settings(folder, recipes)
    if problems:
        others = f" And {len(problems) - 3} more." if len(problems) > 3 else ""
        raise ValueError(
            f"{folder} holds runs with other settings than the study: give another --output_dir, or undo the change. "
            f"{' '.join(problems[:3])}{others}"
        )


class Reporter:
    """Says how far a study is: a bar in a terminal, otherwise a line for each run that ends.

    Args:
        study: The `Study`.
        folder: Folder of the study.
        total: Number of all runs.
        done: Number of runs that had ended before.
        jobs: Number of runs at a time.

    Attributes:
        failed: List of sentences, one for each run that ended with an error.
    """

    def __init__(self, study, folder, total, done, jobs):
        self.study, self.folder, self.total, self.done, self.jobs = study, folder, total, done, jobs
        self.failed, self.seconds = [], []
        self.began = time.monotonic()
        already = f", {done} of them ended before" if done else ""
        print(f"{study.name}: {total} runs{already}; {jobs} at a time, in {folder}", flush=True)
        self.bar = keras.utils.Progbar(total, unit_name="run") if sys.stdout.isatty() and done < total else None
        if self.bar:
            self.bar.update(done)

    def __call__(self, run, status, seconds):
        found = progress.of_run(self.folder, run)
        if found.settled:
            self.done += 1
            self.seconds.append(seconds)
            said = found.detail or self._figures(found)
        else:
            reason = found.detail if status is not None else "its process was killed"
            said = f"failed: {reason or f'exit status {status}'}"
            self.failed.append(f"{run.label}: {said} (see {os.path.join(found.folder, progress.LOG)})")
        if self.bar:
            self.bar.update(self.done)
        if not self.bar or not found.settled:
            print(f"[{self.done}/{self.total}] {run.label}: {said}, {seconds:.1f} s{self._left()}", flush=True)

    def _figures(self, found):
        metric = self.study.choice
        value = metric.chosen_by.of(found.results)
        if value is None:
            return "finished"
        return f"{metric.chosen_by.label.removesuffix(', %')} {value * metric.chosen_by.scale:.3f}"

    def _left(self):
        left = self.total - self.done - len(self.failed)
        if not self.seconds or left <= 0:
            return ""
        # The time of the whole start, so that waiting and start-up count.
        minutes = (time.monotonic() - self.began) / len(self.seconds) * left / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"


def name_of_signal(number):
    """The name of a signal: "SIGINT"."""
    return signal.Signals(number).name
