"""What a run leaves on disk to be continued: the checkpoint and the recipe it belongs to.

The checkpoint is one `.keras` file with everything the next step depends on: weights, penalty
weights, seed generators, optimizer slots and the step counter, from which the epoch follows. It
is written under another name and renamed, so that a kill at any time leaves a valid file.
"""

import dataclasses
import json
import os
import shutil

import keras

CHECKPOINT = "checkpoint.keras"
MODEL = "model.keras"
RECIPE = "recipe.json"
METRICS = "metrics.csv"
RESULTS = "results.json"
TENSORBOARD = "tensorboard"
FRAMES = "frames"
_UNFINISHED = "checkpoint.unfinished.keras"

# Settings that may differ in a continued run: they do not touch the weights.
_FREE = ("data_dir", "log_every", "frame_every")


class Checkpoint(keras.callbacks.Callback):
    """Saves the model after each epoch, atomically, as `checkpoint.keras` in a folder.

    An epoch that ends with a loss that is not finite is not saved: the last good state stays.

    Args:
        folder: Path of an existing folder.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        import numpy as np

        if not np.isfinite((logs or {}).get("loss", 0.0)):
            return
        unfinished = os.path.join(self.folder, _UNFINISHED)
        self.model.save(unfinished)
        # The rename must not reach the disk before the content does.
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, os.path.join(self.folder, CHECKPOINT))


def restore(folder, steps):
    """Loads the last checkpoint of a run.

    Args:
        folder: The run's folder.
        steps: Steps an epoch.

    Returns:
        `(model, epochs_done)`, the model compiled with its optimizer state; `(None, 0)` if the
        run was stopped before its first checkpoint.
    """
    path = os.path.join(folder, CHECKPOINT)
    if not os.path.exists(path):
        return None, 0
    model = keras.saving.load_model(path)
    return model, int(model.optimizer.iterations) // steps


def as_plain(recipe):
    """The recipe as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def claim_folder(folder, recipe, resume, overwrite):
    """Makes the folder ready for a run, and protects an unfinished run in it.

    Args:
        folder: Path; made if missing.
        recipe: The `Recipe` of the run, written to `recipe.json`.
        resume: Whether to continue the run in the folder.
        overwrite: Whether an unfinished run in the folder may be removed.

    Raises:
        ValueError: The folder holds an unfinished run and neither flag is given, or the run to
            continue had other settings. The message names the settings that differ.
    """
    os.makedirs(folder, exist_ok=True)
    if resume and overwrite:
        raise ValueError("`resume` and `overwrite` exclude each other. Received: both")
    path = os.path.join(folder, RECIPE)
    wanted = as_plain(recipe)
    if resume and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        names = [name for name in wanted if name not in _FREE and wanted[name] != before.get(name)]
        if names:
            changes = ", ".join(f"{name}: {before.get(name)} -> {wanted[name]}" for name in names)
            raise ValueError(
                f"`resume` continues the run in {folder} with its own settings. Received other ones: {changes}"
            )
    unfinished = os.path.exists(os.path.join(folder, CHECKPOINT)) and not os.path.exists(os.path.join(folder, RESULTS))
    if unfinished and not (resume or overwrite):
        raise ValueError(
            f"{folder} holds an unfinished run: pass --resume to continue it, --overwrite to "
            "begin anew, or another --output_dir."
        )
    if not resume:
        for name in (CHECKPOINT, MODEL, METRICS, RESULTS):
            if os.path.exists(os.path.join(folder, name)):
                os.remove(os.path.join(folder, name))
        for name in (TENSORBOARD, FRAMES):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(wanted, file, indent=2)
