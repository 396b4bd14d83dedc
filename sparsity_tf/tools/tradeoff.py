r"""Compares quality at each level of sparsity: published results, and your own runs beside them.

```
python -m sparsity_tf.tools.tradeoff --model=ResNet-50 [--output=picture.png] [--x=sparsity|flops] \
    [--system=state_of_sparsity,str] [--technique=none,magnitude,vd] [--levels=0.8,0.9] [--worst_score=40] \
    [--clone=google-research] [--runs=runs/a,runs/b*] [--sparsity_of=sparse_weights|kernels] [--format=table|csv|json]
python -m sparsity_tf.tools.tradeoff --list
```

The table goes to standard output: the best published score of each technique at each level, and each experiment of your
own (the mean over seeds, with its standard error). `--output` draws the same points. `--clone` takes the results of
State of Sparsity from a clone of google-research, all 20 tables, in place of those in this package. `--runs`
takes folders of finished training runs; patterns are expanded. Exit status 1 if anything is wrong, 2 for wrong flags.
"""

import collections
import glob
import json
import os
import sys

from absl import flags

from sparsity_tf.tools.command import CommandError, appearing, check_output, note, run

_NAME = "tradeoff"


def main(argv=None):
    """Runs the command; returns the exit status: 0, 1 (it failed) or 2 (wrong flags)."""
    return run(_NAME, __doc__, _define_flags, _run, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("model", None, "Show published results of this model, for example Transformer.", **own)
    flags.DEFINE_list("system", None, "Only of these systems, for example state_of_sparsity,str.", **own)
    flags.DEFINE_list("technique", None, "Only these techniques, for example none,magnitude,vd.", **own)
    flags.DEFINE_string("clone", None, "Folder of a clone of google-research, or of its result tables.", **own)
    flags.DEFINE_list("runs", [], "Folders of finished runs, or patterns of them.", **own)
    flags.DEFINE_enum("sparsity_of", "sparse_weights", ["sparse_weights", "kernels"], "How runs count.", **own)
    flags.DEFINE_enum("x", "sparsity", ["sparsity", "flops"], "The horizontal axis of the picture.", **own)
    flags.DEFINE_list("levels", None, "Levels of sparsity, ascending; those that occur by default.", **own)
    flags.DEFINE_float("worst_score", None, "Leave worse points out of the picture.", **own)
    flags.DEFINE_string("title", None, "Title of the picture.", **own)
    flags.DEFINE_string("output", None, "Where to write the picture, a .png file.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the picture if it is there.", **own)
    flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "How to print the table.", **own)
    flags.DEFINE_boolean("list", False, "List the published models, systems and techniques instead.", **own)


def _run(values):
    if values.list:
        print(_overview())
        return
    if values.model is None and not values.runs:
        raise flags.Error("One of the flags --model, --runs and --list is required")
    unused = [name for name in ("system", "technique", "clone") if values.model is None and values[name].value]
    if unused:
        raise flags.Error(f"Flag --{unused[0]} has no meaning without --model")
    levels = _levels(values.levels)
    folders = _folders(values.runs)
    if values.output is not None:
        check_output(values.output, ".png", values.overwrite)
    from sparsity_tf import study
    from sparsity_tf.study import tradeoff, tradeoff_plot

    published = _published(values) if values.model else []
    table = study.tradeoff_table(published, folders, levels, values.sparsity_of)
    if values.output is not None:
        title = values.title or tradeoff_plot.title_of(published, table)
        with appearing(values.output, values.overwrite) as unfinished:
            tradeoff_plot.draw_table(table, values.x, values.worst_score, title, unfinished)
    if values.format == "table":
        print(table)
        return
    for sentence in table.left_out:
        note(_NAME, sentence)
    if values.format == "json":
        print(json.dumps(table.to_dict(), indent=2))
    else:
        tradeoff.write_csv(table, sys.stdout)


def _published(values):
    """The published results that the flags ask for."""
    from sparsity_tf import study
    from sparsity_tf.study.published import select
    from sparsity_tf.study.result import key

    results = study.published_results(values.system, values.model, technique=values.technique)
    if values.clone is not None:
        # The packaged list of checkpoints is no table of the original, so it stays.
        results = [one for one in results if one.system != "state_of_sparsity" or one.checkpoint is not None]
        wanted = {"system": values.system, "model": [values.model], "technique": values.technique}
        wanted = {name: names and {key(one) for one in names} for name, names in wanted.items()}
        results += select(study.read_state_of_sparsity(values.clone), wanted)
    if not results:
        raise CommandError("no published result has all that --model, --system and --technique ask for")
    return results


def _levels(texts):
    if texts is None:
        return None
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise flags.Error(f"Flag --levels must be numbers. Received: {','.join(texts)}") from None


def _folders(patterns):
    folders = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not found:
            raise CommandError(f"--runs: nothing matches {pattern}")
        folders += [run for folder in found for run in _runs_in(folder)]
    return folders


def _runs_in(folder):
    """The runs below a folder of `--repeats`; otherwise the folder itself."""
    if os.path.exists(os.path.join(folder, "results.json")):
        return [folder]
    return sorted(map(os.path.dirname, glob.glob(os.path.join(glob.escape(folder), "*", "results.json")))) or [folder]


def _overview():
    from tabulate import tabulate

    from sparsity_tf import study

    counts = collections.Counter(
        (one.model, one.dataset, one.system, one.metric, one.technique) for one in study.published_results()
    )
    lines = collections.defaultdict(list)
    for (*place, technique), count in counts.items():
        lines[tuple(place)].append(f"{technique} ({count})")
    body = [[*place, ", ".join(techniques)] for place, techniques in sorted(lines.items())]
    return tabulate(
        body, ["model", "data set", "system", "metric", "techniques (results)"], maxcolwidths=[None] * 4 + [60]
    )


if __name__ == "__main__":
    sys.exit(main())
