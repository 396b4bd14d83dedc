"""A film of a kernel that becomes sparse: `MaskAnimation`.

It imitates the animations of the Sparse VD repository (Molchanov, Ashukha and Vetrov, ICML 2017): the masked kernels of
one layer during training, in at most 50 frames of 600 x 600 pixels. The colour limits are fitted anew in every frame,
so one sees the surviving weights grow while their neighbours vanish.
"""

from collections import namedtuple

import keras
import numpy as np

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_instance, check_integer, check_layer, check_number, check_path
from sparsity_tf.extras import import_optional
from sparsity_tf.inspection.plots import draw_pieces, kernel_pieces, piece_title, require_matplotlib
from sparsity_tf.type_names import Figure, PathLike

_Frame = namedtuple("_Frame", ["pieces", "title"])


class MaskAnimation(CallRepr):
    """Collects the masked weights of a layer during training and writes them as an animated GIF.

    Memory holds at most `2 * max_frames` frames, spread evenly over all calls of `capture`.

    Args:
        layer: a sparse or plain layer with a kernel; the pictures are those of `plot_filters`.
        max_filters: largest number of kernels to show.
        max_frames: largest number of frames of the film, first and last included.

    Raises:
        ValueError: if `max_frames` is not an integer of at least 2.

    Example:

    ```python
    film = MaskAnimation(model.get_layer("conv"))
    capture = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: film.capture(f"epoch {epoch + 1}")
    )
    model.fit(x, y, epochs=2, callbacks=[capture])
    film.save_gif("conv.gif")
    ```
    """

    def __init__(self, layer: keras.layers.Layer, max_filters: int = 100, max_frames: int = 50) -> None:
        check_layer("layer", layer)
        check_integer("max_filters", max_filters, 1)
        check_integer("max_frames", max_frames, 2)
        require_matplotlib()
        self.layer = layer
        self.max_filters = max_filters
        self.max_frames = max_frames
        self._kept = []
        self._last = None
        self._calls = 0
        self._every = 1

    def capture(self, label: str = "") -> None:
        """Keeps the weights as they are now.

        Args:
            label: text to write above the frame, e.g. `"epoch 3"`.
        """
        check_instance("label", label, str)
        # Copied, because a backend may return a view of the variable's own memory.
        pieces = kernel_pieces(self.layer, self.max_filters).copy()
        title = piece_title(self.layer, pieces)
        self._last = _Frame(pieces, f"{label}   {title}" if label else title)
        if self._calls % self._every == 0:
            self._kept.append(self._last)
        self._calls += 1
        if len(self._kept) == 2 * self.max_frames:
            self._kept = self._kept[::2]
            self._every *= 2

    @property
    def frames(self) -> list[tuple[np.ndarray, str]]:
        """The frames of the film, at most `max_frames`, as (array as in `plot_filters`, title)."""
        frames = list(self._kept)
        if frames and frames[-1] is not self._last:
            frames.append(self._last)
        if len(frames) <= self.max_frames:
            return frames
        spread = np.linspace(0, len(frames) - 1, self.max_frames)
        return [frames[i] for i in spread.round().astype(int)]

    def save_gif(self, path: PathLike, frames_per_second: float = 8) -> Figure:
        """Writes the film. The last frame stays for two seconds, then the film starts again.

        Args:
            path: where to write the GIF file.
            frames_per_second: positive number.

        Returns:
            `matplotlib.figure.Figure` of the last frame.

        Raises:
            ValueError: if nothing was captured, or `frames_per_second` is not positive.
        """
        check_path("path", path)
        check_number("frames_per_second", frames_per_second, above=0)
        if not self.frames:
            raise ValueError("`save_gif` needs at least one frame: call `capture` before. Received: 0 frames.")
        Image = import_optional("PIL.Image")
        images = []
        for frame in self.frames:
            figure = draw_pieces(frame.pieces, frame.title)
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
            images.append(Image.fromarray(pixels).quantize(128))
        duration = [round(1000 / frames_per_second)] * (len(images) - 1) + [2000]
        images[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=duration,
            loop=0,
            optimize=False,
        )
        return figure
