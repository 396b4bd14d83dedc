"""The files in the folder of a run from which it can continue: the checkpoint, and the recipe with its data.

The checkpoint is one `.keras` file. It holds everything on which the next step depends: weights, masks and the state of
their algorithm, penalty weights, seed generators, optimizer slots, the step counter and the number of epochs. (A
separate file holds the weights to which lottery tickets are rewound.) The checkpoint is written under another name and
then renamed, so that a kill at any time leaves a valid file.
"""

import contextlib
import dataclasses
import glob
import json
import os
import re
import shutil
import sys
import zipfile

import keras
import numpy as np
from keras import ops

from sparsity_tf.bounded_files import one_line, read_json
from sparsity_tf.checkpoints.keras_files import open_keras_archive
from sparsity_tf.deploy.compact_file import compress_file
from sparsity_tf.layers import flatten_layers
from sparsity_tf.train import aliases, kept_checkpoints

CHECKPOINT = "checkpoint.keras"
MODEL = "model.keras"
RECIPE = "recipe.json"
METRICS = "metrics.csv"
RESULTS = "results.json"
SPARSITY = "sparsity.csv"
SPARSITY_BY_STEP = "sparsity_by_step.csv"
SNAPSHOT = "snapshot.npz"
SPEEDUP = "speedup.csv"
FEATURES = "features.npz"
FEATURES_TABLE = "features.csv"
TENSORBOARD = "tensorboard"
TRANSLATIONS = "translations.txt"
WORDS = "words.tsv"
SMALL = "small.keras"
SMALL_WORDS = "small_words.tsv"
INITIAL = "initial.keras"
BEST = "best.keras"
FRAMES = "frames"
KEPT = kept_checkpoints.FOLDER
PICTURES = ("sparsity.png", "training.gif", "input_mask.png", "filters_*.png")
_UNFINISHED = "checkpoint.unfinished.keras"
# A file in the checkpoint, which is a zip archive: the number of epochs done. The step counter does not tell this
# number if the network was rewound.
_EPOCHS = "epochs.json"
# A file in the checkpoint: the states of all random generators. Keras does not save the states of its own layers, such
# as `Dropout`.
_DRAWS = "random_draws.json"
# The key in the recipe's file that describes the data of the run.
_DATA = "data"

# Settings that may differ in a continued run, because they do not influence the weights.
FREE = ("data_dir", "log_every", "frame_every", "keep_best", "keep_initial", "bench", "features")
FREE += ("save_every", "keep_checkpoint_max")
# Settings that the files of earlier versions lack, with the values that mean the behaviour of these versions.
ADDED = {
    "validation_split": 0.0,
    "validation_seed": 0,
    "validation_stratified": False,
    "scale_fan": False,
    "lr_decay_rate": None,
    "lr_decay_epochs": None,
    "random_labels": "none",
    "label_seed": 0,
    "technique_rate": 1.0,
    "penalty_factors": {},
    "group_lasso": 0.0,
}
# The same for all programs. (The translator's and the classifier's files always had a strategy.)
DEFAULTS = {**ADDED, "strategy": "none"}


class Checkpoint(keras.callbacks.Callback):
    """Saves the model after each epoch, atomically, as `checkpoint.keras` in a folder.

    If the loss of an epoch is not finite, the epoch is not saved, and the file keeps the last good state.

    Args:
        folder: Path of an existing folder.
        kept: `KeptCheckpoints` for copies, or `None`.
    """

    def __init__(self, folder, kept=None):
        super().__init__()
        self.folder = folder
        self.kept = kept

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            return
        unfinished = os.path.join(self.folder, _UNFINISHED)
        self.model.save(unfinished)
        with zipfile.ZipFile(unfinished, "a") as archive:
            archive.writestr(_EPOCHS, json.dumps(epoch + 1))
            archive.writestr(_DRAWS, json.dumps([ops.convert_to_numpy(v).tolist() for v in _draws(self.model)]))
        if self.kept is not None:
            self.kept.add(unfinished, epoch + 1)
        _finish(unfinished, os.path.join(self.folder, CHECKPOINT))


class Best(keras.callbacks.Callback):
    """Keeps the model with the lowest error so far, as `best.keras` in a folder, without its optimizer.

    Args:
        folder: Path of an existing folder.
        metric: Name of the error in the logs of an epoch. A callback before this one must put it there. `None` if there
            is no error to choose by: then `best.keras` is the model of the latest epoch with a finite loss.
        lowest: In a continued run, the lowest error of the epochs before.
        from_epoch: Number of epochs that must be done before a model counts.
    """

    def __init__(self, folder, metric, lowest=float("inf"), from_epoch=0):
        super().__init__()
        self.folder = folder
        self.metric = metric
        self.lowest = lowest
        self.from_epoch = from_epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.from_epoch:
            return
        if self.metric is None:
            better = np.isfinite((logs or {}).get("loss", 0.0))
        else:
            error = (logs or {}).get(self.metric, float("nan"))
            better = error < self.lowest  # false for NaN
            self.lowest = error if better else self.lowest
        if better:
            save_without_optimizer(self.model, os.path.join(self.folder, BEST))


def save_without_optimizer(model, path):
    """Saves a network, atomically, without the optimizer that the `.keras` file of a compiled model would hold.

    The file is compressed if that saves more than a tenth, with the faster method, because `best.keras` is written
    often.
    """
    # The copy is made outside the strategy's scope, because it is only saved and never trained.
    copy = type(model).from_config(model.get_config())
    # `variables` also holds the states of random generators, which the new network has drawn at random.
    for ours, others in zip(copy.variables, model.variables, strict=True):
        ours.assign(ops.convert_to_numpy(others))
    unfinished = os.path.join(os.path.dirname(path), "unfinished_" + os.path.basename(path))
    copy.save(unfinished)
    compress_file(unfinished, "deflate")
    _finish(unfinished, path)


@contextlib.contextmanager
def writing(path):
    """A context that opens a text file for writing. The file replaces `path` when it is complete."""
    unfinished = f"{path}.unfinished"
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        yield file
    _finish(unfinished, path)


def _finish(unfinished, path):
    # The content must reach the disk before the new name does.
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load(path, compile=True):
    """Loads an existing `.keras` file.

    Raises:
        ValueError: The file is damaged, or it needs classes that this process does not know.
    """
    # For a damaged file, Keras would say that the file does not exist.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} can't be loaded: it is damaged or truncated.")
    try:
        # Keras checks neither the checksums nor whether the file unpacks to far more than its size justifies.
        open_keras_archive(path).close()
    except ValueError as error:
        raise ValueError(f"{path} can't be loaded: {error}") from error
    try:
        return keras.saving.load_model(path, compile=compile)
    except Exception as error:  # Keras, h5py and json raise many kinds of errors
        raise ValueError(f"{path} can't be loaded: {_reason(error)}") from error


def _reason(error):
    """Says in one line why Keras can't make a network from a file whose parts are sound."""
    # For nested layers Keras nests its errors, and prints each layer's whole configuration. The innermost error counts.
    while re.search("(Exception|Error) encountered", str(error)) and error.__context__ is not None:
        error = error.__context__
    internal = isinstance(error, KeyError | TypeError | AttributeError | IndexError | RecursionError)
    if internal or "`KerasSaveable`" in str(error):
        return f"its config.json is not that of a Keras model ({one_line(error, 300)})"
    return one_line(error)


def restore(folder, steps):
    """Loads the last checkpoint of a run.

    Args:
        folder: The run's folder.
        steps: Steps an epoch.

    Returns:
        `(model, epochs_done)`, with the model compiled and its optimizer's state loaded; `(None, 0)` if
        the run was stopped before its first checkpoint.

    Raises:
        ValueError: The checkpoint can't be loaded.
    """
    path = os.path.join(folder, CHECKPOINT)
    if not os.path.exists(path):
        return None, 0
    model = load(path)
    with zipfile.ZipFile(path) as archive:
        if _DRAWS in archive.namelist():
            _restore_draws(model, path, archive.read(_DRAWS))
        else:
            _warn_of_lost_draws(model, path)
        if _EPOCHS in archive.namelist():
            return model, json.loads(archive.read(_EPOCHS))
    # A checkpoint of an earlier version has no file of epochs; its step counter tells them.
    return model, int(ops.convert_to_numpy(model.optimizer.iterations)) // steps


def _draws(model):
    """The states of a model's random generators, for noise and for dropout."""
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def _restore_draws(model, path, text):
    states = _draws(model)
    try:
        values = np.asarray(json.loads(text), "int64").reshape(len(states), 2)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_DRAWS} must list {len(states)} pairs of integers.") from error
    for state, value in zip(states, values, strict=True):
        state.assign(value.astype(keras.backend.standardize_dtype(state.dtype)))


def _warn_of_lost_draws(model, path):
    """Warns if a checkpoint of an earlier version lacks states of dropout: the run can't continue to the bit then."""
    lost = [layer.name for layer in flatten_layers(model) if not _saves_its_draws(layer)]
    if lost:
        print(
            f"warning: {path} was written by an earlier version, which did not save the state of dropout: the random "
            "numbers of dropout differ from those of a run without interruption. Layers: "
            f"{one_line(', '.join(lost), 200)}",
            file=sys.stderr,
        )


def _saves_its_draws(layer):
    """Whether a layer saves the state of its random generator by itself; true for a layer that draws nothing."""
    generator = getattr(layer, "seed_generator", None)
    if not isinstance(generator, keras.random.SeedGenerator):
        return True
    # Recurrent cells have a generator even if they have no dropout.
    rates = [getattr(layer, name) for name in ("rate", "dropout", "recurrent_dropout") if hasattr(layer, name)]
    if rates and not any(rates):
        return True
    saved = {}
    layer.save_own_variables(saved)
    return any(value is generator.state for value in saved.values())


def as_plain(recipe):
    """The recipe as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def read_recipe(folder):
    """Reads the recipe's file in a folder, a dict; `None` if there is no such file.

    Settings from earlier versions get their present names.

    Raises:
        ValueError: The file is damaged.
    """
    path = os.path.join(folder, RECIPE)
    if not os.path.exists(path):
        return None
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is damaged: it must hold a JSON object.")
    return {aliases.RENAMED.get(name, name): value for name, value in settings.items()}


def with_data_of_run(folder, recipe):
    """The recipe. If it has no `data_dir`, it gets the `data_dir` of the run in the folder."""
    before = read_recipe(folder) or {}
    if recipe.data_dir is None and before.get("data_dir") is not None:
        return dataclasses.replace(recipe, data_dir=before["data_dir"])
    return recipe


def claim_folder(folder, recipe, resume, overwrite, data=None):
    """Makes the folder ready for a run, and protects an earlier run in it, finished or not.

    Args:
        folder: Path; made if missing.
        recipe: The `Recipe` of the run, written to `recipe.json`.
        resume: Whether to continue the run in the folder.
        overwrite: Whether an earlier run in the folder may be removed.
        data: Dict of plain values that describes the run's data. It is written beside the settings.

    Raises:
        ValueError: The folder holds files of an earlier run and neither `resume` nor `overwrite` is true,
            or the run to continue had other settings or data. The message names the differences.
    """
    os.makedirs(folder, exist_ok=True)
    check_exclusive(resume, overwrite)
    path = os.path.join(folder, RECIPE)
    wanted = as_plain(recipe)
    before = check_settings(folder, recipe) if resume else None
    if before is not None:
        # Folders of earlier versions have no description of the data.
        changes = _changes(before[_DATA], data) if data and before.get(_DATA) else ""
        if changes:
            raise ValueError(f"`resume` must be used with the data of the run in {folder}. Received: {changes}")
    earlier = _outputs(folder)
    if earlier and not (resume or overwrite):
        raise ValueError(
            f"{folder} holds an earlier run ({os.path.basename(earlier[0])}): pass --resume to continue it, "
            "--overwrite to remove it, or another --output_dir."
        )
    if not resume:
        for output in earlier:
            if os.path.isdir(output):
                shutil.rmtree(output)
            else:
                os.remove(output)
    if data:
        wanted[_DATA] = data
    if wanted == before:
        return
    with writing(path) as file:
        json.dump(wanted, file, indent=2)


def check_exclusive(resume, overwrite):
    """Raises a ValueError if a run shall be continued and removed at once."""
    if resume and overwrite:
        raise ValueError("`resume` and `overwrite` exclude each other: give only one of them. Received: both")


def check_settings(folder, recipe):
    """Checks that the run in a folder, if there is one, has the settings of a recipe that continues it.

    Returns:
        The content of the folder's recipe file, a dict; `None` if there is no such file.

    Raises:
        ValueError: The file is damaged, or settings differ. The message names the differences.
    """
    before, wanted = read_recipe(folder), as_plain(recipe)
    if before is None:
        return None
    changes = _changes({**DEFAULTS, **before}, {name: value for name, value in wanted.items() if name not in FREE})
    if changes:
        raise ValueError(
            f"`resume` must be used with the settings of the run in {folder}: leave out the flags that change them. "
            f"Received: {changes}"
        )
    return before


def check_free(folder, advice):
    """Raises a ValueError, which ends in `advice`, if a folder holds files of a run."""
    earlier = _outputs(folder)
    if earlier:
        raise ValueError(f"{folder} holds an earlier run ({os.path.basename(earlier[0])}): {advice}")


def _changes(before, after):
    """A text of the entries that differ between `before` and `after`."""
    names = [name for name in after if after[name] != before.get(name)]
    return ", ".join(f"{name}: {before.get(name)} -> {after[name]}" for name in names)


def _outputs(folder):
    """Paths of the files that a run has written into the folder, except the recipe, which would be no loss."""
    files = (CHECKPOINT, _UNFINISHED, SNAPSHOT, INITIAL, BEST, MODEL, METRICS, RESULTS, SPARSITY, SPARSITY_BY_STEP)
    names = (*files, TRANSLATIONS, WORDS, SMALL, SMALL_WORDS, SPEEDUP, FEATURES, FEATURES_TABLE)
    names += ("unfinished_*.keras", TENSORBOARD, FRAMES, KEPT)
    names += PICTURES
    return [path for name in names for path in sorted(glob.glob(os.path.join(glob.escape(folder), name)))]


def missing_analyses(folder, recipe):
    """The names of the files that a recipe asks for and the folder of a finished run does not hold, a list."""
    files = {"bench": SPEEDUP, "features": FEATURES}
    asked = [name for setting, name in files.items() if getattr(recipe, setting, False)]
    return [name for name in asked if not os.path.exists(os.path.join(folder, name))]


def outputs_in(folder):
    """The names of all files in the folder of a run, sorted, without hidden files."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))
