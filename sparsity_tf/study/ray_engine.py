"""Runs a study with Ray Tune (`pip install "sparsity-tf[ray]"`): many machines, shares of GPUs, ASHA.

Ray places the runs, retries them if a machine goes down, and ends some early if asked. A run itself is the same process
as without Ray, in the same folder, which all machines must share. A retry continues from the last checkpoint in it.
"""

import importlib.util
import logging
import os
import pathlib
import sys
import threading

from sparsity_tf.extras import import_optional
from sparsity_tf.study import local, programs, progress
from sparsity_tf.train import run_folder

# Variables of these families reach the runs, so that each has the backend and options of the process that starts Ray.
_FAMILIES = ("KERAS_", "TF_", "XLA_", "JAX_")
_MAIN = "from sparsity_tf.study.ray_engine import child; child()"


def run_all(study, runs, folder, jobs, retries, on_end, stopped, options):
    """Makes runs on a Ray cluster. The arguments are those of `local.run_all`, and `running.RayOptions`."""
    if not runs:
        return
    ray, tune = import_optional("ray"), import_optional("ray.tune")
    # Ray's own handler would end this process at once; `stopped` ends the study cleanly.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # The study says itself how far it is.
    ours = not ray.is_initialized()
    if ours:
        dashboard = {} if options.address else {"include_dashboard": False}
        ray.init(address=options.address, log_to_driver=False, logging_level=logging.WARNING, **dashboard)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    by_folder = {run.folder: run for run in runs}
    try:
        tune.run(
            _trainable(tune, study, by_folder, folder),
            config={"run": tune.grid_search(list(by_folder))},
            resources_per_trial={"cpu": options.cpus, "gpu": options.gpus},
            max_concurrent_trials=jobs,
            max_failures=retries,
            scheduler=_asha(tune, study, runs) if options.asha else None,
            callbacks=[_callback(tune, study, by_folder, folder, on_end, stopped)],
            storage_path=os.path.join(folder, "ray"),
            trial_dirname_creator=lambda trial: trial.trial_id,
            raise_on_failed_trial=False,
            verbose=0,
        )
    except KeyboardInterrupt:
        if stopped.signal is None:
            raise
    finally:
        if ours:
            ray.shutdown()


def _asha(tune, study, runs):
    epochs = max(programs.recipe_of(study.program, run.arguments).epochs for run in runs)
    return tune.schedulers.ASHAScheduler(
        time_attr="epoch",
        metric=study.choice.column,
        mode="min",
        max_t=epochs + 1,  # At `max_t` ASHA ends a run, and the last epoch is not the end: the report follows.
        # Not before a fourth of the run: many schedules have hardly begun by then.
        grace_period=max(1, epochs // 4),
        reduction_factor=3,
    )


def _callback(tune, study, by_folder, folder, on_end, stopped):
    """A callback of Ray Tune that reports the end of each run and ends the study on a signal."""

    class Reports(tune.Callback):
        def on_step_begin(self, iteration, trials, **info):
            if stopped.signal is not None:
                raise KeyboardInterrupt

        def on_trial_complete(self, iteration, trials, trial, **info):
            result, run = trial.last_result, by_folder[trial.config["run"]]
            if "status" not in result:
                figures = {name: result[name] for name in ("epoch", study.choice.column) if name in result}
                progress.write_stopped(os.path.join(folder, run.folder), "ASHA", figures)
            on_end(run, result.get("status", 0), result.get("time_total_s", 0.0))

        def on_trial_error(self, iteration, trials, trial, **info):
            on_end(by_folder[trial.config["run"]], None, trial.last_result.get("time_total_s", 0.0))

    return Reports()


def _trainable(tune, study, by_folder, folder):
    """The function that Ray calls for each run, on any machine: it starts the run and reports its course.

    The function is local, so Ray sends its code and the worker need not import this package, and with it Keras. It may
    name only modules that it imports itself, and `tune`.
    """
    program, column = study.program, study.choice.column
    commands = {name: list(run.arguments) for name, run in by_folder.items()}
    variables = {name: value for name, value in os.environ.items() if name.startswith(_FAMILIES)}
    variables |= local.environment_of(study.threads)
    root = str(pathlib.Path(importlib.util.find_spec("sparsity_tf").origin).parents[1])
    log_name, metrics_name, main = progress.LOG, run_folder.METRICS, _MAIN

    def trainable(config):
        import csv
        import os
        import subprocess
        import sys
        import time

        own = os.path.join(folder, config["run"])
        os.makedirs(own, exist_ok=True)
        paths = [root, os.environ.get("PYTHONPATH", "")] if os.path.isdir(root) else [os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        arguments = [*commands[config["run"]], f"--output_dir={own}", "--resume"]
        with open(os.path.join(own, log_name), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", main, program, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        reported, last = 0, {"epoch": 0, column: float("inf")}

        def rows():
            try:
                with open(os.path.join(own, metrics_name), newline="") as file:
                    found = list(csv.DictReader(file))
                return [{"epoch": int(row["epoch"]), column: float(row[column])} for row in found]
            except (OSError, ValueError, KeyError, TypeError):  # Not there yet, or half a line.
                return []

        try:
            while process.poll() is None:
                time.sleep(0.5)
                for last in rows()[reported:]:
                    reported += 1
                    tune.report(last)
        finally:
            process.kill()
            process.wait()
        if process.returncode < 0:
            raise RuntimeError(f"the process of the run was killed by signal {-process.returncode}")
        tune.report({**last, "status": process.returncode})

    return trainable


def child():
    """The life of a run's process: the program of `sys.argv[1]` with the flags that follow.

    The process ends when its standard input is closed, which happens when the worker of Ray dies.
    """
    threading.Thread(target=_end_with_input, daemon=True).start()
    sys.exit(programs.run(sys.argv[1], sys.argv[2:]))


def _end_with_input():
    while os.read(0, 1):
        pass
    local.end_this_process()
