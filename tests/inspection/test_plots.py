import pickle
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

from sparsity_tf.inspection import (
    MaskAnimation,
    plot_filters,
    plot_input_mask,
    plot_layer_sparsity,
    sparsity_table,
)
from sparsity_tf.layers import MaskedConv2D, MaskedDense

pytest.importorskip("matplotlib")
image_module = pytest.importorskip("PIL.Image")

WHITE = np.array([255, 255, 255])


def masked(layer, input_shape, mask, value=1.0):
    layer.build((None, *input_shape))
    layer.kernel.assign(np.full(layer.kernel.shape, value))
    layer.sparse_weights[0].assign_mask(mask)
    return layer


def picture(path):
    return np.asarray(image_module.open(path).convert("RGB")).astype(int)


def texts(figure):
    found = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        found += [t.get_text() for t in axes.texts] + [axes.get_title(), axes.get_title(loc="left")]
        found += [t.get_text() for t in axes.get_yticklabels()]
    return "\n".join(found)


def test_the_input_mask_counts_the_live_weights_of_each_pixel(tmp_path):
    mask = np.zeros((6, 5), bool)
    mask[1, :2] = mask[5, :] = True
    layer = masked(MaskedDense(5, name="fc"), (6,), mask)
    figure = plot_input_mask(layer, image_shape=(2, 3), path=tmp_path / "mask.png")
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown.filled(0), [[0, 2, 0], [0, 0, 5]])
    # Dead pixels are masked, hence drawn in the colour for "bad", not in that of a small count.
    np.testing.assert_array_equal(shown.mask, [[True, False, True], [True, True, False]])
    assert "2 of 6 input pixels in use" in texts(figure)
    assert picture(tmp_path / "mask.png").std() > 0


def test_the_input_mask_adds_up_channels_and_finds_the_first_dense_layer():
    model = keras.Sequential([kl.Input((2, 2, 3)), kl.Flatten(), kl.Dense(4), kl.Dense(7)])
    kernel = np.zeros((12, 4))
    kernel[:3] = 1.0
    model.layers[1].kernel.assign(kernel)
    figure = plot_input_mask(model, image_shape=(2, 2, 3))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array().filled(0), [[12, 0], [0, 0]])


def test_the_input_mask_refuses_what_is_not_an_image():
    layer = masked(MaskedDense(5), (6,), np.ones((6, 5), bool))
    with pytest.raises(ValueError, match="`image_shape` must be"):
        plot_input_mask(layer)
    with pytest.raises(ValueError, match="must be or contain a `Dense` layer"):
        plot_input_mask(kl.ReLU())


def test_filters_are_white_where_weights_are_zero_and_coloured_by_sign(tmp_path):
    mask = np.zeros((3, 3, 1, 4), bool)
    layer = masked(MaskedConv2D(4, 3, name="conv"), (8, 8, 1), mask)
    plot_filters(layer, path=tmp_path / "dead.png")
    mask[..., 0] = True
    layer.sparse_weights[0].assign_mask(mask)
    for value, name in ((1.0, "positive"), (-1.0, "negative")):
        layer.kernel.assign(np.where(mask, value, 0.0))
        plot_filters(layer, path=tmp_path / f"{name}.png")
    dead, positive, negative = (picture(tmp_path / f"{n}.png") for n in ("dead", "positive", "negative"))
    height, width, _ = dead.shape
    # The middle of the first box (upper left) and of the last one (lower right of the grid).
    first_box = (
        slice(int(0.15 * height), int(0.4 * height)),
        slice(int(0.08 * width), int(0.35 * width)),
    )
    last_box = (
        slice(int(0.6 * height), int(0.8 * height)),
        slice(int(0.5 * width), int(0.75 * width)),
    )
    assert (dead[first_box] == WHITE).all()
    assert (positive[last_box] == WHITE).all()
    red, _, blue = positive[first_box].reshape(-1, 3).mean(axis=0)
    assert red > 2 * blue
    red, _, blue = negative[first_box].reshape(-1, 3).mean(axis=0)
    assert blue > 2 * red


def test_filters_say_how_many_of_them_are_shown():
    layer = masked(MaskedConv2D(8, 3, name="conv"), (8, 8, 5), np.ones((3, 3, 5, 8), bool))
    assert "conv (first 10 kernels)\n0 of 360 weights are 0" in texts(plot_filters(layer, max_filters=10))
    assert "(first" not in texts(plot_filters(layer))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (kl.Conv1D(4, 3), (9, 2)),
        (kl.Conv3D(3, 2), (4, 4, 4, 2)),
        (kl.DepthwiseConv2D(3), (6, 6, 4)),
        (kl.Dense(7), (5,)),
        (kl.EinsumDense("abc,cde->abde", (None, 2, 5)), (7, 6)),
    ],
)
def test_every_kernel_can_be_drawn(layer, shape):
    layer.build((None, *shape))
    figure = plot_filters(layer)
    assert len(figure.axes) == 2  # the grid and its colour bar


def test_filters_with_nan_are_drawn_and_say_so():
    layer = kl.Conv2D(2, 3)
    layer.build((None, 8, 8, 1))
    layer.kernel.assign(np.full((3, 3, 1, 2), np.nan))
    assert "non-finite weights" in texts(plot_filters(layer))


def test_filters_refuse_layers_without_kernels():
    with pytest.raises(ValueError, match="layer with a kernel"):
        plot_filters(kl.ReLU())
    layer = kl.Conv2D(2, 3)
    layer.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match="`max_filters` must be an integer of at least 1"):
        plot_filters(layer, max_filters=0)


def test_bars_show_sparsity_and_counts_of_every_weight(tmp_path):
    model = keras.Sequential([kl.Input((4,)), MaskedDense(5, name="a"), MaskedDense(5, name="b")])
    mask = np.zeros((4, 5), bool)
    mask[0] = True
    model.layers[0].sparse_weights[0].assign_mask(mask)
    table = sparsity_table(model)
    for argument in (model, table):
        figure = plot_layer_sparsity(argument, path=tmp_path / "bars.png")
        found = texts(figure)
        assert all(row.name in found for row in table)
        assert "5 of 20" in found
        assert "75.0" in found
        assert f"{100 * table.sparsity:.2f} % sparse" in found
    assert picture(tmp_path / "bars.png").shape[1] > 800


def test_bars_never_show_a_diverged_weight_as_sparse():
    layer = kl.Dense(3)
    layer.build((None, 2))
    layer.kernel.assign(np.full((2, 3), np.nan))
    found = texts(plot_layer_sparsity(layer))
    assert "sparsity unknown" in found
    assert "100.0" not in found


def test_bars_need_a_weight():
    with pytest.raises(ValueError, match="at least one kernel"):
        plot_layer_sparsity(keras.Sequential([kl.Input((3,)), kl.ReLU()]))


def test_a_film_has_the_frames_that_were_captured(tmp_path):
    layer = masked(MaskedConv2D(4, 3), (8, 8, 1), np.ones((3, 3, 1, 4), bool))
    film = MaskAnimation(layer)
    for epoch in range(3):
        layer.kernel.assign(np.full(layer.kernel.shape, 1.0 + epoch))
        film.capture(f"epoch {epoch}")
    assert [frame.pieces.flat[0] for frame in film.frames] == [1.0, 2.0, 3.0]
    film.save_gif(tmp_path / "film.gif")
    gif = image_module.open(tmp_path / "film.gif")
    assert (gif.format, gif.n_frames, gif.size) == ("GIF", 3, (600, 600))


def test_a_long_film_keeps_the_first_and_the_last_frame_and_few_in_memory():
    layer = masked(MaskedConv2D(1, 1), (2, 2, 1), np.ones((1, 1, 1, 1), bool))
    film = MaskAnimation(layer, max_frames=5)
    for step in range(1, 100):
        layer.kernel.assign(np.full((1, 1, 1, 1), step))
        film.capture()
        assert len(film.frames) == min(step, 5)
        assert len(film._kept) < 10
    steps = [int(frame.pieces.flat[0]) for frame in film.frames]
    assert (steps[0], steps[-1]) == (1, 99)
    assert max(np.diff(steps)) <= 2 * min(np.diff(steps))


def test_a_film_refuses_what_it_cannot_show(tmp_path):
    layer = masked(MaskedConv2D(1, 1), (2, 2, 1), np.ones((1, 1, 1, 1), bool))
    with pytest.raises(ValueError, match="`max_frames` must be an integer of at least 2"):
        MaskAnimation(layer, max_frames=1)
    with pytest.raises(ValueError, match="at least one frame"):
        MaskAnimation(layer).save_gif(tmp_path / "film.gif")
    film = MaskAnimation(layer)
    film.capture()
    with pytest.raises(ValueError, match="`frames_per_second` must be a finite number above 0"):
        film.save_gif(tmp_path / "film.gif", frames_per_second=0)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    layer = masked(MaskedDense(4), (4,), np.ones((4, 4), bool))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: plot_input_mask(layer, image_shape=(2, 2)),
        lambda: plot_filters(layer),
        lambda: plot_layer_sparsity(layer),
        lambda: MaskAnimation(layer),
    ):
        with pytest.raises(ImportError, match=r"pip install \"sparsity-tf\[plot\]\""):
            call()


def test_plots_leave_pyplot_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_layer_sparsity(masked(MaskedDense(4), (4,), np.ones((4, 4), bool)))
    assert plt.get_fignums() == before


def test_a_notebook_shows_a_figure_without_pyplot():
    """IPython shows the result of a cell by `_repr_png_`, if no type of figure was registered."""
    layer = masked(MaskedDense(5, name="fc"), (6,), np.ones((6, 5), bool))
    figure = plot_filters(layer)
    content = figure._repr_png_()
    assert content.startswith(b"\x89PNG")
    # A copy shows itself, not the original.
    again = pickle.loads(pickle.dumps(figure))
    again.set_size_inches(2, 2)
    assert len(again._repr_png_()) < len(content) == len(figure._repr_png_())
