"""Pictures of a run: the input mask or the filters, sparsity bars, and a film of the training.

While training runs, `Frames` writes kernels to disk (16-bit and compressed, so they are tiny once they
are sparse). The film is drawn from them at the end. A resumed run therefore has the whole film, and
drawing takes no training time. For a fully connected net, the film shows the weights of each unit of
the first layer as an image, like the filters of a convolution.
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
# Networks with up to this many convolutions have all of them drawn. For a deeper network only the first is drawn,
# because its filters see the image.
_FEW = 2


def sees_images(model):
    """Whether a network sees images. Of other networks only the sparsities are drawn."""
    return len(model.input_shape) == 4


def filmed_layer(model):
    """The layer that the film shows: the last convolution that is drawn, or the first dense layer if there is none."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return (drawn_convolutions(model) or layers)[-1 if drawn_convolutions(model) else 0]


def drawn_convolutions(model):
    """The convolutions whose filters are drawn: all of a small network, the first of a deep one."""
    convolutions = [layer for layer in model.layers if len(getattr(layer, "kernel", np.empty(0)).shape) == 4]
    return convolutions if len(convolutions) <= _FEW else convolutions[:1]


class Frames(keras.callbacks.Callback):
    """Stores the inference kernel of one layer before training and after every few epochs.

    Args:
        folder: Folder of the run. The frame after 12 epochs is `frames/0012.npz` in this folder.
        every: Epochs between frames; 0 spreads at most 50 frames over the run. The last epoch
            always has a frame.
        epochs: Number of epochs of the run.
        first_epoch: Number of epochs already done. Later frames, from an epoch that was cut off,
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
        Names of the written files: `sparsity.png`, `training.gif`, and `input_mask.png` for a fully connected net or
        `filters_LAYER.png` for each convolution of a small network (for the first one of a deep network). If the
        packages for drawing are not installed, a printed line says so and the list is empty.
    """
    made = []

    def path(name):
        made.append(name)
        return os.path.join(folder, name)

    convolutions = drawn_convolutions(model) if sees_images(model) else []
    try:
        inspection.plot_layer_sparsity(model, path("sparsity.png"))
        if not sees_images(model):
            return made
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
    # The film is captured from a layer. This layer gets the stored kernels, one after the other.
    screen = keras.layers.Conv2D(shape[-1], shape[:2], use_bias=False, name=layer.name)
    screen.build((None, *shape[:-1]))
    film = inspection.MaskAnimation(screen, max_frames=_MOST_FRAMES)
    for done, frame in _stored_frames(folder):
        kernel = read_npz(frame, ["kernel"])["kernel"]
        # Values too small for 16 bits have become zero. A picture would show them as white in any case.
        screen.kernel.assign(kernel.astype(np.float32).reshape(shape))
        film.capture(f"epoch {done}")
    film.save_gif(path)
