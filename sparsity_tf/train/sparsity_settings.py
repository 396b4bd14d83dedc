"""The settings of sparsity that every recipe has: the technique, and what the algorithms that move masks are told."""

import dataclasses

from sparsity_tf import layers
from sparsity_tf.train import algorithms
from sparsity_tf.train.fields import check_field, choice, number, other


def _technique_names():
    return ("none", *layers.TECHNIQUES, *algorithms.ALGORITHMS)


@dataclasses.dataclass(frozen=True)
class SparsitySettings:
    """What a recipe says of sparsity, checked when made; the recipes of the programs add data, network and training.

    Every field is documented by its `help` metadata, which is also the help of the flag. Those of an algorithm default
    to `None`: what the callback has as its own default.

    Raises:
        ValueError: A value that is not allowed; the message names it and says what is.
    """

    technique: str = choice(
        "none", _technique_names, "Sparsification technique: one of layers, or an algorithm that moves masks."
    )
    technique_options: dict = other(
        dict, "More options of the technique; as a flag a JSON object, merged over the preset's."
    )
    where: str = other(None, "Regular expression for the names of the layers to make sparse; otherwise all.")
    final_sparsity: float = number(
        None, "Fraction of zeros, at the end or throughout (algorithms that move masks; dnw).", 0, below=1
    )
    initial_sparsity: float = number(None, "Fraction of zeros at begin_step (magnitude, random).", 0, below=1)
    begin_step: int = number(None, "Optimizer step after which masks begin to change.", 0)
    end_step: int = number(None, "Last optimizer step after which masks change; default: the algorithm's.", 1)
    frequency: str = other(
        None,
        "Steps between changes of the masks: an integer, epoch, or pairs such as 0:100,25:200 (from epoch 25 on every "
        "200 steps; not where gradients are read).",
    )
    distribution: str = other(
        None,
        "What final_sparsity means for each layer (algorithms, dnw): uniform, er, erk, by_size, a budget's .csv file, "
        "or pairs such as stage.*=0.91,classifier=0.8.",
    )
    dense_layers: str = other(
        None, "Layers kept dense: first, last, first_and_last, or names and regular expressions separated by commas."
    )
    structure: str = other(
        None, "Weights that live and die together: 2:4 (N:M), 4x1 (blocks), filter, ... (magnitude, random, static)."
    )
    scope: str = choice(None, ("layer", "global"), "Where scores are compared (magnitude, snip, grasp, lottery).")
    drop_fraction: float = number(
        None, "Share of live weights to drop at first (set, rigl, sparse_momentum).", 0, most=1
    )
    drop_fraction_decay: str = choice(None, ("cosine", "linear", "constant"), "How drop_fraction falls.")
    growth: str = other(None, "Which weights grow (set, rigl, sparse_momentum): random, gradient, momentum, ...")
    death: str = other(None, "Which weights are dropped (set, rigl, sparse_momentum): magnitude, SET, threshold, ...")
    redistribution: str = other(
        None,
        "What growth is shared out by: momentum, magnitude, nonzeros, ... (set, rigl, sparse_momentum); survivors, "
        "pruned, zeros, ... (dsr).",
    )
    prune_target: float = number(
        None, "Weights to prune at a time (dsr): a number, or a fraction below 1 of all parameters.", above=0
    )
    load_masks: str = other(
        None, "Checkpoint to take fixed masks from (masked). With the seed of its run, weights begin as they did there."
    )
    load_weights: str = other(
        None,
        "Network of the same layers whose weights training begins with: a .keras file such as a run's initial.keras, "
        "or a TensorFlow checkpoint of State of Sparsity. Those of another technique are taken as at inference.",
    )
    reinitialize: str = choice(
        None,
        ("per_unit", "per_layer", "augmented"),
        "Draws the weights under the masks anew, scaled to the connections that are left (masked).",
    )
    rounds: int = number(None, "How often the network is pruned, rewound and trained again (lottery).", 1)
    rewind_step: int = number(None, "Step whose weights each round begins with, a whole epoch's (lottery).", 0)
    threshold_l2: float = number(
        0.0,
        "Keras L2 factor c of the thresholds (techniques with the option threshold_regularizer: str): "
        "adds 2 c s to their gradient.",
        0,
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_field(field, getattr(self, field.name))
        algorithms.check_settings(self)
