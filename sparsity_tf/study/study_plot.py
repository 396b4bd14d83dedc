"""Draws a study: quality against sparsity, multiply-accumulates or time, and published results beside it."""

from collections.abc import Sequence

from sparsity_tf.checks import check_choice, check_instance, check_string, shown
from sparsity_tf.study import tradeoff_plot
from sparsity_tf.study.result import PublishedResult
from sparsity_tf.study.study_table import StudyTable
from sparsity_tf.study.tradeoff import TradeoffTable, tradeoff_table
from sparsity_tf.type_names import Figure, PathLike


def plot_study(
    table: StudyTable,
    x: str = "sparsity",
    published: Sequence[PublishedResult] | None = None,
    worst_score: float | None = None,
    title: str | None = None,
    path: PathLike | None = None,
    methods: Sequence[str] | None = None,
) -> Figure:
    """Draws the rows of a study's table: a line for each method, with standard errors over the seeds.

    Args:
        table: A `StudyTable` of `study_table`.
        x: `"sparsity"`; `"flops"`, the multiply-accumulates without the zeros; or `"seconds"`, the time of training.
        published: List of `PublishedResult`s of one model with the same metric, drawn beside the study, or `None`.
        worst_score: Points with a worse score are not drawn; `None` draws all.
        title: Title; the metric by default.
        path: Where to write a PNG file, or `None`.
        methods: Names of the methods to draw; `None` draws all. A picture of more than a dozen is hard to read.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: An argument can't be used, the metrics differ, or no point is left to draw.
        ImportError: Matplotlib is missing.

    Example:

    ```python
    figures = {"validation": 0.021, "validation_error": None, "test": 0.019, "test_error": None, "sparsity": 0.9}
    costs = {"macs": 26620, "dense_macs": 266200, "seconds": 12.5, "provisional": False}
    row = StudyRow("rigl", {"final_sparsity": 0.9}, {}, 1, 1, 1, 0, **figures, **costs)
    plot_study(StudyTable([row], "val_error"), x="flops", path="mine.png")
    ```
    """
    check_instance("table", table, StudyTable)
    check_choice("x", x, tradeoff_plot.AXES)
    if methods is not None:
        table = StudyTable(_of_methods(table, methods), table.metric)
    own = table.to_tradeoff()
    rows = list(own)
    if title is not None:
        check_string("title", title)
    if published is not None and not (isinstance(published, list | tuple) and not published):
        others = tradeoff_table(published)
        if others.metric != own.metric:
            raise ValueError(
                f"`published` must have the metric of the study, {own.metric}. Received: results in {others.metric}"
            )
        rows = [*others, *rows]
    both = TradeoffTable(rows, own.metric)
    if title is None:
        title = tradeoff_plot.title_of(published, both)
    return tradeoff_plot.draw_table(both, x, worst_score, title, path, joined=True)


def _of_methods(table, methods):
    """The rows of the named methods, each of which must have one."""
    check_instance("methods", methods, list, tuple)
    known = list(dict.fromkeys(row.method for row in table))
    unknown = [one for one in methods if one not in known]
    if unknown or not methods:
        raise ValueError(
            f"`methods` must be a list of methods that have rows, such as {', '.join(known[:20])}. "
            f"Received: methods={shown(methods)}"
        )
    return [row for row in table if row.method in methods]
