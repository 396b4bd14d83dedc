"""Runs a study on this machine: as many processes as asked, each with one run at a time.

Every run has a process of its own, so nothing of one run can reach another and a run can be killed alone. Importing
Keras and its backend takes longer than many small runs. One process therefore imports them once and forks for each run
(`multiprocessing`'s "forkserver"). Where a system can't fork, each process imports them by itself.

A process ends with the process that started it, even if that one is killed. Its last checkpoint stays, and a second
start continues from it to the bit.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time

from sparsity_tf.study import programs, progress

# Seconds that a run has between a friendly end and a kill. A run needs none: its files are replaced, never changed.
_PATIENCE = 5
# Variables that limit the threads of TensorFlow, of JAX and of torch.
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "OMP_NUM_THREADS")


def environment_of(threads):
    """The variables for a run with a number of threads; none for `None`."""
    return dict.fromkeys(_THREADS, str(threads)) if threads else {}


class Stopped:
    """Set by a signal, so that a loop can end cleanly.

    Attributes:
        signal: The number of the signal that came, or `None`.
    """

    signal = None

    def __call__(self, number, frame):
        self.signal = number


@contextlib.contextmanager
def stopping():
    """A context with a `Stopped`, which SIGINT and SIGTERM set. Outside the main thread nothing sets it."""
    stopped, before = Stopped(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(study, runs, folder, jobs, retries, on_end, stopped):
    """Makes runs, `jobs` of them at a time.

    Args:
        study: The `Study`.
        runs: List of `PlannedRun`.
        folder: Folder of the study.
        jobs: Number of processes.
        retries: How often a run is continued whose process was killed.
        on_end: Function of (run, exit status or `None` if it was killed, seconds), called at the end of each.
        stopped: A `Stopped`. When it is set, no run begins any more, and those in progress end.
    """
    context = _context(study.program)
    waiting, live, kills = list(runs), {}, {}
    with _environment(environment_of(study.threads)):
        try:
            while (waiting or live) and stopped.signal is None:
                while waiting and len(live) < jobs:
                    run = waiting.pop(0)
                    live[_start(context, study, run, folder)] = run, time.monotonic()
                # A signal does not end this wait, so it is short.
                multiprocessing.connection.wait([process.sentinel for process in live], timeout=0.3)
                for process in [one for one in live if not one.is_alive()]:
                    run, began = live.pop(process)
                    status = process.exitcode
                    if status < 0 and kills.get(run.folder, 0) < retries:
                        kills[run.folder] = kills.get(run.folder, 0) + 1
                        waiting.insert(0, run)
                        continue
                    on_end(run, None if status < 0 else status, time.monotonic() - began)
        finally:
            _end(list(live))


def _context(program):
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparsity_tf.train.trainer", f"sparsity_tf.train.{program}.task"])
    return context


@contextlib.contextmanager
def _environment(variables):
    """A context with variables of the environment, which the process that forks inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(context, study, run, folder):
    own = os.path.join(folder, run.folder)
    os.makedirs(own, exist_ok=True)
    arguments = [*run.arguments, f"--output_dir={own}", "--resume"]
    process = context.Process(
        target=child,
        args=(study.program, arguments, os.path.join(own, progress.LOG), environment_of(study.threads)),
        name=run.label,
    )
    process.start()
    return process


def _end(processes):
    for process in processes:
        process.terminate()
    end = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def child(program, arguments, log, environment):
    """The life of a process: one run. Its exit status is that of the program."""
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Ctrl-C in a terminal reaches every process. The one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.exit(programs.run(program, arguments))


def _end_with(parent):
    parent.join()
    end_this_process()


def end_this_process():
    """Ends this process at once, whatever its threads do. Its files are replaced and never changed, so none breaks."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
