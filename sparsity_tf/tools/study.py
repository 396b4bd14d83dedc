r"""Makes a study: a grid of training runs that a small TOML file describes, its table and its pictures.

```
python -m sparsity_tf.tools.study run STUDY.toml [--jobs=2] [--output_dir=runs/mine] [--retries=2] [--method=rigl]
python -m sparsity_tf.tools.study run STUDY.toml --engine=ray [--address=auto] [--cpus=1] [--gpus=0.5] [--asha]
python -m sparsity_tf.tools.study status STUDY.toml
python -m sparsity_tf.tools.study table STUDY.toml [--format=table|csv] [--all_settings]
python -m sparsity_tf.tools.study plot STUDY.toml --output=picture.png [--x=sparsity|flops|seconds] \
    [--published=ResNet-50] [--worst_score=90] [--method=rigl --method=set]
```

`run` starts the runs. After a signal, a crash or a kill the same command continues them, to the bit; `resume` is
another name of it. `--method`, once or more often, takes only the runs of these methods. `table` shows for each row
the settings that are best on validation data, with their test figures. The guide is docs/guides/studies.md. Exit
status 0 if all runs have ended, 1 if a run failed or anything else is wrong, 2 for wrong flags or a wrong study file,
130 after SIGINT and 143 after SIGTERM.
"""

import os
import sys

from absl import flags

from sparsity_tf.tools.command import CommandError, appearing, check_output, run

_NAME = "study"
_COMMANDS = ("run", "resume", "status", "table", "plot")


def main(argv=None):
    """Runs the command; returns the exit status."""
    return run(_NAME, __doc__, _define_flags, _run, argv, takes_paths=True)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("output_dir", None, "Folder of the study; runs/NAME by default.", **own)
    flags.DEFINE_integer("jobs", 1, "Number of runs at a time (run).", lower_bound=1, **own)
    flags.DEFINE_integer(
        "retries", 2, "How often a run continues whose process or machine died (run).", lower_bound=0, **own
    )
    flags.DEFINE_enum("engine", "local", ["local", "ray"], "Processes of this machine, or Ray Tune (run).", **own)
    flags.DEFINE_string("address", None, "Address of a Ray cluster; by default Ray starts on this machine.", **own)
    flags.DEFINE_float("cpus", 1.0, "CPU cores for each run (Ray).", lower_bound=0.0, **own)
    flags.DEFINE_float("gpus", 0.0, "GPUs for each run; 0.25 lets four runs share one (Ray).", lower_bound=0.0, **own)
    flags.DEFINE_boolean("asha", False, "End runs early that are worse than others at the same epoch (Ray).", **own)
    flags.DEFINE_enum("format", "table", ["table", "csv"], "How to print the table (table).", **own)
    flags.DEFINE_boolean("all_settings", False, "Show all settings, with validation figures only (table).", **own)
    flags.DEFINE_enum("x", "sparsity", ["sparsity", "flops", "seconds"], "The horizontal axis (plot).", **own)
    flags.DEFINE_string("published", None, "Draw published results of this model beside the study (plot).", **own)
    flags.DEFINE_float("worst_score", None, "Leave worse points out of the picture (plot).", **own)
    flags.DEFINE_multi_string(
        "method", None, "Only this method; once for each. By default all methods (run, status, table, plot).", **own
    )
    flags.DEFINE_string("title", None, "Title of the picture (plot).", **own)
    flags.DEFINE_string("output", None, "Where to write the picture, a .png file (plot).", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the picture if it is there (plot).", **own)


# Flag -> the command that reads it.
_OF_COMMAND = {
    **dict.fromkeys(("jobs", "retries", "engine", "address", "cpus", "gpus", "asha"), ("run", "resume")),
    **dict.fromkeys(("format", "all_settings"), ("table",)),
    **dict.fromkeys(("x", "published", "worst_score", "title", "output", "overwrite"), ("plot",)),
}


def _run(values, words):
    if len(words) != 2 or words[0] not in _COMMANDS:
        raise flags.Error(f"Give one of {', '.join(_COMMANDS)}, and a study file. Received: {' '.join(words)}")
    command, path = words
    for name, commands in _OF_COMMAND.items():
        if values[name].present and command not in commands:
            raise flags.Error(f"Flag --{name} has no meaning with {command}")
    if values.engine == "local":
        for name in ("address", "cpus", "gpus", "asha"):
            if values[name].present:
                raise flags.Error(f"Flag --{name} needs --engine=ray")
    if command == "plot":
        if values.output is None:
            raise flags.Error("Flag --output is required")
        check_output(values.output, ".png", values.overwrite, study=path)
    from sparsity_tf import study

    try:
        plan = study.read_study(path)
    except study.StudyFileError as error:
        count = len(error.problems)
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise flags.Error(f"{path} has {count} {'error' if count == 1 else 'errors'}") from error
    folder = values.output_dir or os.path.join("runs", plan.name)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise CommandError(f"--output_dir must be a folder. Received: {folder}")
    if values.method and command != "plot":  # `plot_study` takes the names, and refuses methods without a row.
        plan = plan.only(values.method)
    {"run": _start, "resume": _start, "status": _status, "table": _table, "plot": _plot}[command](values, plan, folder)


def _start(values, plan, folder):
    from sparsity_tf import study
    from sparsity_tf.study.running import name_of_signal

    ray = study.RayOptions(values.address, values.cpus, values.gpus, values.asha) if values.engine == "ray" else None
    outcome = study.run_study(plan, folder, values.jobs, values.engine, values.retries, ray)
    print(", ".join(f"{count} {state}" for state, count in outcome.states.items()))
    if outcome.signal is not None:
        print(f"stopped by {name_of_signal(outcome.signal)}; the same command continues the study", file=sys.stderr)
        raise SystemExit(128 + outcome.signal)
    if outcome.failed:
        for sentence in outcome.failed:
            print(sentence, file=sys.stderr)
        raise CommandError(f"{len(outcome.failed)} of {sum(outcome.states.values())} runs failed")
    print(study.study_table(plan, folder))


def _status(values, plan, folder):
    from sparsity_tf.study import progress, search

    print(progress.status_text(plan, folder, search.planned_runs(plan, folder)))


def _table(values, plan, folder):
    from sparsity_tf import study

    table = study.study_table(plan, folder, values.all_settings)
    if values.format == "csv":
        table.write_csv(sys.stdout)
    else:
        print(table)


def _plot(values, plan, folder):
    from sparsity_tf import study

    published = None if values.published is None else study.published_results(model=values.published)
    table = study.study_table(plan, folder)
    if not any(row.test is not None for row in table):
        raise CommandError(f"no run of the study in {folder} has finished")
    with appearing(values.output, values.overwrite) as unfinished:
        study.plot_study(
            table, values.x, published, values.worst_score, values.title, unfinished, methods=values.method
        )


if __name__ == "__main__":
    sys.exit(main())
