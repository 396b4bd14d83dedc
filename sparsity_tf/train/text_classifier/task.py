"""The task of the text classifiers: tells the trainer their texts, network and error, and makes the network small."""

import math
import os
import zlib

import keras
import numpy as np
from keras import ops

from sparsity_tf import deploy, inspection, models
from sparsity_tf.backend import predict_on_batch
from sparsity_tf.datasets.text.labelled import LabelledBatches, labelled_text
from sparsity_tf.datasets.text.words import PADDING, UNKNOWN
from sparsity_tf.train import log, optimizers, run_folder, technique
from sparsity_tf.train.sparsity_settings import naming_options
from sparsity_tf.train.task import Findings, Task


class TextClassifierLog(log.EpochLog):
    """The `EpochLog` of text classifiers: loss, accuracy and the error on the validation texts."""

    axis = "epoch"
    shown = ("val_error",)

    def figures(self, logs):
        return {
            "accuracy": float(logs["accuracy"]),
            "val_loss": float(logs["val_loss"]),
            "val_error": 1.0 - float(logs["val_accuracy"]),
        }

    def line(self, row):
        return (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}"
            f"  accuracy {100 * row['accuracy']:.2f} %  validation error {100 * row['val_error']:.2f} %"
            f"  {log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )


class TextClassifierTask(Task):
    """Text classifiers: `batches` are `LabelledBatches`."""

    log = TextClassifierLog
    error = "val_error"
    validates = True

    def check(self, recipe, replicas):
        if recipe.batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of the {replicas} replicas. Received: batch_size={recipe.batch_size}"
            )

    def open_data(self, recipe, folder, resume, replicas):
        if recipe.data_dir is None:
            raise ValueError(
                "`data_dir` must be a file or folder of labelled texts: the package has none. presets.py says where to "
                "get some. Received: data_dir=None"
            )
        text = labelled_text(
            recipe.data_dir, recipe.vocabulary_size or None, recipe.min_count, recipe.held_out, recipe.split_seed
        )
        batches = LabelledBatches(text, recipe.batch_size, recipe.length, recipe.seed, recipe.eval_batch_size)
        return batches, _describe(text)

    def keep_data(self, batches, folder):
        """Copies the vocabulary, without which the network can't be used."""
        batches.text.vocabulary.save(os.path.join(folder, run_folder.WORDS))

    def make_model(self, recipe, batches):
        with naming_options(recipe, "technique_options"):
            model = models.text_lstm(
                batches.text.vocabulary.size,
                len(batches.text.classes),
                embedding_size=recipe.embedding_size,
                hidden_size=recipe.hidden_size,
                kernel_regularizer=keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None,
                **technique.arguments(recipe),
            )
        technique.begin_with(model, recipe)
        return model

    def objective(self, recipe, batches):
        rate = optimizers.learning_rate(recipe, self.steps_per_epoch(recipe, batches))
        clip = {"global_clipnorm": recipe.clip_norm} if recipe.clip_norm else {}
        return {
            "optimizer": keras.optimizers.Adam(rate, **clip),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
        }

    def introduction(self, recipe, batches, model):
        text = batches.text
        counts = [len(labels) for _, labels in (text.train, text.validation, text.test)]
        return (
            f"{counts[0]:,} training, {counts[1]:,} validation and {counts[2]:,} test texts of {len(text.classes)} "
            f"classes, {text.vocabulary.size:,} ids of words"
        )

    def examine(self, prepared, table, loss):
        model, batches = prepared.model, prepared.batches
        test, only_class = _measure(model, batches, "test")
        validation, _ = _measure(model, batches, "validation")
        results = {"classes": list(batches.text.classes), **_errors("val", validation), **_errors("test", test)}
        collapsed = None
        if not table.finite or not all(math.isfinite(figure) for figure in (*test, *validation, loss)):
            collapsed = "diverged: weights, losses or outputs that are not finite"
        elif only_class is not None:
            collapsed = f"collapsed: the network predicts class {batches.text.classes[only_class]} for every test text"
        if collapsed:
            return Findings(collapsed, f"{collapsed}; no sparsity is reported", results)
        if prepared.chief and prepared.recipe.keep_best:
            results |= _measure_best(prepared)
        line = f"test error {100 * test[1]:.2f} %"
        small = _make_small(prepared) if prepared.chief else None
        if small:
            results["small"] = small
            line += (
                f", {small['words']:,} of {batches.text.vocabulary.size - 2:,} words, "
                f"{small['units']:,} of {prepared.recipe.hidden_size:,} units"
            )
        return Findings(None, line, results)

    def finish(self, prepared, findings):
        best, small = findings.results.get("best"), findings.results.get("small")
        if best:
            print(
                f"{run_folder.BEST}: validation error {100 * best['val_error']:.2f} %, test error "
                f"{100 * best['test_error']:.2f} %, sparsity {100 * best['sparsity']:.2f} %"
            )
        if small:
            print(
                f"{run_folder.SMALL}: {small['words']:,} words, {small['inputs']:,} inputs, {small['units']:,} units, "
                f"{small['gates']:,} of {4 * prepared.recipe.hidden_size:,} gates vary; {small['weights']:,} weights "
                f"are not zero, compression {small['compression']:.1f}x"
            )
        return super().finish(prepared, findings)


def _describe(text):
    """Describes labelled texts, so that a continued run recognises them: a dict of plain values."""
    checksum, counts = zlib.crc32("\n".join(text.vocabulary.ids).encode()), {}
    for split in ("train", "validation", "test"):
        words, labels = getattr(text, split)
        counts[f"{split}_texts"] = len(labels)
        for part in (*words, labels):
            checksum = zlib.crc32(part, checksum)
    return {"classes": list(text.classes), "vocabulary_size": text.vocabulary.size, **counts, "checksum": checksum}


def _measure(model, batches, split):
    """((loss, error) of a split, the number of the class that all texts get or `None`)."""
    losses, wrong, predicted = 0.0, 0, []
    for words, labels in getattr(batches, split)():
        logits = ops.convert_to_numpy(ops.cast(predict_on_batch(model, words), "float32")).astype("float64")
        labels = ops.convert_to_numpy(labels)
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses += (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum()
        predicted.append(logits.argmax(axis=1))
        wrong += int((predicted[-1] != labels).sum())
    predicted = np.concatenate(predicted)
    only_class = int(predicted[0]) if (predicted == predicted[0]).all() else None
    return (float(losses / len(predicted)), wrong / len(predicted)), only_class


def _errors(prefix, figures):
    """The entries of `results.json` for the figures of a split. JSON has no NaN, which becomes `None`."""
    loss, error = figures
    return {f"{prefix}_error": error, f"{prefix}_loss": loss if math.isfinite(loss) else None}


def _measure_best(prepared):
    """The entry of `results.json` for `best.keras`, chosen by the validation error; empty without the file."""
    path = os.path.join(prepared.output_dir, run_folder.BEST)
    if not os.path.exists(path):
        return {}
    try:
        model = run_folder.load(path, compile=False)
    except ValueError as error:
        log.warn(f"{error} It is not measured.")
        return {}
    (_, validation), _ = _measure(model, prepared.batches, "validation")
    (_, test), _ = _measure(model, prepared.batches, "test")
    sparsity = inspection.sparsity_table(model, include_dense=True).sparsity
    return {"best": {"val_error": validation, "test_error": test, "sparsity": sparsity}}


def _make_small(prepared):
    """Removes dead words, inputs and units, and writes the small network with its vocabulary.

    Returns:
        Dict of the numbers that are left: `words` (without padding and unknown words), `inputs`, `units`, `gates` that
        vary, `weights` that are not zero; and `compression`, all weights of the network divided by these. `None` if
        the network has no zeros, or can't become smaller.
    """
    table = inspection.sparsity_table(prepared.model, include_dense=True)
    if table.sparsity == 0:
        return None
    try:
        small, ids = deploy.shrink_vocabulary(deploy.shrink(prepared.model))
    except (ValueError, RuntimeError) as error:
        log.warn(f"the network can't be made smaller: {error}")
        return None
    folder, vocabulary = prepared.output_dir, prepared.batches.text.vocabulary
    run_folder.save_without_optimizer(small, os.path.join(folder, run_folder.SMALL))
    vocabulary.renumbered(ids).save(os.path.join(folder, run_folder.SMALL_WORDS))
    rows, kernels = (
        [ops.convert_to_numpy(ops.cast(variable, "float32")) != 0 for variable in variables]
        for variables in (
            [small.get_layer("embedding").embeddings],
            [small.get_layer("lstm").cell.kernel, small.get_layer("lstm").cell.recurrent_kernel],
        )
    )
    live = rows[0].any(axis=1)
    words = [number for word, number in vocabulary.ids.items() if word not in (PADDING, UNKNOWN)]
    weights = inspection.sparsity_table(small, include_dense=True).nonzeros
    return {
        "words": int(live[ids[words]].sum()),
        "inputs": small.get_layer("embedding").output_dim,
        "units": small.get_layer("lstm").units,
        "gates": int(np.logical_or(*(kernel.any(axis=0) for kernel in kernels)).sum()),
        "weights": int(weights),
        "compression": table.size / max(int(weights), 1),
    }
