r"""Prints how sparse a checkpoint is, tensor by tensor and in total.

```
sparsity-tf checkpoint-sparsity PATH \
    [--sparsity_technique=auto] [--log_alpha_threshold=3.0] [--format=table|json|csv] [--picture_width=80]
```

`python -m sparsity_tf.checkpoint_sparsity --checkpoint=PATH` does the same. PATH is a `.keras` or
`.weights.h5` file, a SavedModel directory, or a TensorFlow checkpoint: its prefix, its `.index`
file, or a directory (the command reads the latest checkpoint in it). The command finds and counts
tensors by the rules of the State of Sparsity checkpoints (Gale, Elsen, Hooker, arXiv:1902.09574);
see `sparsity_tf.checkpoints.sparsity`.

The report goes to standard output. Assumptions and errors go to standard error, an error as one
line. The exit status is 0, 1 (the checkpoint cannot be read or counted) or 2 (wrong usage).
"""

import csv
import io
import math
import sys

from absl import flags

from sparsity_tf import help_text
from sparsity_tf.bounded_files import LONGEST_COMPLAINT, one_line
from sparsity_tf.checkpoints.sparsity import TECHNIQUES, checkpoint_sparsity
from sparsity_tf.text_table import text_table, wrapped

_COLUMNS = ("name", "shape", "size", "nonzeros", "sparsity")


def main(argv=None):
    """Runs the command.

    Args:
        argv: List of str, program name first; `sys.argv` by default.

    Returns:
        int, the exit status: 0 success, 1 the checkpoint cannot be read or counted, 2 wrong usage.
    """
    argv = sys.argv if argv is None else argv
    values = _define_flags()
    try:
        files = values(argv)[1:]
        if len(files) > (values.checkpoint is None):
            raise flags.Error(f"Unexpected argument: {files[-1]}")
        if values.help:
            print(f"{help_text.head(__doc__)}\n\nFlags:\n{values.get_help()}")
            return 0
        if values.picture_width and values.format != "table":
            raise flags.Error("Flag --picture_width needs --format=table")
        path = files[0] if files else values.checkpoint
        if not path:
            raise flags.Error("Flag --checkpoint is required")
    except flags.Error as error:
        return _fail(f"{error} (--help shows the flags)", status=2)
    given = values["log_alpha_threshold"].present
    try:
        report = checkpoint_sparsity(
            path,
            technique=values.sparsity_technique,
            log_alpha_threshold=values.log_alpha_threshold if given else None,
            picture_width=values.picture_width or None,
        )
    except (ValueError, OSError, MemoryError) as error:
        return _fail(error, status=1)
    for note in report.notes:
        print(f"checkpoint_sparsity: note: {note}", file=sys.stderr)
    print(_render(report, values.format))
    return 0


def _define_flags():
    """Defines flags that only this command sees, because other programs in the process may use the same names."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The checkpoint: a file, directory or prefix.", flag_values=values)
    flags.DEFINE_enum(
        "sparsity_technique",
        "auto",
        list(TECHNIQUES),
        "How the weights were made sparse. auto finds this out from the names of the tensors.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "log_alpha_threshold",
        3.0,
        "For variational dropout: entries with a log alpha below this number count as non-zero. It replaces the "
        "thresholds that a .keras file holds.",
        flag_values=values,
    )
    flags.register_validator("log_alpha_threshold", math.isfinite, "must be a finite number", flag_values=values)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "Form of the report.", flag_values=values)
    flags.DEFINE_integer(
        "picture_width",
        0,
        "Also draw the live entries of each tensor in Braille characters, inputs downwards and outputs to the right, "
        "at most so many characters wide (a dot stands for several entries if need be). 0: no pictures. Only with "
        "--format=table.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "model",
        None,
        ["transformer", "rn50"],
        "Accepted, because the program of State of Sparsity needs it. Here the names of the tensors say enough.",
        flag_values=values,
    )
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="?", flag_values=values)
    return values


def _render(report, form):
    if form == "json":
        return report.to_json()
    rows = [
        (row.name, "x".join(map(str, row.shape)), row.size, row.nonzeros, row.sparsity, row.nonzero_values)
        for row in report.rows
    ]
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, "nonzero_values"])
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    two_figures = report.nonzero_values != report.nonzeros
    rows = [(*row[:4], f"{row[4]:.4f}", *row[5:] * two_figures) for row in rows]
    header = [*_COLUMNS, *["nonzero values"] * two_figures]
    table = text_table(rows, header, ["left", "left", *["right"] * (len(header) - 2)])
    if two_figures:
        figures = (
            f"by masks {100 * report.global_sparsity:.2f} %, by values {100 * report.sparsity_of_values:.2f} % "
            f"({report.nonzeros - report.nonzero_values:,} live weights are exactly 0, for example because they were "
            "just grown)"
        )
        table += "\n\n" + "\n".join(wrapped(figures))
    pictures = "".join(f"{row.name}\n{row.picture}\n\n" for row in report.rows if row.picture is not None)
    return f"{table}\n\n{pictures}{report.path} global sparsity = {100 * report.global_sparsity:.2f} %"


def _fail(message, status):
    print(f"checkpoint_sparsity: error: {one_line(message, LONGEST_COMPLAINT)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
