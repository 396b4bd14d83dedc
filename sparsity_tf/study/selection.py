"""The figures by which a study chooses settings: measured on validation data, each with the test figure to report."""

import dataclasses
import json
import statistics

from sparsity_tf.train.summary import Figure


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure that chooses settings, and the figure that is reported of the chosen ones.

    Attributes:
        chosen_by: `Figure` of `results.json`, on validation data. The lowest mean is the best one.
        reported: `Figure` on the test data (for BLEU: on the pairs that the recipe's `bleu` names).
        column: The column of `metrics.csv` with the course of the first figure, for early stopping.
        score: Name of the reported figure in tables and pictures of published results.
        programs: Names of the training programs that measure it.
        inverted: Whether the score is 100 (1 - x) of the reported figure x.
    """

    chosen_by: Figure
    reported: Figure
    column: str
    score: str
    programs: tuple
    inverted: bool = False

    def as_score(self, value):
        """The reported figure in the unit of published results."""
        return 100 * (1 - value) if self.inverted else value

    def as_error_of_score(self, error):
        """A standard error in the unit of published results; `None` stays."""
        return 100 * error if self.inverted and error is not None else error


_TEXT = ("language_model",)
_CLASSIFIERS = ("classifier", "text_classifier")
METRICS = {
    metric.chosen_by.name: metric
    for metric in (
        Metric(
            Figure("val_error", "validation error, %", 100.0),
            Figure("test_error", "test error, %", 100.0),
            "val_error",
            "top-1 accuracy",
            _CLASSIFIERS,
            inverted=True,
        ),
        Metric(
            Figure("best.val_error", "validation error of best.keras, %", 100.0),
            Figure("best.test_error", "test error of best.keras, %", 100.0),
            "val_error",
            "top-1 accuracy",
            _CLASSIFIERS,
            inverted=True,
        ),
        Metric(
            Figure("bits_per_character.validation", "validation bits per character"),
            Figure("bits_per_character.test", "test bits per character"),
            "val_bits_per_character",
            "bits per character",
            _TEXT,
        ),
        Metric(
            Figure("validation.perplexity", "validation perplexity"),
            Figure("bleu", "BLEU"),
            "val_perplexity",
            "BLEU",
            ("translator",),
        ),
    )
}


def by_settings(runs):
    """Groups runs of one row by their tuned settings: a list of lists of `Progress`."""
    groups = {}
    for one in runs:
        groups.setdefault(json.dumps(one.run.tuned, sort_keys=True, default=str), []).append(one)
    return list(groups.values())


def best_of(groups, metric):
    """The tuned settings, a dict, of the best group of runs; `None` if none of them has run to its end.

    The best one has the fewest broken networks, and then the lowest mean of the figure on validation data. Runs that a
    scheduler ended early take their group out of the choice.
    """
    whole = [group for group in groups if is_whole(group)]
    return min(whole, key=lambda group: _rank(group, metric))[0].run.tuned if whole else None


def is_whole(group):
    """Whether some run of a group has ended, and none was ended early."""
    states = [one.state for one in group]
    return "stopped early" not in states and ("finished" in states or "collapsed" in states)


def _rank(group, metric):
    values = [metric.chosen_by.of(one.results) for one in group if one.state == "finished"]
    known = [value for value in values if isinstance(value, int | float)]
    broken = sum(one.state == "collapsed" for one in group)
    return broken, not known, statistics.fmean(known) if known else 0.0


def names_for(program):
    """The names of the metrics that a program measures, the usual one first."""
    return [name for name, metric in METRICS.items() if program in metric.programs]
