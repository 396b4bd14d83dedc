"""The catalogue of the 49 checkpoints that *The State of Sparsity* (Gale et al., arXiv 1902.09574) published.

The authors list each with its score. The settings of its training are part of its name. The catalogue is the file
`published_checkpoints.csv` among the published results (`study/data/`). The checkpoints themselves are large and not
part of this package.
"""

import csv
import functools
import os
from dataclasses import dataclass, fields
from importlib import resources

from sparsity_tf.type_names import PathLike

_FILE = "study/data/state_of_sparsity/published_checkpoints.csv"


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One published checkpoint. A setting that its technique does not have is `None`.

    Attributes:
        model: "Transformer" or "ResNet-50".
        technique: "Magnitude Pruning", "Random Pruning", "Variational Dropout", "L0 Regularization", or "Magnitude
            Pruning (extended/non-uniform)".
        sparsity: Claimed share of zeros of the sparse weights, 0 to 1.
        score: Claimed score, in the unit of `metric`.
        metric: "BLEU" (newstest2014, by the paper's recipe) or "top-1 accuracy %".
        name: Name of the published file without `.tar`.
        target_sparsity: Final sparsity of the pruning schedule, where the name gives one beside the sparsity reached.
        begin_step: First step of the schedule of pruning or, in ResNets, of the penalty.
        end_step: Last step of that schedule.
        frequency: Steps between two changes of the masks.
        penalty_schedule: "linear" or "cubic".
        ramp_start: First step of the penalty's ramp.
        ramp_length: Steps of the ramp.
        penalty_weight: Weight of the penalty.
        dropout: Rate of dropout.
        label_smoothing: Label smoothing.
        log_alpha_threshold: Variational dropout: the threshold with which the score was measured.
        url: Where the authors put the file.
    """

    model: str
    technique: str
    sparsity: float
    score: float
    metric: str
    name: str
    target_sparsity: float | None
    begin_step: int | None
    end_step: int | None
    frequency: int | None
    penalty_schedule: str | None
    ramp_start: int | None
    ramp_length: int | None
    penalty_weight: float | None
    dropout: float | None
    label_smoothing: float | None
    log_alpha_threshold: float | None
    url: str


@functools.cache
def published_checkpoints() -> tuple[PublishedCheckpoint, ...]:
    """Returns: tuple of `PublishedCheckpoint`, the catalogue in the authors' order."""
    types = {field.name: field.type for field in fields(PublishedCheckpoint)}
    source = resources.files("sparsity_tf").joinpath(_FILE)
    with source.open(encoding="utf-8", newline="") as file:
        return tuple(
            PublishedCheckpoint(**{name: _value(text, types[name]) for name, text in row.items()})
            for row in csv.DictReader(file)
        )


def find_published(path: PathLike) -> PublishedCheckpoint | None:
    """Finds the published checkpoint that a path names: the file itself or one of the folders around it.

    Args:
        path: For example `"magnitude_pruning_0.9_0_400000_10000_0.0_0.1.tar"`, the same with `.keras`, or the prefix of
            a checkpoint in a folder of that name.

    Returns:
        A `PublishedCheckpoint`, or `None` if no part of the path is a name of the catalogue.
    """
    by_name = {published.name: published for published in published_checkpoints()}
    for part in reversed(os.path.abspath(os.fspath(path)).split(os.sep)):
        # `.keras` is the ending of an imported checkpoint.
        name = part.removesuffix(".tar").removesuffix(".keras")
        if name in by_name:
            return by_name[name]
    return None


def _value(text, kind):
    if kind in (str, str | None):
        return text or None
    if not text:
        return None
    return int(text) if kind == int | None else float(text)
