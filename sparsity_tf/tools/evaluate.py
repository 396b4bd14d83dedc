"""Measures a saved classifier on its test set: error, top-5 error, sparsity.

    python -m sparsity_tf.train.evaluate --checkpoint=runs/resnet50_vd/model.keras --data_dir=/data/imagenet \\
        [--log_alpha_threshold=0.5,1,2,3]

The checkpoint is a `.keras` file with any technique, or the dense network that `sparsity_tf.train.convert` made from
such a file. The recipe beside the checkpoint (`recipe.json`), or the preset `--config`, determines data set and
preprocessing.
"""

import contextlib
import csv
import dataclasses
import json
import math
import os
import sys

from absl import flags

from sparsity_tf.tools import command
from sparsity_tf.train.classifier.evaluation import evaluate

_NAME = "evaluate"


def define_flags(values):
    """Defines the flags of the command on `values`."""
    own = {"flag_values": values}
    flags.DEFINE_string("checkpoint", None, "Path of the .keras file, or of a published checkpoint.", **own)
    flags.DEFINE_string(
        "config",
        None,
        "Preset that names the data set and its preprocessing. Default: recipe.json beside the checkpoint.",
        **own,
    )
    flags.DEFINE_string("data_dir", None, "Folder or file of the data set. Default: the setting in the recipe.", **own)
    flags.DEFINE_list(
        "log_alpha_threshold",
        None,
        "Variational dropout: thresholds to try instead of the saved ones, separated by commas.",
        **own,
    )
    flags.DEFINE_enum("format", "table", ["table", "csv", "json"], "How to print the figures.", **own)


def _recipe(values):
    from sparsity_tf.train import run_folder as state
    from sparsity_tf.train.classifier import presets
    from sparsity_tf.train.classifier.recipe import from_settings

    if values.config is not None:
        recipe = presets.get_preset(values.config)
    else:
        folder = os.path.dirname(values.checkpoint)
        saved = state.read_recipe(folder)
        if saved is None and os.path.basename(folder) == state.KEPT:
            folder = os.path.dirname(folder)  # a copy that `save_every` made
            saved = state.read_recipe(folder)
        if saved is None:
            raise flags.Error(f"Flag --config must be given where no {state.RECIPE} lies beside the checkpoint")
        recipe = from_settings(saved, os.path.join(folder, state.RECIPE))
    # Batches of one example can be made from a training set of any size.
    return dataclasses.replace(recipe, batch_size=1, data_dir=values.data_dir or recipe.data_dir)


def _thresholds(values):
    if values.log_alpha_threshold is None:
        return None
    with contextlib.suppress(ValueError):
        thresholds = [float(text) for text in values.log_alpha_threshold]
        if all(map(math.isfinite, thresholds)):
            return thresholds
    raise flags.Error(
        "Flag --log_alpha_threshold must be finite numbers separated by commas. "
        f"Received: {','.join(values.log_alpha_threshold)}"
    )


def _run(values):
    if values.checkpoint is None:
        raise flags.Error("Flag --checkpoint is required")
    thresholds, recipe = _thresholds(values), _recipe(values)
    model = command.load_model(values.checkpoint)
    from sparsity_tf.train.classifier.data import load_data, make_batches
    from sparsity_tf.train.classifier.task import ClassifierTask

    model.jit_compile = ClassifierTask().choose_jit_compile(recipe, model)
    batches = make_batches(recipe, load_data(recipe))
    if batches.name == "mnist_demo" != recipe.dataset:
        command.note(
            _NAME, f"no --data_dir was given, so another data set takes the place of {recipe.dataset}: {batches.source}"
        )
    rows = evaluate(model, batches, thresholds)
    # In the formats for programs, each row also says which data it was measured on.
    of_data = [{**row, "data": batches.source, "num_test": batches.num_test} for row in rows]
    if values.format == "json":
        print(json.dumps(of_data, indent=2))
    elif values.format == "csv":
        writer = csv.DictWriter(sys.stdout, list(of_data[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(of_data)
    else:
        print(f"{values.checkpoint} on the {batches.num_test:,} test images of {batches.source}")
        print(_table(rows))


def _table(rows):
    from tabulate import tabulate

    percents = ("error", "top5_error", "sparsity")
    shown = [
        [
            "saved" if row["log_alpha_threshold"] is None else f"{row['log_alpha_threshold']:g}",
            *(f"{100 * row[name]:.2f} %" for name in percents),
            f"{row['compression']:.1f}x",
            f"{row['loss']:.4f}",
        ]
        for row in rows
    ]
    headers = ["log alpha threshold", "error", "top-5 error", "sparsity", "compression", "loss"]
    return tabulate(shown, headers, stralign="right", disable_numparse=True)


def main(argv=None):
    """Runs the command; arguments and exit status as for `command.run`."""
    return command.run(_NAME, __doc__, define_flags, _run, argv)


if __name__ == "__main__":
    sys.exit(main())
