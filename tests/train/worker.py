"""One worker of `test_strategy.py`: trains a recipe and writes all variables of its model to a file.

    python -m tests.train.worker OUTPUT_DIR VARIABLES.npz EPOCHS_TO_LIVE FLAGS...

It dies, as if killed, when an epoch begins and EPOCHS_TO_LIVE are done.
"""

import os
import sys

import keras
import numpy as np

from sparsity_tf.train import trainer
from sparsity_tf.train.classifier import pictures
from sparsity_tf.train.classifier.task import ClassifierTask
from tests.train.runs import recipe_of


def main(output_dir, path, epochs_to_live, *flags):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == int(epochs_to_live):
                os._exit(9)

    pictures.Frames.on_epoch_begin = Killed.on_epoch_begin
    trainer.SparsityMonitor.on_epoch_begin = Killed.on_epoch_begin
    pictures.draw = lambda model, folder: []
    prepared = trainer.prepare(ClassifierTask(), recipe_of(*flags), output_dir, resume="--resume" in flags)
    trainer.train(prepared)
    np.savez(path, *[keras.ops.convert_to_numpy(variable) for variable in prepared.model.variables])


if __name__ == "__main__":
    main(*sys.argv[1:])
