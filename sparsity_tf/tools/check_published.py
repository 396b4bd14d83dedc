r"""Measures a published checkpoint of *The State of Sparsity* and compares the figures with the authors' own.

```
sparsity-tf check-published --checkpoint=magnitude_pruning_0.9_0_400000_10000_0.0_0.1.tar \
    --vocabulary=vocab.translate_ende_wmt32k --input=newstest2014.en --references=newstest2014.de
sparsity-tf check-published --checkpoint=standard_threshold_0.9_40000_76000_2000_0.1.tar --data_dir=/data/imagenet
sparsity-tf check-published --list
```

The checkpoint may be the published `.tar`, a folder, a prefix, or the `.keras` file of `import-checkpoint`. The name of
the file, or of a folder around it, tells the claim; `--name` gives it otherwise. A Transformer translates `--input` and
is scored by the paper's recipe of BLEU. A ResNet is measured on the test images of the preset's data set.

With variational dropout, `--log_alpha_threshold=1,2,3` measures at several thresholds in one run; the published
threshold is always among them, and its figures are compared. With `--measure_only` nothing is compared, so any
Transformer or classifier may be given.

Exit status: 0 (score and sparsity agree), 1 (they do not, or a file can't be read) or 2 (wrong usage).
"""

import contextlib
import csv
import json
import math
import sys

from absl import flags

from sparsity_tf.checkpoints.published import find_published, published_checkpoints
from sparsity_tf.tools import command, translation

_NAME = "check_published"
# The presets with the data set and the preprocessing of the published ResNets.
_PRESET = "resnet50_gmp"


def main(argv=None):
    """Runs the command.

    Args:
        argv: List of str, program name first; `sys.argv` by default.

    Returns:
        int, the exit status: 0 the figures agree, 1 they do not or the command failed, 2 wrong usage.
    """
    return command.run(_NAME, __doc__, _define_flags, _run, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("checkpoint", None, "The checkpoint: .tar, folder, prefix or .keras file.", **own)
    flags.DEFINE_string("name", None, "Its name in the catalogue; default: the name that is in its path.", **own)
    flags.DEFINE_bool("list", False, "Show the catalogue of published checkpoints.", **own)
    flags.DEFINE_bool("measure_only", False, "Compare with no claim.", **own)
    flags.DEFINE_float("tolerance", 0.2, "Largest difference of BLEU, or of top-1 accuracy in percent.", 0, **own)
    flags.DEFINE_float("sparsity_tolerance", 0.02, "Largest difference of the sparsity, 0 to 1.", 0, **own)
    flags.DEFINE_list("log_alpha_threshold", None, "Variational dropout: thresholds to measure, with commas.", **own)
    flags.DEFINE_integer("num_heads", None, "Attention heads of a Transformer; default: one for 64 units.", 1, **own)
    flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "How to print the figures.", **own)
    flags.DEFINE_string("config", _PRESET, "ResNet: preset whose data set and preprocessing are meant.", **own)
    flags.DEFINE_string("data_dir", None, "ResNet: where the data set lies.", **own)
    flags.DEFINE_string("input", None, "Transformer: text to translate, a sentence a line.", **own)
    flags.DEFINE_list("references", None, "Transformer: its translation, or several files with commas.", **own)
    flags.DEFINE_string("language", "de", "Transformer: language of the references, for Moses.", **own)
    flags.DEFINE_bool("tokenized_references", False, "References went through Moses' tokenizer already.", **own)
    translation.define_flags(values)


def _run(values):
    if values.list:
        print(_catalogue())
        return
    if values.checkpoint is None:
        raise flags.Error("Flag --checkpoint is required")
    claim = _claim(values)
    thresholds = _thresholds(values, claim)
    if claim is None:
        kind = "Transformer" if values.input else "ResNet-50"
    else:
        kind = claim.model
    rows = (_translate if kind == "Transformer" else _classify)(values, thresholds)
    _print(rows, values.format)
    if claim is not None:
        _compare(claim, rows, values)


def _claim(values):
    if values.measure_only:
        return None
    if values.name is not None:
        found = [published for published in published_checkpoints() if published.name == values.name]
        if not found:
            raise flags.Error(f"Flag --name must be in the catalogue (--list shows it). Received: {values.name}")
        return found[0]
    claim = find_published(values.checkpoint)
    if claim is None:
        raise flags.Error(
            "Flag --name must say which published checkpoint this is, since its path does not (--list shows the names; "
            f"--measure_only compares with none). Received: --checkpoint={values.checkpoint}"
        )
    return claim


def _thresholds(values, claim):
    """The thresholds to measure, without repeats; `[None]` if the network's own is the only one."""
    given = []
    with contextlib.suppress(ValueError):
        given = [float(text) for text in values.log_alpha_threshold or ()]
    if len(given) != len(values.log_alpha_threshold or ()) or not all(map(math.isfinite, given)):
        raise flags.Error(
            "Flag --log_alpha_threshold must be finite numbers separated by commas. "
            f"Received: {','.join(values.log_alpha_threshold)}"
        )
    if claim is not None and claim.technique != "Variational Dropout" and given:
        raise flags.Error(f"Flag --log_alpha_threshold is of variational dropout only, not of {claim.technique}")
    if claim is not None and claim.log_alpha_threshold is not None:
        given.append(claim.log_alpha_threshold)
    return sorted(set(given)) or [None]


def _load(values, input_shape=None):
    if values.checkpoint.endswith(".keras"):
        return command.load_model(values.checkpoint)
    from sparsity_tf.checkpoints import networks, open_checkpoint

    with open_checkpoint(values.checkpoint) as checkpoint:
        return networks.build_network(checkpoint, values.num_heads, input_shape=input_shape)


def _translate(values, thresholds):
    """Translates the text once for each threshold; returns a row of figures for each."""
    for flag in ("vocabulary", "input", "references"):
        if not values[flag].value:
            raise flags.Error(f"Flag --{flag} is required for a Transformer")
    lines, references = command.read_lines(values.input), [command.read_lines(path) for path in values.references]
    for path, reference in zip(values.references, references, strict=True):
        if len(reference) != len(lines):
            raise command.CommandError(
                f"--input and --references must have equally many lines: {len(lines)} and {len(reference)} ({path})"
            )
    from sparsity_tf.datasets.text import subwords

    vocabulary = subwords.load(values.vocabulary)
    sentences = translation.encode(lines, vocabulary, values.max_length, values.truncate, _NAME)
    model = _load(values)
    from sparsity_tf import inspection
    from sparsity_tf.decoding.sentences import translate
    from sparsity_tf.train.translator.scores import published_score, sacrebleu_score

    rows = []
    for threshold in thresholds:
        if threshold is not None:
            translation.set_log_alpha_threshold(model, threshold)
        search = translation.make_search(model, vocabulary, values)
        progress = translation.Progress(max(sum(map(bool, sentences)), 1))
        with translation.explained_memory(values):
            ids = translate(search, sentences, values.extra_length, values.batch_size, progress.add)
        progress.end()
        texts = translation.decode(ids, vocabulary)
        published = published_score(texts, references, values.language, values.tokenized_references)
        table = inspection.sparsity_table(model, include_dense=True)
        rows.append(
            {
                "log_alpha_threshold": threshold,
                "sparsity": table.sparsity,
                "score": published.score,
                "sacrebleu": sacrebleu_score(texts, references)[0].score,
            }
        )
    return rows


def _classify(values, thresholds):
    """Measures a classifier once for each threshold; returns a row of figures for each."""
    import dataclasses

    from sparsity_tf.train.classifier import presets
    from sparsity_tf.train.classifier.data import load_data, make_batches
    from sparsity_tf.train.classifier.evaluation import evaluate

    recipe = presets.get_preset(values.config)
    recipe = dataclasses.replace(recipe, batch_size=1, data_dir=values.data_dir or recipe.data_dir)
    batches = make_batches(recipe, load_data(recipe))
    if batches.name == "mnist_demo" != recipe.dataset:
        raise command.CommandError(f"--data_dir is needed, the folder of {recipe.dataset}: {batches.source}")
    model = _load(values, batches.image_shape)
    rows = evaluate(model, batches, None if thresholds == [None] else thresholds)
    return [
        {
            "log_alpha_threshold": row["log_alpha_threshold"],
            "sparsity": row["sparsity"],
            "score": 100 * (1 - row["error"]),
            "top5_accuracy": 100 * (1 - row["top5_error"]),
        }
        for row in rows
    ]


def _compare(claim, rows, values):
    """Prints that the figures agree with the claim.

    Raises:
        CommandError: They do not.
    """
    [row] = [row for row in rows if row["log_alpha_threshold"] == claim.log_alpha_threshold]
    text = (
        f"{claim.name}: {row['score']:.2f} {claim.metric} at sparsity {row['sparsity']:.4f}, claimed "
        f"{claim.score:g} at {claim.sparsity:g}"
    )
    # Rounded, because 20.25 - 20.05 is more than 0.2 in floating point. A score of NaN agrees with nothing.
    same_score = round(abs(row["score"] - claim.score), 9) <= values.tolerance
    same_sparsity = round(abs(row["sparsity"] - claim.sparsity), 9) <= values.sparsity_tolerance
    if not (same_score and same_sparsity):
        wrong = [] if same_score else [f"score by more than {values.tolerance:g}"]
        wrong += [] if same_sparsity else [f"sparsity by more than {values.sparsity_tolerance:g}"]
        raise command.CommandError(f"failed: {text}; different: {', '.join(wrong)}")
    # Where a program reads the figures, they must be the only output.
    print(f"passed: {text}", file=sys.stdout if values.format == "table" else sys.stderr)


def _print(rows, form):
    if form == "json":
        print(json.dumps(rows, indent=2))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        from tabulate import tabulate

        shown = [
            ["own" if row["log_alpha_threshold"] is None else f"{row['log_alpha_threshold']:g}"]
            + [f"{row['sparsity']:.4f}"]
            + [f"{row[name]:.2f}" for name in list(row)[2:]]
            for row in rows
        ]
        headers = [name.replace("_", " ") for name in rows[0]]
        print(tabulate(shown, headers, stralign="right", disable_numparse=True))


def _catalogue():
    from tabulate import tabulate

    rows = [
        [one.model, one.technique, f"{one.sparsity:g}", f"{one.score:.2f}", one.metric, one.name]
        for one in published_checkpoints()
    ]
    return tabulate(rows, ["model", "technique", "sparsity", "score", "metric", "name"], disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
