"""One table of the flags of other programs and of our flags that correspond to them.

A setting has one name in this package: the name of the argument that it becomes. `flags.py` accepts another program's
flag if it means the same as ours; otherwise the error message names our flag. `run_folder.py` uses the table to read
files of earlier versions, and `docs/migration.md` is the output of `page()`.
"""

import typing


class Alias(typing.NamedTuple):
    """A row of the table: a flag of another program.

    Attributes:
        old: The flag's name in the other program, without the two hyphens.
        flag: The name of our flag; `None` if there is none.
        note: Advice for the user if the same value would mean something else here; "" for a true alias.
    """

    old: str
    flag: object
    note: str = ""


_HALF = "half of the value: the gradient of Keras's L2 is 2 c w"

ALIASES = {
    "Earlier versions of this package": (
        Alias("death", "drop"),
        Alias("growth", "grow"),
        Alias("drop_fraction_decay", "decay"),
        Alias("dense_layers", "dense"),
    ),
    "The State of Sparsity (Gale et al., 2019)": (
        Alias("end_sparsity", "final_sparsity"),
        Alias("sparsity_begin_step", "begin_step"),
        Alias("sparsity_end_step", "end_step"),
        Alias("pruning_frequency", "frequency"),
        Alias("initial_value_checkpoint", "load_weights"),
        Alias("load_mask_dir", "load_masks"),
        Alias(
            "reg_scalar",
            "penalty_weight",
            "the value times the number of training examples: here the penalty is divided by it",
        ),
        Alias("clip_log_alpha", "technique_options", '{"clip_log_alpha": NUMBER}'),
        Alias("log_alpha_threshold", "technique_options", '{"log_alpha_threshold": NUMBER}'),
        Alias("prune_first_layer", "dense", "the value first, if the old flag is false"),
        Alias("prune_last_layer", "dense", "the value last, if the old flag is false"),
        Alias("first_layer_sparsity", "distribution", "LAYER=SPARSITY, a pair for each layer"),
        Alias("last_layer_sparsity", "distribution", "LAYER=SPARSITY, a pair for each layer"),
        Alias("precision", "dtype_policy", "mixed_bfloat16 for bfloat16"),
        Alias("hparams", None, "a flag for each setting"),
    ),
    "sparse_learning (Dettmers and Zettlemoyer, 2019)": (
        Alias("lr", "learning_rate"),
        Alias("batch-size", "batch_size"),
        Alias("prune", "drop"),
        Alias("death-rate", "drop_fraction"),
        Alias(
            "prune-rate",
            "drop_fraction",
            "the same value (STR's program has this flag too: there it is --final_sparsity here)",
        ),
        Alias("decay-schedule", "decay"),
        Alias("l2", "kernel_l2", _HALF),
        Alias("decay_frequency", "lr_boundaries", "in epochs, not in steps, with --lr_schedule=piecewise"),
        Alias(
            "data", "dataset", "the name of the data set (STR's program has this flag too: there it is --data_dir here)"
        ),
        Alias("iters", "seed", "one run for each seed"),
        Alias("iterations", "seed", "one run for each seed"),
        Alias("save-model", "output_dir", "a folder"),
        Alias("log-interval", "log_every", "in epochs, not in batches"),
        Alias("fp16", "dtype_policy", "mixed_float16"),
        Alias("no-cuda", None, "the environment variable CUDA_VISIBLE_DEVICES, set to an empty text"),
        Alias("test-batch-size", None, "not needed: it changes no result"),
    ),
    "STR (Kusupati et al., 2020)": (
        Alias("learning-rate", "learning_rate"),
        Alias("label-smoothing", "label_smoothing"),
        Alias("warmup_length", "lr_warmup_epochs"),
        Alias("weight-decay", "kernel_l2", _HALF),
        Alias("wd", "kernel_l2", _HALF),
        Alias("st-decay", "threshold_l2", _HALF),
        Alias("arch", "model", "resnet or mobilenet_v1, with --model_options"),
        Alias("set", "dataset", "imagenet"),
        Alias("lr-policy", "lr_schedule", "constant, cosine or piecewise"),
        Alias("init_prune_epoch", "begin_step", "the value times the number of steps in an epoch"),
        Alias("final_prune_epoch", "end_step", "the value times the number of steps in an epoch"),
        Alias("sInit-value", "technique_options", '{"threshold_initializer": NUMBER}'),
        Alias("first-layer-dense", "dense", "first"),
        Alias("last-layer-dense", "dense", "last"),
        Alias("use-budget", "distribution", "a budget's .csv file"),
        Alias("log-dir", "output_dir", "a folder"),
        Alias("multigpu", "strategy", "mirrored"),
    ),
    "dst and DSR (Mostafa and Wang, 2019)": (
        Alias("sparsity", "final_sparsity"),
        Alias("fraction-to-prune", "prune_target"),
        Alias("period", "frequency"),
        Alias("depth", "model_options", '{"depth": NUMBER}'),
        Alias("width", "model_options", '{"width": NUMBER}'),
    ),
}

# Settings that have another name in the files of earlier runs: old name -> present name.
RENAMED = {alias.old: alias.flag for alias in ALIASES["Earlier versions of this package"]}


def same():
    """The true aliases, flags that mean the same as one of ours: pairs (old, flag)."""
    return [(alias.old, alias.flag) for rows in ALIASES.values() for alias in rows if not alias.note]


def advice(old, known):
    """Advice for a user who passed another program's flag: a sentence, or `None` if the table has no advice.

    Args:
        old: The flag's name in the other program.
        known: The names of this program's flags.
    """
    for alias in (alias for rows in ALIASES.values() for alias in rows if alias.old == old):
        if alias.flag is None:
            return f"Here it is {alias.note}."
        if alias.flag in known:
            return f"Here it is --{alias.flag}: {alias.note}."
    return None


def page():
    """The text of the page `docs/migration.md`, which shows the table."""
    lines = [
        "# Flags of other programs",
        "",
        "The training programs take the flags of the programs that they replace. If a row has no note, the flag on the",
        "left works as it is. If a row has a note, use the flag in the middle with the value in the note.",
        "A setting has one name in flags, recipes and messages: that of the argument which it becomes.",
        "",
        "SparseVD (Molchanov et al., 2017) has scripts without flags: their settings are the presets `lenet300_vd`,",
        "`lenet5_vd` and `vgg_like_vd`.",
    ]
    for system, rows in ALIASES.items():
        lines += ["", f"## {system}", "", "| there | here | note |", "|---|---|---|"]
        lines += [
            f"| `--{a.old}` | {f'`--{a.flag}`' if a.flag else ''} | {a.note.replace('|', chr(92) + '|')} |"
            for a in rows
        ]
    return "\n".join([*lines, ""])
