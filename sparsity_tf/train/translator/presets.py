"""The presets of `python -m sparsity_tf.train.translator`: recipes with a name, which hold every number of a run.

The `transformer_` recipes come from *The State of Sparsity* (Gale, Elsen and Hooker, arXiv 1902.09574): the base
Transformer of tensor2tensor on WMT English-German, rows of 256 packed subwords, 16,384 subwords a step (8 cores of
2,048), 500,000 steps, 90 % sparsity. For each technique the settings are taken from the published checkpoint with the
best BLEU at 90 %, whose name lists them. The penalty weight in a name is already divided by the number of WMT's pairs
(`penalty_examples`):
- `transformer_magnitude`: magnitude_pruning_0.9_0_400000_10000_0.0_0.1 (begin, end, frequency, dropout, label
  smoothing), BLEU 23.26;
- `transformer_random`: random_pruning_0.9_0_100000_1000_0.0_0.1, BLEU 20.67;
- `transformer_vd`: variational_dropout_0.9_cubic_0_200000_8.89E-08_0.0_0.1_2.5 (the ramp's shape, begin and length,
  weight, dropout, label smoothing, threshold on log alpha), BLEU 21.43;
- `transformer_l0`: l0_regularization_0.9_cubic_200000_100000_0.000002222_0.1_0.1, BLEU 20.05.

These four have seven published levels: 0.5, 0.6, 0.7, 0.8, 0.9, 0.95 and 0.98. `--final_sparsity=0.98` picks the
settings of the published checkpoint at that level (`LEVELS`), also for variational dropout and L0, whose sparsity comes
out of their penalty. The settings are read from the packaged list of the checkpoints.

`transformer_lottery`, `transformer_scratch_e` and `transformer_scratch_b` are the paper's experiments with the masks of
a pruned network, here of the run `runs/transformer_magnitude`: begin with its initial weights, with new ones, or with
new ones and longer training. `_augmented` draws the new weights scaled to the live connections. The dropout and the
label smoothing of a level are those of magnitude pruning. The paper's program does not say how many steps scratch-B
makes. Here it makes twice as many.

RigL (Evci et al., arXiv 1911.11134) and STR (Kusupati et al., arXiv 2002.03231) have no published Transformer. Their
recipes combine this training with the papers' settings for other networks; nobody has measured them. STR leaves the
embedding dense.

The `tiny_` recipes are for two processor cores and a corpus of 100,000 short sentences, the `small_` recipes for a GPU
and 150,000 sentences.
"""

from sparsity_tf.train import levels
from sparsity_tf.train.fields import named
from sparsity_tf.train.translator.recipe import REGULARIZATIONS, TranslationRecipe

_PAIRS = 4_500_000  # about the number of pairs of WMT; the published penalties are divided by it
_WMT = {
    "dataset": "wmt14_translate/de-en",
    "batch_tokens": 16_384,
    "packed": True,
    "penalty_examples": _PAIRS,
    "train_steps": 500_000,
    "eval_every": 10_000,
}
_LABEL_SMOOTHING = REGULARIZATIONS["label_smoothing"]
_PRUNING = {
    **_WMT,
    **_LABEL_SMOOTHING,
    "final_sparsity": 0.9,
    "begin_step": 0,
    "end_step": 400_000,
    "frequency": "10000",
    "distribution": "uniform",
}

_TINY = {
    "vocabulary_size": 4000,
    "batch_tokens": 1024,
    "max_length": 20,
    "eval_batch_tokens": 1024,
    "eval_max_length": 20,
    "eval_too_long": "drop",
    "bucket_growth": 1.2,
    "pad_to": "longest",
    "num_layers": 2,
    "hidden_size": 128,
    "filter_size": 512,
    "num_heads": 4,
    "dropout": 0.0,  # no dropout, because training is shorter than two epochs
    "attention_dropout": 0.0,
    "relu_dropout": 0.0,
    "lr_schedule": "linear",
    "learning_rate": 4e-3,
    "warmup_steps": 150,
    "lr_decay_from": 0.3,
    "beta_2": 0.98,
    "train_steps": 1200,
    "eval_every": 200,
    "extra_length": 12,
}
_TINY_PRUNING = {
    **_TINY,
    "final_sparsity": 0.9,
    "begin_step": 200,
    "end_step": 800,
    "frequency": "50",
}

# In some thousand steps a parameter such as log sigma^2 can move by a few units at most, so the variances begin near
# the threshold.
_VD = {"log_sigma2_initializer": -8.0, "log_alpha_threshold": 3.0}

# The run whose masks the scratch and lottery experiments take: `--config=transformer_magnitude`.
_PRUNED_RUN = "runs/transformer_magnitude"
# Another seed than that run has, because the same seed would draw the same weights.
_SCRATCH = {
    **_WMT,
    **_LABEL_SMOOTHING,
    "technique": "masked",
    "load_masks": f"{_PRUNED_RUN}/model.keras",
    "seed": 1,
}
_TWICE = {"train_steps": 1_000_000}

# 15 epochs of 150,000 pairs, which take minutes on a GPU.
_SMALL = {
    **_TINY,
    **REGULARIZATIONS["dropout+label_smoothing"],
    "vocabulary_size": 8000,
    "batch_tokens": 8192,
    "packed": True,
    "max_length": 96,
    "eval_batch_tokens": 8192,
    "eval_max_length": 128,
    "bucket_growth": 2.5,
    "pad_to": "bucket",
    "num_layers": 3,
    "hidden_size": 256,
    "filter_size": 1024,
    "num_heads": 8,
    "learning_rate": 2e-3,
    "warmup_steps": 1000,
    "train_steps": 6000,
    "eval_every": 1000,
    "extra_length": 30,
    "decode_batch_size": 64,
}

_SMALL_PRUNING = {**_TINY_PRUNING, **_SMALL, "begin_step": 1000, "end_step": 4000, "frequency": "100"}

PRESETS = {
    "transformer_dense": TranslationRecipe(**_WMT),
    "transformer_magnitude": TranslationRecipe(**_PRUNING, technique="magnitude", keep_initial=True),
    "transformer_random": TranslationRecipe(
        **{**_PRUNING, "end_step": 100_000, "frequency": "1000"}, technique="random"
    ),
    "transformer_vd": TranslationRecipe(
        **_WMT,
        **_LABEL_SMOOTHING,
        technique="vd",
        technique_options={
            "log_sigma2_initializer": -10.0,
            "clip_log_alpha": 8.0,
            "log_alpha_threshold": 2.5,
            "share_noise": True,
        },
        penalty_weight=0.4,
        penalty_begin_step=0,
        penalty_end_step=200_000,
        penalty_schedule="cubic",
    ),
    "transformer_l0": TranslationRecipe(
        **_WMT,
        **REGULARIZATIONS["dropout+label_smoothing"],
        technique="l0",
        technique_options={"initial_dropout_rate": 0.1},
        penalty_weight=10.0,
        penalty_begin_step=200_000,
        penalty_end_step=300_000,
        penalty_schedule="cubic",
    ),
    "transformer_lottery": TranslationRecipe(**_SCRATCH, load_weights=f"{_PRUNED_RUN}/initial.keras"),
    "transformer_scratch_e": TranslationRecipe(**_SCRATCH),
    "transformer_scratch_e_augmented": TranslationRecipe(**_SCRATCH, reinitialize="augmented"),
    "transformer_scratch_b": TranslationRecipe(**{**_SCRATCH, **_TWICE}),
    "transformer_scratch_b_augmented": TranslationRecipe(**{**_SCRATCH, **_TWICE}, reinitialize="augmented"),
    "transformer_rigl": TranslationRecipe(
        **_WMT,
        **_LABEL_SMOOTHING,
        technique="rigl",
        final_sparsity=0.9,
        distribution="uniform",
        drop_fraction=0.3,
        frequency="100",
        end_step=375_000,
    ),
    "transformer_str": TranslationRecipe(
        **_WMT,
        **_LABEL_SMOOTHING,
        technique="str",
        technique_options={"threshold_initializer": -8.0},
        threshold_l2=1e-5,
    ),
    "tiny_dense": TranslationRecipe(**_TINY),
    "tiny_magnitude": TranslationRecipe(**_TINY_PRUNING, technique="magnitude"),
    "tiny_random": TranslationRecipe(**_TINY_PRUNING, technique="random"),
    "tiny_vd": TranslationRecipe(
        **_TINY,
        technique="vd",
        technique_options=_VD,
        penalty_weight=0.3,
        penalty_begin_step=200,
        penalty_end_step=600,
    ),
    # The gates begin more open, so that the network learns. Closing them then takes twice the steps.
    "tiny_l0": TranslationRecipe(
        **{**_TINY, "train_steps": 2400},
        technique="l0",
        technique_options={"initial_dropout_rate": 0.3},
        penalty_weight=5.0,
        penalty_begin_step=400,
        penalty_end_step=1200,
    ),
    "small_dense": TranslationRecipe(**_SMALL),
    "small_magnitude": TranslationRecipe(**_SMALL_PRUNING, technique="magnitude"),
    "small_random": TranslationRecipe(**_SMALL_PRUNING, technique="random"),
    "small_vd": TranslationRecipe(
        **_SMALL,
        technique="vd",
        technique_options=_VD,
        penalty_weight=0.3,
        penalty_begin_step=500,
        penalty_end_step=3000,
    ),
}


def _regularization(checkpoint):
    """Dropout and label smoothing of a published checkpoint."""
    return next(
        dict(settings)
        for settings in REGULARIZATIONS.values()
        if (settings["dropout"], settings["label_smoothing"]) == (checkpoint.dropout, checkpoint.label_smoothing)
    )


def _pruning(checkpoint):
    return {
        **_regularization(checkpoint),
        "begin_step": checkpoint.begin_step,
        "end_step": checkpoint.end_step,
        "frequency": str(checkpoint.frequency),
    }


def _penalty(checkpoint):
    threshold = checkpoint.log_alpha_threshold
    return {
        **_regularization(checkpoint),
        # A name has three or four digits of k / 4.5e6. The published grids hold every k with one decimal.
        "penalty_weight": round(checkpoint.penalty_weight * _PAIRS, 1),
        "penalty_begin_step": checkpoint.ramp_start,
        "penalty_end_step": checkpoint.ramp_start + checkpoint.ramp_length,
        "penalty_schedule": checkpoint.penalty_schedule,
        **({"technique_options": {"log_alpha_threshold": threshold}} if threshold is not None else {}),
    }


# Presets -> (technique in the list of the published checkpoints, settings of one of these).
_PUBLISHED = {
    ("transformer_magnitude",): ("Magnitude Pruning", _pruning),
    ("transformer_random",): ("Random Pruning", _pruning),
    ("transformer_vd",): ("Variational Dropout", _penalty),
    ("transformer_l0",): ("L0 Regularization", _penalty),
    tuple(name for name in PRESETS if "scratch" in name or "lottery" in name): ("Magnitude Pruning", _regularization),
}
# Preset -> its `levels.Levels`.
LEVELS = {
    name: levels.of_recipe(PRESETS[name], levels.of_checkpoints("Transformer", technique, settings))
    for names, (technique, settings) in _PUBLISHED.items()
    for name in names
}


def get_preset(name):
    """The recipe with this name. For an unknown name, a ValueError lists the known names."""
    return named(PRESETS, name)
