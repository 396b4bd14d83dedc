"""Recipes on Google-12 and HAR-2: FastGRNN with full matrices, with low rank, and with a rank that STR learns.

Sources of the numbers:
- `..._fastgrnn_dense`, `..._fastgrnn_lowrank_dense`: the program of FastGRNN (Kusupati et al., arXiv 1901.02358) with
  its defaults: Adam at 0.01, a tenth of it from epoch 200 on, 300 epochs of batches of 100. The units are those of
  STR's experiment, and the ranks are its baseline with the highest published accuracy: (9, 24) for Google-12, (8, 7)
  for HAR-2.
- `..._fastgrnn_str`: STR (Kusupati et al., arXiv 2002.03231, section 4.3): gains of 1 between the factors of full rank,
  under a soft threshold each. The settings of this experiment are not published. `threshold_initializer` is -10 as it
  is remembered. `threshold_l2`, `gain_l2` and `kernel_l2` are our own. They were tried on generated sequences only
  (docs/results.md), and will have to be tuned for the real data: more decay gives a lower rank.

The published accuracies (full; low rank; STR at that rank), as they are remembered: Google-12 92.30, 93.18, 94.45;
HAR-2 96.10, 94.88, 95.59. None of these recipes has been run on the real data, which no package ships.
`layers.fold_rank` makes the layer of the rank that is left.
"""

from sparsity_tf.train.classifier.recipe import Recipe

_FAST_GRNN = {
    "normalize": "standardize",
    "model": "fast_grnn",
    "kernel_initializer": "default",
    "optimizer": "adam",
    "learning_rate": 0.01,
    "lr_schedule": "piecewise",
    "lr_boundaries": (200,),
    "lr_factors": (0.1,),
    "epochs": 300,
    "batch_size": 100,
}
# Data set -> (units, ranks of the baseline with low rank).
_NETS = {"google12": (100, (9, 24)), "har2": (80, (8, 7))}


def _recipes(dataset, units, ranks):
    common = {**_FAST_GRNN, "dataset": dataset}
    low_rank = {"input_rank": ranks[0], "recurrent_rank": ranks[1]}
    return {
        f"{dataset}_fastgrnn_dense": Recipe(**common, model_options={"units": units}),
        f"{dataset}_fastgrnn_lowrank_dense": Recipe(**common, model_options={"units": units, **low_rank}),
        f"{dataset}_fastgrnn_str": Recipe(
            **common,
            kernel_l2=1e-3,
            model_options={"units": units, "gains": True, "gain_l2": 1e-2},
            technique="str",
            technique_options={"threshold_initializer": -10.0},
            where="fast_grnn",
            threshold_l2=1e-3,
        ),
    }


SEQUENCES = {
    name: recipe
    for dataset, (units, ranks) in _NETS.items()
    for name, recipe in _recipes(dataset, units, ranks).items()
}
