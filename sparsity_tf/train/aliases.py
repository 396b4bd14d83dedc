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
        unused: What the flag takes, "value" or "nothing", if our programs accept it and do without it; "" otherwise.
    """

    old: str
    flag: object
    note: str = ""
    unused: str = ""


def _unused(old, why, takes="value"):
    """A row for a flag on which nothing here depends. `why` says why not."""
    return Alias(old, None, f"nothing: {why}", takes)


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
        Alias("data_directory", "data_dir"),
        Alias("train_batch_size", "batch_size"),
        Alias("base_learning_rate", "learning_rate", "times batch_size / 256"),
        Alias("train_steps", "epochs", "divided by the steps of an epoch (the translator has --train_steps)"),
        Alias("steps_per_checkpoint", "save_every", "divided by the steps of an epoch"),
        Alias("export_model_freq", None, "the command sparsity_tf.train.convert --format=tf_saved_model"),
        Alias("resnet_depth", "model_options", '{"depth": NUMBER}'),
        Alias("pruning_method", "technique", "none, magnitude, vd or l0"),
        Alias("init_method", "reinitialize", "augmented for sparse, with --technique=masked"),
        Alias("is_warm_up", "penalty_schedule", "none, where it is false"),
        Alias("use_tpu", "strategy", "tpu"),
        Alias("worker_gpu", "strategy", "mirrored, for more than one"),
        Alias(
            "checkpoint_step", None, "the command sparsity_tf.train.evaluate --checkpoint=RUN/checkpoints/epoch_N.keras"
        ),
        Alias("target_sparsity", "final_sparsity"),
        Alias("begin_pruning_step", "begin_step"),
        Alias("end_pruning_step", "end_step"),
        Alias("load_masks_from", "load_masks"),
        Alias("load_weights_from", "load_weights"),
        Alias("embedding_sparsity", "distribution", "embedding=SPARSITY and a pair for all other layers"),
        Alias("dkl_weight", "penalty_weight", "times --penalty_examples (4,500,000), by which ours is divided"),
        Alias("l0_norm_weight", "penalty_weight", "times --penalty_examples (4,500,000), by which ours is divided"),
        Alias("dkl_weight_fn", "penalty_schedule"),
        Alias("dkl_weight_start", None, "--penalty_begin_step of the translator, the same number"),
        Alias("l0_weight_start", None, "--penalty_begin_step of the translator, the same number"),
        Alias("dkl_weight_diff", None, "--penalty_end_step of the translator: start + diff"),
        Alias("l0_weight_diff", None, "--penalty_end_step of the translator: start + diff"),
        _unused("nbins", "counts are exact"),
        Alias("hparams_set", None, "--config, the name of a preset"),
        Alias("problem", "dataset", "wmt14_translate/de-en for translate_ende_wmt32k_packed, with --packed"),
        Alias("decode_from_file", None, "the command sparsity_tf.train.translate --input=FILE"),
        Alias("decode_to_file", None, "the command sparsity_tf.train.translate --output=FILE"),
        Alias("decode_hparams", None, "flags of the command sparsity_tf.train.translate: --beam_size, --alpha, ..."),
        Alias("checkpoint_path", None, "the command sparsity_tf.train.translate --checkpoint=FILE"),
        Alias("tpu_num_shards", "strategy", "tpu: all cores"),
        Alias(
            "mode",
            None,
            "nothing for train and train_and_eval, the command sparsity_tf.train.evaluate for eval_once and eval "
            "(STR's program has this flag too: all its initializers have fan_in here)",
        ),
        _unused("num_train_images", "the images are counted"),
        _unused("num_eval_images", "the images are counted"),
        _unused("num_label_classes", "the data set says how many classes it has"),
        _unused("eval_batch_size", "it changes no result"),
        _unused("steps_per_eval", "every epoch is measured, or every --log_every epochs"),
        _unused("data_format", "the layout changes no result"),
        _unused("transpose_input", "the layout changes no result", "nothing"),
        _unused("iterations_per_loop", "--steps_per_execution is chosen to suit the schedule"),
        _unused("num_parallel_calls", "the loaders choose"),
        _unused("num_workers", "--strategy=multiworker reads TF_CONFIG"),
        _unused("num_cores", "--strategy takes all devices"),
        _unused("master", "--strategy finds the devices"),
        _unused("tpu_job_name", "--strategy finds the devices"),
        _unused("ps_task", "there are no parameter servers"),
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
        Alias("iters", "repeats"),
        Alias("iterations", "repeats"),
        Alias("valid_split", "validation_split"),
        Alias("save-features", "features"),
        Alias("save-model", "output_dir", "a folder"),
        Alias("log-interval", "log_every", "in epochs, not in batches"),
        Alias("fp16", "dtype_policy", "mixed_float16"),
        Alias("no-cuda", None, "the environment variable CUDA_VISIBLE_DEVICES, set to an empty text"),
        _unused("test-batch-size", "it changes no result"),
        Alias("sparse", "technique", "sparse_momentum, set, rigl or another, in the place of none"),
        _unused("max-threads", "the loaders choose"),
        _unused("verbose", "sparsity_by_step.csv has what it would print", "nothing"),
        Alias("start-epoch", None, "nothing where it is 0, or --resume, which knows where a run stopped"),
        _unused("l1", "the program there does not use it, either (here: --kernel_l1)"),
    ),
    "STR (Kusupati et al., 2020)": (
        Alias("learning-rate", "learning_rate"),
        Alias("label-smoothing", "label_smoothing"),
        Alias("warmup_length", "lr_warmup_epochs"),
        Alias("weight-decay", "kernel_l2", _HALF),
        Alias("wd", "kernel_l2", _HALF),
        Alias("st-decay", "threshold_l2", _HALF),
        Alias("arch", "model", "resnet or mobilenet_v1, with --model_options"),
        Alias("set", "dataset", "imagenet or tiny_imagenet"),
        Alias("lr-policy", "lr_schedule", "constant, cosine, piecewise, or exponential for efficientnet_lr"),
        Alias("init_prune_epoch", "begin_step", "the value times the number of steps in an epoch"),
        Alias("final_prune_epoch", "end_step", "the value times the number of steps in an epoch"),
        Alias("sInit-value", "technique_options", '{"threshold_initializer": NUMBER}'),
        Alias("first-layer-dense", "dense", "first"),
        Alias("last-layer-dense", "dense", "last"),
        Alias("use-budget", "distribution", "a budget's .csv file, or str:90.23 for a published one"),
        Alias("log-dir", "output_dir", "a folder"),
        Alias("multigpu", "strategy", "mirrored"),
        Alias("conv-type", "technique", "none, str, dnw or gmp"),
        Alias("sparse-function", "technique_options", '{"threshold_function": "sigmoid"}'),
        Alias("pretrained", "load_weights", "a .keras file, or a .pth file of STR"),
        Alias(
            "init",
            "kernel_initializer",
            "default or he_normal for kaiming_normal, torch_default for standard, signed_constant, unsigned_constant",
        ),
        Alias("scale-fan", "scale_fan"),
        Alias("no-bn-decay", "other_l2", "0"),
        Alias("bn-type", "model_options", '{"affine": false} for NonAffineBatchNorm'),
        Alias("name", "output_dir", "a folder"),
        Alias("print-freq", "log_every", "in epochs, not in batches"),
        _unused("workers", "the loaders choose"),
        _unused("ignore-pretrained-weights", "--distribution=FILE.csv brings sparsities alone", "nothing"),
        _unused("num-classes", "the data set says how many classes it has"),
        _unused("nonlinearity", "the networks have relu"),
        _unused("sInit-type", "it has one value there: constant"),
        _unused("width-mult", "it only names a folder there"),
        _unused("multistep-lr-adjust", "it is without effect there (here: --lr_boundaries)"),
        _unused("multistep-lr-gamma", "it is without effect there (here: --lr_factors)"),
        _unused("random-mask", "it is without effect there", "nothing"),
        _unused("one-batch", "it is without effect there", "nothing"),
        _unused("freeze-weights", "it is without effect there", "nothing"),
        Alias("first-layer-type", "where", "for DenseConv: a pattern that leaves the stem out, (?!(.*/)?(stem)$).*"),
        Alias("evaluate", None, "the command sparsity_tf.train.evaluate --checkpoint=FILE"),
        Alias("dense-conv-model", None, "the command sparsity_tf.train.convert --checkpoint=FILE --output=FILE"),
    ),
    "dst and DSR (Mostafa and Wang, 2019)": (
        Alias("sparsity", "final_sparsity"),
        Alias("fraction-to-prune", "prune_target"),
        Alias("period", "frequency"),
        Alias("depth", "model_options", '{"depth": NUMBER}'),
        Alias("width", "model_options", '{"width": NUMBER}'),
        Alias("layers", "model_options", '{"depth": NUMBER}'),
        Alias("widen-factor", "model_options", '{"width": NUMBER}'),
        Alias("initial-sparsity-conv", "final_sparsity", "one number for all layers, or a pair each in --distribution"),
        Alias("initial-sparsity-fc", "final_sparsity", "one number for all layers, or a pair each in --distribution"),
        Alias("n-realloc-params", "prune_target"),
        Alias("rewire", "technique", "dsr, or set without --threshold-prune"),
        Alias("threshold-prune", "technique", "dsr, or set where it is false"),
        Alias("DeepR", "technique", "deepr"),
        Alias("tied", "technique", "hashed"),
        Alias("sub-kernel-granularity", "structure", "2 is 3x3x1x1, 4 is none"),
        Alias("rewire-fraction", "drop_fraction"),
        Alias("grow-across-layers", "redistribution", "survivors, or pruned where it is false"),
        Alias("stop-rewire-epoch", "end_step", "times the steps of an epoch"),
        Alias("L1-loss-coeff", "kernel_l1", "the same number, which also acts on kernels that stay dense"),
        Alias("schedule-file", "frequency", "0:100,25:200,...; the learning rate is --lr_boundaries and --lr_factors"),
        Alias("start-pruning-after-epoch", "begin_step", "times the steps of an epoch, with --technique=gmp"),
        Alias("prune-epoch-frequency", "frequency", "times the steps of an epoch, with --technique=gmp"),
        Alias("prune-target-sparsity-conv", "final_sparsity", "with --technique=gmp"),
        Alias("prune-target-sparsity-fc", "final_sparsity", "with --technique=gmp"),
        Alias("job-idx", "output_dir", "a folder"),
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


def without_unused(arguments, known):
    """Takes out the flags of other programs on which nothing here depends.

    Args:
        arguments: The words of a command line, program name first.
        known: The names of this program's flags, which stay.

    Returns:
        `(rest, notes)`: the words that are left, and a sentence about each flag that was taken out.
    """
    unused = {alias.old: alias for rows in ALIASES.values() for alias in rows if alias.unused}
    rest, notes, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":  # What follows is no flag.
            return [*rest, word, *words], notes
        name, equals, _ = word[2:].partition("=")
        alias = unused.get(name) if word.startswith("--") and name not in known else None
        if alias is None:
            rest.append(word)
            continue
        if alias.unused == "value" and not equals and words and not words[0].startswith("--"):
            words.pop(0)
        notes.append(f"--{name} is left out. Here it is {alias.note}")
    return rest, notes


def page():
    """The text of the page `docs/migration.md`, which shows the table."""
    lines = [
        "# Flags of other programs",
        "",
        "The training programs take the flags of the programs that they replace. If a row has no note, the flag on the",
        "left works as it is. If a row has a note, use the flag in the middle with the value in the note.",
        'A flag whose note begins with "nothing: " is accepted and left out, and a line says so.',
        "A setting has one name in flags, recipes and messages: that of the argument which it becomes.",
        "",
        "SparseVD (Molchanov et al., 2017) has scripts without flags: their settings are the presets `lenet300_vd`,",
        "`lenet5_vd` and `vgg_like_vd`.",
        "",
        "The pages in `coming_from/` say where the other parts of each system are:",
        "[The State of Sparsity](coming_from/state_of_sparsity.md), [sparse_learning](coming_from/sparse_learning.md),",
        "[STR](coming_from/str.md), [dst and DSR](coming_from/dst.md), [SparseVD](coming_from/sparsevd.md).",
        "There are pages for [tfmot](coming_from/tfmot.md), [torch.nn.utils.prune](coming_from/torch_prune.md) and",
        "[Torch-Pruning](coming_from/torch_pruning.md), too.",
    ]
    for system, rows in ALIASES.items():
        lines += ["", f"## {system}", "", "| there | here | note |", "|---|---|---|"]
        lines += [
            f"| `--{a.old}` | {f'`--{a.flag}`' if a.flag else ''} | {a.note.replace('|', chr(92) + '|')} |"
            for a in rows
        ]
    return "\n".join([*lines, ""])
