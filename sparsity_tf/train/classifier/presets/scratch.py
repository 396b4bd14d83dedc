"""Recipes on ImageNet that train ResNet-50 again under the masks of a pruned network.

Source: *State of Sparsity* (Gale et al., arXiv 1902.09574), the tables `results/sparse_rn50/scratch_lotto/` (packaged:
`sparsity_tf.study.published_results`), whose settings are those of magnitude pruning at the same sparsity. The paper
calls "scratch-E" a training as long as that of the pruned network, and "scratch-B" one of twice the steps.

- `resnet50_lottery` begins with the weights from which the pruned network began.
- `resnet50_scratch_e` and `resnet50_scratch_b` begin with new weights.
- `..._augmented` draws the new weights scaled to the live connections (`init method` "sparse" in the tables).
- `resnet50_scratch_b` is the table `lr_scaled`: each region of the learning rate lasts twice as long. The other
  schedules of twice the steps are `..._constant_final` (the usual schedule, then its last rate), `..._continual_decay`
  (the usual schedule, and after it a tenth every 30 epochs) and `..._constant_decay` (no warm-up, a tenth every 30
  epochs). The program does not show these schedules. They follow the names of the tables and the paper's appendix as
  it is remembered, and nobody could compare them with the paper. The tables of the last two have the settings of
  random pruning, and so these take the masks of that run.

The masks come from `runs/resnet50_gmp` or `runs/resnet50_random`, the folders of the presets of these names.
`--load_masks=FILE` takes others. The levels differ only in the label smoothing.
"""

from sparsity_tf.train.classifier.presets.imagenet import STATE_OF_SPARSITY
from sparsity_tf.train.classifier.recipe import Recipe

_MASKED = {
    **STATE_OF_SPARSITY,
    "technique": "masked",
    "load_masks": "runs/resnet50_gmp/model.keras",
    # Another seed than the pruned run has, because the same seed would draw the same weights.
    "seed": 1,
}
_OF_RANDOM_PRUNING = {**_MASKED, "load_masks": "runs/resnet50_random/model.keras", "label_smoothing": 0.0}
_EPOCHS = 2 * STATE_OF_SPARSITY["epochs"]


def _tenths(*boundaries):
    """A tenth of the learning rate from each of these epochs on."""
    return {"lr_boundaries": boundaries, "lr_factors": tuple(10.0**-k for k in range(1, len(boundaries) + 1))}


_TWICE = {**_MASKED, "epochs": _EPOCHS, "lr_warmup_epochs": 10.0, **_tenths(60, 120, 160)}

SCRATCH = {
    "resnet50_lottery": Recipe(**_MASKED, load_weights="runs/resnet50_gmp/initial.keras"),
    "resnet50_scratch_e": Recipe(**_MASKED),
    "resnet50_scratch_e_augmented": Recipe(**_MASKED, reinitialize="augmented"),
    "resnet50_scratch_b": Recipe(**_TWICE),
    "resnet50_scratch_b_augmented": Recipe(**_TWICE, reinitialize="augmented"),
    "resnet50_scratch_b_constant_final": Recipe(**{**_MASKED, "epochs": _EPOCHS}),
    "resnet50_scratch_b_continual_decay": Recipe(
        **{**_OF_RANDOM_PRUNING, "epochs": _EPOCHS, **_tenths(30, 60, 80, 110, 140, 170, 200)}
    ),
    "resnet50_scratch_b_constant_decay": Recipe(
        **{**_OF_RANDOM_PRUNING, "epochs": _EPOCHS, "lr_warmup_epochs": 0.0, **_tenths(30, 60, 90, 120, 150, 180)}
    ),
}
