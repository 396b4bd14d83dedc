"""What the tests of runs share: a tiny data set, and the classifier run in this process."""

import struct

import keras
import numpy as np
from absl import flags

from sparsity_tf.train import run_folder
from sparsity_tf.train.classifier import __main__ as classifier


def write_digits(folder):
    """IDX files of 64 + 32 images whose class is easy to see: a bright row at 2 * class + 3."""
    random = np.random.default_rng(0)
    for stem, count in (("train", 64), ("t10k", 32)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 3] = 255
        for kind, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            path = folder / f"{stem}-{kind}-idx{array.ndim}-ubyte"
            path.write_bytes(header + array.tobytes())
    return folder


def recipe_of(*arguments):
    """The recipe that flags ask for."""
    return classifier.recipe_from_flags(parsed(arguments))


def classify(arguments, capsys):
    """Runs the classifier in this process: (exit status, lines of its output, its errors)."""
    flag_values = parsed(arguments)
    capsys.readouterr()
    status = classifier.main(["classifier"], flag_values)
    output = capsys.readouterr()
    return status, output.out.splitlines(), output.err


def parsed(arguments):
    """Flags of the classifier."""
    flag_values = flags.FlagValues()
    classifier.define_flags(flag_values)
    flag_values(["classifier", *arguments])
    return flag_values


def weights_of(folder):
    """All variables of a run's checkpoint, those of the optimizer too."""
    model = keras.saving.load_model(folder / run_folder.CHECKPOINT)
    variables = model.variables + model.optimizer.variables
    return [keras.ops.convert_to_numpy(v) for v in variables]
