"""The figures by which a study chooses settings: measured on validation data, each with the test figure to report."""

import dataclasses

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


def names_for(program):
    """The names of the metrics that a program measures, the usual one first."""
    return [name for name, metric in METRICS.items() if program in metric.programs]
