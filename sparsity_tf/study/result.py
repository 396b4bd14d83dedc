"""`PublishedResult`: one published score of one network, with its settings and its place in the published file."""

import dataclasses
import math
import statistics

# Metrics that are better when they are lower.
LOWER_IS_BETTER = ("bits per character", "perplexity")
# How a picture names a technique.
TECHNIQUE_LABELS = {
    "none": "dense",
    "deepr": "DeepR",
    "dnw": "discovering neural wirings",
    "dsr": "dynamic sparse reparameterization",
    "grasp": "GraSP",
    "l0": "L0 regularization",
    "lottery": "lottery ticket",
    "magnitude": "magnitude pruning",
    "magnitude_nonuniform": "magnitude pruning, non-uniform",
    "random": "random pruning",
    "rigl": "RigL",
    "sbp": "structured Bayesian pruning",
    "scratch": "trained from scratch",
    "set": "SET",
    "snip": "SNIP",
    "sparse_momentum": "sparse momentum",
    "static": "static sparsity",
    "str": "soft threshold",
    "vd": "variational dropout",
}
SYSTEM_LABELS = {
    "state_of_sparsity": "State of Sparsity",
    "str": "STR",
    "sparse_momentum": "Sparse Networks from Scratch",
    "dsr": "DSR",
}


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """One published score.

    Accuracies are in percent and BLEU in points, however the file stores them. For `scores` of several runs, `score` is
    their mean.

    Args:
        system: The system that published the result: `"state_of_sparsity"`, `"str"`, `"sparse_momentum"` or `"dsr"`.
        source: The file that holds it; of the packaged files the path in the package's folder of data.
        line: Number of the line in the file, from 1.
        model: `"Transformer"`, `"ResNet-50"`, ...
        dataset: `"WMT14 En-De"`, `"ImageNet"`, `"CIFAR-10"` or `"MNIST"`.
        technique: Name of the technique, the package's own name if it has one (`"magnitude"`, `"vd"`, ...); `"none"`
            for a dense network.
        sparsity: Fraction of zeros of the weights that the technique may prune; `None` if it is not published.
        metric: `"BLEU"` or `"top-1 accuracy"`.
        score: The metric's value.
        standard_error: Standard error of `score` over repeats, or `None`.
        scores: Tuple of the scores of the repeats, empty if they are not published one by one.
        flops: Multiply-accumulates of one input without the zeros, or `None`.
        flops_source: `"published"`, `"layers"` (computed from published sparsities of the layers), `"rule"` (computed
            from the rule that gives each layer its sparsity), or `None`.
        parameters: Number of weights that are not zero, or `None`.
        settings: Dict of the published settings: steps, coefficients, regularization, ...
        checkpoint: Name of the published checkpoint, or `None`.
        url: Address of the checkpoint, or `None`.
        mended: Tuple of sentences, one for each error of the file that reading has mended.
        notes: Tuple of sentences on what is odd and could not be decided.

    Example:

    >>> [result] = published_results(model="Transformer", technique="magnitude", sparsity=0.9)
    >>> result.score, result.metric, result.settings["end_step"]
    (23.26, 'BLEU', 400000)
    """

    system: str
    source: str
    line: int
    model: str
    dataset: str
    technique: str
    sparsity: float | None
    metric: str
    score: float
    standard_error: float | None = None
    scores: tuple = ()
    flops: int | None = None
    flops_source: str | None = None
    parameters: int | None = None
    settings: dict = dataclasses.field(default_factory=dict, hash=False)
    checkpoint: str | None = None
    url: str | None = None
    mended: tuple = ()
    notes: tuple = ()


def standard_error(scores):
    """Standard error of the mean, from the sample's deviation; `None` for fewer than two scores."""
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None


def key(name):
    """The letters and digits of a name, in lower case: "resnet_50" and "ResNet-50" are the same model."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
