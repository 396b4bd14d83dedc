"""The analyses of Dettmers and Zettlemoyer (arXiv 1907.04840) that a run writes at its end if the recipe asks for them.

Their program has the options `--bench` and `--save-features`. Here `bench` writes what `inspection.estimate_speedup`
finds, and `features` what `inspection.class_specialization` finds. Both measure on test images, and choose nothing.
"""

import os

from sparsity_tf import inspection
from sparsity_tf.inspection.features import feature_layers
from sparsity_tf.inspection.speedup import timed_layers
from sparsity_tf.train import run_folder

# Batches whose convolutions are timed, each of the batch size of training.
_TIMED_BATCHES = 4


def check(recipe, model):
    """Raises a ValueError if a network has nothing to analyse for a recipe that asks for an analysis."""
    for name, layers_of in (("bench", timed_layers), ("features", feature_layers)):
        if not getattr(recipe, name):
            continue
        try:
            layers_of(model)
        except ValueError as error:
            needed = "a convolution" if name == "bench" else "a ReLU whose output has positions and channels"
            raise ValueError(f"`{name}` needs {needed}, and {model.name} has none. Received: {name}=True") from error


def write(prepared):
    """Writes the analyses that the recipe asks for into the folder of the run, and prints them.

    Args:
        prepared: The `trainer.Prepared` of a finished run.

    Returns:
        Names of the written files: `speedup.csv` for `bench`; `features.csv`, the table, and `features.npz`, which
        `inspection.FeatureTable.load` reads, for `features`.
    """
    recipe, folder, model, written = prepared.recipe, prepared.output_dir, prepared.model, []
    if recipe.bench:
        batches = [batch for batch, _ in zip(_test_batches(prepared), range(_TIMED_BATCHES), strict=False)]
        table = inspection.estimate_speedup(model, batches)
        print(f"\n{table}\n")
        table.to_csv(os.path.join(folder, run_folder.SPEEDUP))
        written.append(run_folder.SPEEDUP)
    if recipe.features:
        with prepared.batches.naming_errors():
            table = inspection.class_specialization(
                model, _test_batches(prepared), num_classes=prepared.batches.num_classes
            )
        print(f"\n{table}\n")
        table.to_csv(os.path.join(folder, run_folder.FEATURES_TABLE))
        table.save(os.path.join(folder, run_folder.FEATURES))
        written += [run_folder.FEATURES_TABLE, run_folder.FEATURES]
    return written


def _test_batches(prepared):
    """The test images and labels, in batches of the size of training: those of evaluation would take much memory."""
    size = prepared.recipe.batch_size
    for images, labels in prepared.batches.test():
        for first in range(0, len(labels), size):
            yield images[first : first + size], labels[first : first + size]
