"""Makes the files beside it, by the code of an older commit: `PYTHONPATH=CHECKOUT python make.py FOLDER`.

Those here are of commit c1d3e35 (2026-11-29, before modules moved to rooms), made with Keras 3.15.1 on TensorFlow 2.21.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
from keras import layers as stock

import sparsity_tf
from sparsity_tf import layers, models

# A run of two epochs; the one to be continued has the files of after the first.
RUN = (
    "--config=small_char_rnn_dense --technique=set --final_sparsity=0.75 --cell=gru --hidden_size=4 --depth=1 "
    "--vocabulary_size=8 --window=4 --batch_size=4 --epoch_steps=4 --epochs=2 --eval_characters=50 "
    "--jit_compile=false --steps_per_execution=1"
).split()


def all_techniques():
    """A layer of each technique and of each file of layers, with a regularizer, a structure and shared weights."""
    regularizer = keras.regularizers.L2(1e-3)
    ids = keras.Input((3,), dtype="int32")
    x = layers.VDEmbedding(5, 4)(ids)
    x = layers.MaskedLSTM(4, return_sequences=True)(x)
    x = layers.STRFastGRNN(4, return_sequences=True)(x)
    x = stock.Bidirectional(layers.L0GRU(2, return_sequences=True))(x)
    x = layers.VDConv1D(4, 2, activation="relu")(x)
    x = stock.Flatten()(x)
    x = layers.MaskedDense(8, structure="2:4", activation="relu", name="pairs")(x)
    x = layers.SparseBatchNormalization()(stock.Reshape((1, 1, 8))(x))
    x = stock.Flatten()(layers.SparseActivation()(x))
    x = layers.DNWDense(6, activation="tanh")(x)
    x = layers.STRDense(6, threshold_regularizer=regularizer, activation="relu")(x)
    twice = layers.L0Dense(6)
    return keras.Model(ids, layers.VDDense(2)(twice(twice(x))))


def composite():
    """A model that `sparsify` changed, with attention, whose projections are inside one layer."""
    inputs = keras.Input((3, 4))
    x = stock.MultiHeadAttention(1, 2)(inputs, inputs)
    return sparsity_tf.sparsify(keras.Model(inputs, stock.Dense(2)(x)), "masked")


def transformer():
    """Layers of which the module moved."""
    return models.Transformer(8, 1, 4, 4, 2, technique="masked", seed=0)


MODELS = {"all_techniques": all_techniques, "composite": composite, "transformer": transformer}


def inputs_of(model):
    """The same numbers for each model."""
    random = np.random.default_rng(0)
    shapes = [(2, *(size or 3 for size in tensor.shape[1:])) for tensor in model.inputs]
    kinds = ["int" in str(tensor.dtype) for tensor in model.inputs]
    return [
        random.integers(1, 5, shape).astype("int32") if whole else random.normal(size=shape).astype("float32")
        for shape, whole in zip(shapes, kinds, strict=True)
    ]


def main(folder):
    """Writes all files."""
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model = make()
        inputs = inputs_of(model)
        for weight in sparsity_tf.get_sparse_weights(model):
            if weight.technique.name == "masked":  # every other pair, which suits 2:4, too
                mask = (np.indices(weight.shape)[-1 if weight.shape[-1] > 1 else 0] + np.indices(weight.shape)[0]) % 2
                weight.assign_mask(mask == 0)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=False)
        targets = np.ones_like(model.predict(inputs, verbose=0))
        model.train_on_batch(inputs, targets)
        model.save(folder / f"{name}.keras")
        compress(folder / f"{name}.keras")
        arrays = {"prediction": model.predict(inputs, verbose=0)}
        model = keras.saving.load_model(folder / f"{name}.keras")
        arrays["momenta"] = np.concatenate([np.ravel(v) for v in model.optimizer.variables])
        model.train_on_batch(inputs, targets)
        arrays["next"] = np.concatenate([np.ravel(v) for v in model.trainable_variables])
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    run_folder(folder / "run")


def compress(path):
    """The same members, deflated."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def run_folder(folder):
    """Half a run, and what the whole of it comes to."""
    from absl import flags

    from sparsity_tf.train import language_model, state

    save = state.Checkpoint.on_epoch_end

    def copy_first(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 0:
            folder.mkdir()
            for name in ("checkpoint.keras", "metrics.csv", "recipe.json", "sparsity_by_step.csv"):
                shutil.copy(pathlib.Path(self.folder) / name, folder)

    state.Checkpoint.on_epoch_end = copy_first
    whole = folder.with_name("whole")
    values = flags.FlagValues()
    language_model.define_flags(values)
    language_model.main(values(["language_model", *RUN, f"--output_dir={whole}"])[:1], values)
    compress(folder / "checkpoint.keras")
    model = keras.saving.load_model(whole / "checkpoint.keras")
    variables = [*model.variables, *model.optimizer.variables]
    np.savez_compressed(folder.with_name("run.npz"), *[keras.ops.convert_to_numpy(v) for v in variables])
    shutil.rmtree(whole)


def names():
    """What `import sparsity_tf` alone makes known to Keras, in a process that imported nothing else."""
    code = (
        "import keras, sparsity_tf; print(*sorted(n for n in keras.saving.get_custom_objects() if '>' in n), sep='\\n')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    (pathlib.Path(sys.argv[1]) / "names.txt").write_text(names())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(pathlib.Path(sys.argv[1]))
