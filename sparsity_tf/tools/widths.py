"""Draws accuracy and sparsity of runs against the width of their network (SparseVD: VGG-like nets of scale k).

    sparsity-tf widths RUNS... [--output=FILE.png] [--sparsity_of=sparse_weights|kernels] [--title=TEXT] [--overwrite]

RUNS are folders of finished runs of `train.classifier` with networks that have a width, for example
`--model_options='{"width": 0.25}'`. The table goes to standard output: one line for each experiment and width, the mean
over runs that differ in the seed alone with its standard error. Collapsed runs are named on standard error and counted
nowhere. The exit status is 0, 1 (a run can't be used, or the file can't be written) or 2 (wrong usage).
"""

import sys

from absl import flags

from sparsity_tf.tools import command

_NAME = "widths"


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("output", None, "Where to write the picture, a .png file.", **own)
    flags.DEFINE_enum("sparsity_of", "sparse_weights", ["sparse_weights", "kernels"], "How runs count.", **own)
    flags.DEFINE_string("title", None, "Title of the picture.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the picture if it is there.", **own)


def _run(values, paths):
    if not paths:
        raise flags.Error("Folders of runs are required: sparsity-tf widths runs/vgg_*")
    if values.output is not None:
        command.check_output(values.output, ".png", values.overwrite)
    from sparsity_tf.study import plot_widths, read_runs
    from sparsity_tf.study.width_plot import left_out, lines_of

    runs = read_runs(paths, values.sparsity_of)
    lines = lines_of(runs)
    for sentence in left_out(runs):
        command.note(_NAME, sentence)
    if values.output is not None:
        with command.appearing(values.output, values.overwrite) as unfinished:
            plot_widths(runs, values.sparsity_of, values.title, unfinished)
    print(_table(lines))


def _table(lines):
    from tabulate import tabulate

    body = [
        [
            label,
            f"{point.width:g}",
            f"{point.score:.2f} %",
            _error(point.score_error),
            "" if point.dense else f"{point.sparsity:.2f} %",
            "" if point.dense else _error(point.sparsity_error),
            len(point.runs),
        ]
        for label, points in lines.items()
        for point in points
    ]
    header = ["technique", "width", "accuracy", "+/-", "sparsity", "+/-", "runs"]
    return tabulate(body, header, colalign=["left", *["right"] * 6], disable_numparse=True)


def _error(value):
    return "" if value is None else f"{value:.2f}"


def main(argv=None):
    """Runs the command; arguments and exit status as for `command.run`."""
    return command.run(_NAME, __doc__, _define_flags, _run, argv, takes_paths=True)


if __name__ == "__main__":
    sys.exit(main())
