"""Pictures of a run: the input mask or the filters, sparsity bars, and a film of the training.

The film is drawn at the end, from the kernels that `Frames` put on disk while training (16-bit
and compressed, so about nothing once they are sparse): so a resumed run has the whole film, and
drawing costs no training time. The first layer of a fully connected net is filmed as the images
that its units see, like the filters of a convolution.
"""

import os
import re

import keras
import numpy as np

from sparsity_tf import inspection
from sparsity_tf.bounded_files import read_npz
from sparsity_tf.inspection.plots import kernel_value
from sparsity_tf.train import run_folder

_MOST_FRAMES = 50
# Convolutions that are drawn; of deeper networks the first alone, whose filters see the image.
_FEW = 2


def filmed_layer(model):
    """The layer that the film shows: the last convolution that is drawn, or else the first dense layer."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return (drawn_convolutions(model) or layers)[-1 if drawn_convolutions(model) else 0]


def drawn_convolutions(model):
    """The convolutions whose filters are drawn: both of a small network, the first of a deep one."""
    convolutions = [layer for layer in model.layers if len(getattr(layer, "kernel", np.empty(0)).shape) == 4]
    return convolutions if len(convolutions) <= _FEW else convolutions[:1]


class Frames(keras.callbacks.Callback):
    """Stores the inference kernel of one layer before training and after every few epochs.

    Args:
        folder: Folder of the run; frames go to `frames/0012.npz` in it, 12 for the epochs done.
        every: Epochs between frames; 0 spreads at most 50 frames over the run. The last epoch
            always has one.
        epochs: Number of epochs of the run.
        first_epoch: Number of epochs done before; later frames, of an epoch that was cut off,
            are removed.
    """

    def __init__(self, folder, every, epochs, first_epoch=0):
        super().__init__()
        self.folder = os.path.join(folder, run_folder.FRAMES)
        self.every = every or -(-epochs // (_MOST_FRAMES - 1))
        self.epochs = epochs
        self.first_epoch = first_epoch
        os.makedirs(self.folder, exist_ok=True)
        for done, path in _stored_frames(folder):
            if done > first_epoch:
                os.remove(path)

    def on_train_begin(self, logs=None):
        if self.first_epoch == 0:
            self._store(0)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            self._store(epoch + 1)

    def _store(self, done):
        kernel = kernel_value(filmed_layer(self.model)).astype(np.float16)
        np.savez_compressed(os.path.join(self.folder, f"{done:04d}.npz"), kernel=kernel)


def _stored_frames(folder):
    """Pairs (epochs done, path) of the frames in a run's folder, in order."""
    folder = os.path.join(folder, run_folder.FRAMES)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = [re.fullmatch(r"(\d+)\.npz", name) for name in names]
    return sorted((int(m[1]), os.path.join(folder, m[0])) for m in matches if m)


def draw(model, folder):
    """Draws the pictures of a finished run.

    Args:
        model: The trained model.
        folder: Folder of the run.

    Returns:
        Names of the files written: `sparsity.png`, `training.gif`, and `input_mask.png` for a
        fully connected net or `filters_LAYER.png` for each convolution of a small one (the first of a deep one). An
        empty list, after a line that says why, if the packages for drawing are not installed.
    """
    made = []

    def path(name):
        made.append(name)
        return os.path.join(folder, name)

    convolutions = drawn_convolutions(model)
    try:
        inspection.plot_layer_sparsity(model, path("sparsity.png"))
        for layer in convolutions:
            inspection.plot_filters(layer, path(f"filters_{layer.name}.png"))
        if not convolutions:
            inspection.plot_input_mask(model, model.input_shape[1:], path("input_mask.png"))
        _film(model, folder, path("training.gif"))
    except ImportError as error:
        print(f"no pictures: {error}")
        return []
    return made


def _film(model, folder, path):
    layer = filmed_layer(model)
    shape = tuple(layer.kernel.shape)
    if len(shape) == 2:
        shape = (*model.input_shape[1:], shape[-1])
    # The film reads a layer; this one holds the stored kernels in turn.
    screen = keras.layers.Conv2D(shape[-1], shape[:2], use_bias=False, name=layer.name)
    screen.build((None, *shape[:-1]))
    film = inspection.MaskAnimation(screen, max_frames=_MOST_FRAMES)
    for done, frame in _stored_frames(folder):
        kernel = read_npz(frame, ["kernel"])["kernel"]
        # Stored values below the 16-bit range have become zero; they would draw as white too.
        screen.kernel.assign(kernel.astype(np.float32).reshape(shape))
        film.capture(f"epoch {done}")
    film.save_gif(path)
