"""Texts of flags that stand for more than a number: frequencies and distributions, as the callbacks take them."""

import contextlib
import itertools
import re
from importlib import resources

from sparsity_tf import schedules
from sparsity_tf.distributions import budgets


def parse_frequency(text, steps):
    """Converts the `frequency` of a recipe into the `frequency` of a callback.

    Args:
        text: An integer >= 1; "epoch"; or pairs EPOCH:FREQUENCY with rising epochs, of which the first is 0. For
            example, "0:100,25:200" means every 100 steps, and every 200 steps from epoch 25 on.
        steps: Number of steps in an epoch.

    Returns:
        An integer, "epoch", or a `schedules.Piecewise`.

    Raises:
        ValueError: The text has another form.
    """
    if text == "epoch":
        return text
    pairs = re.fullmatch(r"\d+|[\d.]+:\d+(,[\d.]+:\d+)*", text) and [pair.split(":") for pair in text.split(",")]
    with contextlib.suppress(ValueError):
        frequencies = [int(pair[-1]) for pair in pairs or ()]
        epochs = [float(pair[0]) for pair in pairs or () if len(pair) == 2]
        rising = not epochs or (epochs[0] == 0 and all(a < b for a, b in itertools.pairwise(epochs)))
        if frequencies and min(frequencies) >= 1 and rising:
            boundaries = tuple(round(epoch * steps) for epoch in epochs[1:])
            return schedules.Piecewise(boundaries, tuple(frequencies)) if epochs else frequencies[0]
    raise ValueError(
        "`frequency` must be an integer of at least 1, epoch, or pairs EPOCH:FREQUENCY with rising epochs from 0 on, "
        f"such as 0:100,25:200. Received: frequency={text}"
    )


def parse_distribution(text):
    """Converts the `distribution` of a recipe into the `distribution` of a callback.

    Args:
        text: A name; the path of a budget, which ends in .csv; this path, a colon and the name of a column, if the file
            holds several budgets; "str:90.23", the published budget of STR for ResNet-50 at 90.23 %, or "str:METHOD",
            such as "str:SNFS", the published sparsities of a method at 90 %; or pairs NAME=SPARSITY separated by
            commas, such as "stage.*=0.91,classifier=0.8", in which NAME is a layer's name or a regular expression.

    Returns:
        The text, a `Budget`, or a dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A pair is malformed, or a file does not hold that column.
    """
    path, _, column = text.rpartition(":")
    if path == "str":
        return _published_budget(column)
    if path.endswith(".csv"):
        return _budget(path, column, text)
    if text.endswith(".csv") or "=" not in text:
        return text
    try:
        pairs = [pair.rsplit("=", 1) for pair in text.split(",")]
        return {name: float(sparsity) for name, sparsity in pairs}
    except ValueError:
        raise ValueError(
            "`distribution` must be a name, a .csv file, or NAME=SPARSITY pairs separated by commas. "
            f"Received: distribution={text}"
        ) from None


def _published_budget(column):
    """The published sparsities of ResNet-50's layers: of a network of STR (90.23), or of a method at 90 % (SNFS)."""
    file = "STR_Budgets_ResNet50.csv" if re.fullmatch(r"[\d.]+", column) else "SparsityDistributions_90_ResNet50.csv"
    with resources.as_file(resources.files("sparsity_tf").joinpath("study", "data", "str", file)) as path:
        return _budget(path, column, f"str:{column}")


def _budget(path, column, received):
    try:
        return budgets.read_csv(path, column)
    except ValueError as error:
        raise ValueError(
            f"`distribution` must be a budget that can be read: {error} (distribution={received})"
        ) from None
