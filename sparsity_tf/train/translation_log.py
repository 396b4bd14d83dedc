"""What the translator says while it trains and at its end: rows of figures, the best model, translations and BLEU."""

import os
import time

import keras
import numpy as np

from sparsity_tf import inspection
from sparsity_tf.callbacks.sparsity_monitor import write_scalar
from sparsity_tf.train import log, state
from sparsity_tf.train.bleu import sacrebleu_score
from sparsity_tf.train.translate import translate


class TranslationLog(keras.callbacks.Callback):
    """Writes what `fit` found on training and validation data after each of its epochs.

    Places: `metrics.csv` (the same columns in every row; sparsities and accuracies as fractions, cross-entropies in
    nats a subword), TensorBoard scalars over the optimizer's step and, without a progress bar, one printed line.
    Training stops at the first epoch whose loss is not finite.

    Args:
        folder: Folder of the run.
        epochs: Number of epochs of the whole run.
        penalty_examples: The column `penalty_weight` is the layers' variable times this.
        first_epoch: Number of epochs done before this process; later rows in `metrics.csv` are dropped.
        print_lines: Whether to print a line an epoch.
        writes: Whether to write at all: of several workers one does.
    """

    def __init__(self, folder, epochs, penalty_examples, first_epoch=0, print_lines=True, writes=True):
        super().__init__()
        self.path = os.path.join(folder, state.METRICS)
        self.tensorboard = os.path.join(folder, state.TENSORBOARD)
        self.epochs, self.penalty_examples = epochs, penalty_examples
        self.print_lines, self.writes = print_lines, writes
        self._writer = None
        if writes and os.path.exists(self.path):
            log.write_rows(self.path, [row for row in log.read_metrics(folder) if int(row["epoch"]) <= first_epoch])

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        if self.writes:
            self._writer = tf.summary.create_file_writer(self.tensorboard)

    def on_train_end(self, logs=None):
        if self.writes:
            self._writer.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._begin = time.perf_counter()
        self._trained = None

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
        row = self._row(epoch, logs)
        logs.update(sparsity=row["sparsity"])
        if not self.writes:
            return
        log.write_rows(self.path, [row], append=os.path.exists(self.path))
        with self._writer.as_default():
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    write_scalar(name, value, row["step"])
        self._writer.flush()
        if self.print_lines:
            print(
                f"step {row['step']:,}  loss {row['loss']:.4f}  validation: perplexity {row['val_perplexity']:.2f}, "
                f"accuracy {100 * row['val_accuracy']:.2f} %  sparsity {100 * row['sparsity']:.2f} %  "
                f"{row['seconds']:.1f} s",
                flush=True,
            )

    def _row(self, epoch, logs):
        table = inspection.sparsity_table(self.model, include_dense=True)
        row = {
            "epoch": epoch + 1,
            "step": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
            "seconds": round((self._trained or time.perf_counter()) - self._begin, 4),
            "learning_rate": self._rate,
        }
        for prefix in ("", "val_"):
            for name in ("loss", "accuracy", "cross_entropy"):
                row[prefix + name] = float(logs[prefix + name])
            row[f"{prefix}perplexity"] = float(np.exp(row[f"{prefix}cross_entropy"]))
        row.update(
            penalty_weight=log.penalty_weight(self.model) * self.penalty_examples,
            sparsity=table.sparsity,
            compression=table.compression,
        )
        row.update({f"sparsity/{weight.name}": weight.sparsity for weight in table.rows})
        return row


class Best(state.Best):
    """Keeps the model with the lowest validation cross-entropy, as `best.keras`, once it is as sparse as it will be.

    Args:
        folder: Path of an existing folder.
        settled_from: Step from which masks and penalties are final.
        lowest: Lowest cross-entropy from there on before, in a run that is continued.
    """

    def __init__(self, folder, settled_from, lowest=float("inf")):
        super().__init__(folder, lowest)
        self.settled_from = settled_from

    def on_epoch_end(self, epoch, logs=None):
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if step >= self.settled_from:
            super().on_epoch_end(epoch, {"test_error": (logs or {}).get("val_cross_entropy", float("nan"))})


def translate_texts(model, vocabulary, texts, beam_size=4, alpha=0.6, extra_length=100, batch_size=32):
    """Translates texts with the weights that the model has now.

    Args:
        model: A model of `models.Transformer`.
        vocabulary: Its `subwords.Vocabulary`.
        texts: List of strings.
        beam_size: Width of the beam; 1: greedy.
        alpha: Exponent of the length penalty.
        extra_length: Subwords that a translation may be longer than its source.
        batch_size: Texts at a time.

    Returns:
        A list of strings in the order of `texts`.
    """
    from sparsity_tf.decoding import Decoder

    decoder = Decoder(model)

    def search(inputs, extra_length):
        if beam_size == 1:
            return decoder.greedy(inputs, extra_length)
        return decoder.beam_search(inputs, beam_size, alpha, extra_length)

    found = translate(search, vocabulary.encode_all(list(texts)), extra_length, batch_size)
    return [vocabulary.decode(ids) for ids in found]


def bleu(translations, references):
    """SacreBLEU of translations, 0 to 100, and its signature (Post, 2018, arXiv 1804.08771)."""
    score, signature = sacrebleu_score(translations, [references])
    return score.score, signature
