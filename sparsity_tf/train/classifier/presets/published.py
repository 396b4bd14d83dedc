"""The levels of the classifier's presets: published settings at several sparsities, which `--final_sparsity` picks.

Sources:
- `resnet50_{gmp,gmp_extended,random,vd}` and the recipes of `scratch.py`: the names of the published checkpoints of
  *State of Sparsity* (Gale et al., arXiv 1902.09574), from the packaged list. A level of `resnet50_gmp_extended` is
  that of the layers between the first and the last, which the paper's flag calls `end_sparsity`: 0.91 gives 90 %
  over all.
- `resnet50_str`, `mobilenetv1_str`: STR (Kusupati et al., ICML 2020, arXiv 2002.03231). A level has a weight decay and
  an initial threshold of its own, and the sparsity comes out of the training. The program ships the settings of 90.23 %
  and of 89.01 %. The others are the paper's appendix as it is remembered, and nobody could compare them with the paper;
  a note says so when they are picked.
- `resnet50_budget_{dnw,gmp}`: the sparsities that STR published for each layer of ResNet-50, at 16 levels
  (`STR_Budgets_ResNet50.csv`, packaged).
"""

from sparsity_tf.models import FIRST_LAYER_DENSE
from sparsity_tf.train import levels
from sparsity_tf.train.classifier.presets.imagenet import IMAGENET, decay
from sparsity_tf.train.classifier.presets.scratch import SCRATCH

_IMAGES, _STEPS = 1_281_167, 1251  # in an epoch of batches of 1,024

# Percent of zeros -> (weight decay in units of 1e-5, initial threshold before the sigmoid).
_STR_RESNET50 = {
    79.55: (1.7, -3200),
    81.27: (1.751757813, -3200),
    87.70: (2.051757813, -3200),
    90.23: (2.251757813, -3200),
    90.55: (2.051757813, -800),
    94.80: (3.051757813, -3200),
    95.03: (3.351757813, -12800),
    95.15: (3.051757813, -1600),
    96.11: (3.051757813, -100),
    96.53: (4.051757813, -12800),
    97.78: (5.217578125, -12800),
    98.05: (5.651757813, -12800),
    98.22: (6.151757813, -12800),
    98.79: (7.551757813, -12800),
    98.98: (8.551757813, -12800),
    99.10: (8.051757813, -50),
}
_STR_MOBILENETV1 = {
    75.28: (1.551757813, -100),
    79.07: (1.551757813, -25),
    85.80: (3.051757813, -3200),
    89.01: (3.751757813, -12800),
    89.62: (3.751757813, -3200),
}
_REMEMBERED = (
    "These numbers are the appendix of STR's paper as it is remembered; only those of {} have been compared with the "
    "program's own"
)


def _pruning(checkpoint):
    return {
        "begin_step": checkpoint.begin_step or None,
        "end_step": checkpoint.end_step,
        "frequency": str(checkpoint.frequency),
        "label_smoothing": checkpoint.label_smoothing,
    }


def _extended(checkpoint):
    target = checkpoint.target_sparsity
    return {**_pruning(checkpoint), "distribution": f"stage.*={target:g},classifier=0.8", "where": FIRST_LAYER_DENSE}


def _penalty(checkpoint):
    return {
        "penalty_weight": round(checkpoint.penalty_weight * _IMAGES, 2),
        "penalty_begin_epoch": checkpoint.begin_step / _STEPS,
        "penalty_end_epoch": checkpoint.end_step / _STEPS,
        "label_smoothing": checkpoint.label_smoothing,
        "technique_options": {"log_alpha_threshold": checkpoint.log_alpha_threshold},
    }


def _smoothing(checkpoint):
    return {"label_smoothing": checkpoint.label_smoothing}


def _str(table):
    return {
        round(percent / 100, 4): {
            **decay(float(f"{factor}e-5"), thresholds=True),
            "technique_options": {"threshold_initializer": float(initial)},
        }
        for percent, (factor, initial) in table.items()
    }


def _resnet50(name, technique, settings):
    recipe = {**IMAGENET, **SCRATCH}[name]
    return levels.of_recipe(recipe, levels.of_checkpoints("ResNet-50", technique, settings))


def _scratch(name):
    of_random = "decay" in name
    return _resnet50(name, "Random Pruning" if of_random else "Magnitude Pruning", _smoothing)


# Preset -> its `levels.Levels`.
LEVELS = {
    "resnet50_gmp": _resnet50("resnet50_gmp", "Magnitude Pruning", _pruning),
    "resnet50_gmp_extended": _resnet50("resnet50_gmp_extended", "Magnitude Pruning (extended/non-uniform)", _extended),
    "resnet50_random": _resnet50("resnet50_random", "Random Pruning", _pruning),
    "resnet50_vd": _resnet50("resnet50_vd", "Variational Dropout", _penalty),
    **{name: _scratch(name) for name in SCRATCH},
    "resnet50_str": levels.of_recipe(
        IMAGENET["resnet50_str"], _str(_STR_RESNET50), _REMEMBERED.format("ResNet-50 at 90.23 %")
    ),
    "mobilenetv1_str": levels.of_recipe(
        IMAGENET["mobilenetv1_str"], _str(_STR_MOBILENETV1), _REMEMBERED.format("MobileNetV1 at 89.01 %")
    ),
    **{
        f"resnet50_budget_{name}": levels.of_recipe(
            IMAGENET[f"resnet50_budget_{name}"],
            {round(percent / 100, 4): {"distribution": f"str:{percent:g}"} for percent in _STR_RESNET50},
        )
        for name in ("dnw", "gmp")
    },
}
