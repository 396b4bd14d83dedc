"""The estimate is the source's: the time of each convolution, times what is not zero. No test looks at the clock."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sparsity_tf
from sparsity_tf.inspection import SpeedupRow, SpeedupTable, estimate_speedup, plot_speedup, speedup
from tests.layers.layer_checks import make_half_sparse

pytestmark = pytest.mark.compiled


@pytest.fixture
def two_seconds(monkeypatch):
    """Every convolution takes two seconds."""
    monkeypatch.setattr(speedup, "_seconds", lambda *_: 2.0)


def one_convolution(layer, input_shape, kernel):
    model = keras.Sequential([kl.Input(input_shape), layer])
    layer.kernel.assign(kernel)
    return model


def test_one_convolution_by_hand(two_seconds):
    kernel = np.ones((1, 1, 4, 5), "float32")
    kernel[:, :, 0] = 0  # one of four input channels is dead,
    kernel[:, :, 1, :3] = 0  # and three more of twenty weights
    model = one_convolution(kl.Conv2D(5, 1, name="conv"), (2, 2, 4), kernel)
    x = np.ones((2, 2, 2, 4), "float32")
    x[0, ..., :3] = 0  # three of eight maps are dead,
    x[1, 0, 0, 0] = x[1, 1, 1, 1] = 0  # and two more of 32 inputs
    table = estimate_speedup(model, x)
    [row] = table
    assert (row.calls, row.dense) == (1, 2.0)
    assert row.name.endswith("conv")
    assert row.channel == pytest.approx(2 * (3 / 4) * (5 / 8))
    assert row.sparse == pytest.approx(2 * (12 / 20) * (18 / 32))
    assert row.channel_speedup == table.channel_speedup == pytest.approx(32 / 15)
    assert row.sparse_speedup == table.sparse_speedup == pytest.approx(80 / 27)


def test_calls_and_batches_add_up_call_by_call(two_seconds):
    kernel = np.ones((1, 1, 2, 2), "float32")
    layer = kl.Conv2D(2, 1, name="shared", use_bias=False)
    inputs = kl.Input((1, 1, 2))
    model = keras.Model(inputs, layer(kl.ReLU()(layer(inputs) - 1.5)))
    layer.kernel.assign(kernel)
    # First batch: [1, 0] -> sum 1 -> relu(-0.5) = 0, so the second call reads zeros only. Second: [1, 1] -> 0.5.
    batches = [np.array([[[[1.0, 0.0]]]], "float32"), np.array([[[[1.0, 1.0]]]], "float32")]
    [row] = estimate_speedup(model, batches)
    assert (row.calls, row.dense, row.sparse) == (4, 8.0, pytest.approx(2 * (0.5 + 0 + 1 + 1)))
    halves = [estimate_speedup(model, batch) for batch in batches]
    assert (halves[0] + halves[1]).rows == [row]
    with pytest.raises(ValueError, match="same layers"):
        halves[0] + SpeedupTable([])


def test_groups_and_depthwise_convolutions_have_channels_of_their_own():
    grouped = kl.Conv2D(4, 1, groups=2)
    grouped.build((None, 2, 2, 6))
    kernel = np.ones((1, 1, 3, 4), "float32")
    kernel[..., 0, 2:] = 0  # channel 0 of the second group is dead, that of the first is read
    assert speedup._dead_channels_of_kernel(grouped, kernel) == pytest.approx(1 / 6)
    depthwise = np.ones((3, 3, 5, 2), "float32")
    depthwise[:, :, 1] = 0
    assert speedup._dead_channels_of_kernel(kl.DepthwiseConv2D(3, depth_multiplier=2), depthwise) == pytest.approx(0.2)
    channels_first = kl.Conv2D(4, 1, data_format="channels_first")
    x = np.zeros((1, 3, 2, 2))
    x[0, 2, 0, 0] = 1
    assert speedup._dead_maps(channels_first, x) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (kl.Conv1D(3, 3, padding="causal", dilation_rate=2), (9, 2)),
        (kl.Conv2D(4, 3, strides=2, padding="same", groups=2), (7, 6, 2)),
        (kl.Conv3D(2, 2), (4, 4, 4, 2)),
        (kl.DepthwiseConv1D(3, depth_multiplier=2), (8, 3)),
        (kl.DepthwiseConv2D(3, strides=2, padding="same"), (6, 6, 3)),
        (sparsity_tf.layers.STRConv2D(3, 3, threshold_initializer=-3.0), (6, 6, 2)),
    ],
)
def test_what_is_timed_is_the_layers_own_convolution(layer, shape):
    model = keras.Sequential([kl.Input(shape), layer])
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    kernel = keras.ops.convert_to_tensor(speedup.kernel_value(layer))
    timed = speedup._convolve(layer, keras.ops.convert_to_tensor(x), kernel)
    expected = keras.ops.convert_to_numpy(model(x))  # Biases are zero.
    np.testing.assert_allclose(keras.ops.convert_to_numpy(timed), expected, rtol=1e-5, atol=1e-6)
    [row] = estimate_speedup(model, x)
    assert row.dense > 0


@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str", "dnw"])
def test_zeros_of_every_technique_count(technique, two_seconds):
    model = keras.Sequential([kl.Input((6, 6, 2)), kl.Conv2D(8, 3, name="conv"), kl.Flatten(), kl.Dense(3)])
    sparsity_tf.sparsify(model, technique)
    make_half_sparse(model.get_layer("conv"))
    density = 1 - sparsity_tf.get_sparse_weights(model)[0].sparsity()
    [row] = estimate_speedup(model, np.ones((1, 6, 6, 2), "float32"))
    assert row.sparse == pytest.approx(2 * density)
    assert 0 < density < 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_timed(policy):
    model = keras.Sequential([kl.Input((6, 6, 2)), kl.Conv2D(3, 3, dtype=policy)])
    [row] = estimate_speedup(model, np.ones((1, 6, 6, 2), "float32"))
    assert row.dense > 0


def test_layers_are_chosen_by_name_and_what_did_not_run_has_no_row(two_seconds):
    inputs = kl.Input((4, 4, 1))
    x = kl.Conv2D(2, 3, name="conv1")(inputs)
    model = keras.Model(inputs, kl.Add()([kl.Conv2D(2, 1, name="conv2")(x), kl.Conv2D(2, 1, name="projection")(x)]))
    data = np.zeros((1, 4, 4, 1), "float32")
    assert [row.name for row in estimate_speedup(model, data)] == ["conv1", "conv2", "projection"]
    assert [row.name for row in estimate_speedup(model, data, where=r"conv\d")] == ["conv1", "conv2"]
    assert estimate_speedup(model, data, where="conv1").sparse_speedup == float("inf")
    part = keras.Model(inputs, x)
    part.unused = kl.Conv2D(2, 3, name="unused")
    assert [row.name for row in estimate_speedup(part, data)] == ["conv1"]


@pytest.mark.tensorflow
def test_data_come_as_arrays_tuples_lists_or_datasets(two_seconds):
    import tensorflow as tf

    model = keras.Sequential([kl.Input((4, 4, 1)), kl.Conv2D(2, 3)])
    x, y = np.ones((4, 4, 4, 1), "float32"), np.zeros(4)
    forms = [x, (x, y), [x, x], [(x, y), (x, y)], tf.data.Dataset.from_tensor_slices((x, y)).batch(2)]
    assert [estimate_speedup(model, data).rows[0].calls for data in forms] == [1, 1, 2, 2, 2]


def test_the_model_is_left_as_it_was_whatever_happens():
    layer = kl.Conv2D(2, 3)
    model = keras.Sequential([kl.Input((4, 4, 1)), layer, kl.BatchNormalization()])
    before = [v.numpy() for v in model.variables]
    estimate_speedup(model, np.ones((2, 4, 4, 1), "float32"))
    with pytest.raises(Exception, match=r"(?s)shape|incompatible|expected"):
        estimate_speedup(model, np.ones((2, 4, 4, 3), "float32"))
    assert "call" not in vars(layer)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        estimate_speedup(3, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="`model` must be built"):
        estimate_speedup(keras.Sequential([kl.Conv2D(2, 3)]), np.zeros((1, 4, 4, 1)))
    dense = keras.Sequential([kl.Input((3,)), kl.Dense(2, name="fc")])
    with pytest.raises(ValueError, match="`where` must select a convolution"):
        estimate_speedup(dense, np.zeros((1, 3)))
    model = keras.Sequential([kl.Input((4, 4, 1)), kl.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="`data` must hold at least one batch"):
        estimate_speedup(model, [])
    with pytest.raises(ValueError, match="`data` must be an array"):
        estimate_speedup(model, 7)


def example_table():
    return SpeedupTable([SpeedupRow("conv1", 2, 0.004, 0.003, 0.001), SpeedupRow("conv2", 2, 0.002, 0.002, 0.0005)])


def test_the_printed_table_is_readable():
    assert str(example_table()).splitlines() == [
        "layer      calls    dense, ms    channel, ms    sparse, ms    dense/channel    dense/sparse",
        "-------  -------  -----------  -------------  ------------  ---------------  --------------",
        "conv1          2        2.000          1.500         0.500            1.33x           4.00x",
        "conv2          2        1.000          1.000         0.250            1.00x           4.00x",
        "total                   6.000          5.000         1.500            1.20x           4.00x",
        "Rows of layers: mean of one call. Row total: sum of all calls. An estimate: nothing was computed sparsely.",
    ]


def test_the_file_has_seconds_and_ratios(tmp_path):
    example_table().to_csv(tmp_path / "speedup.csv")
    assert (tmp_path / "speedup.csv").read_text().splitlines() == [
        "layer,calls,dense_seconds,channel_seconds,sparse_seconds,dense/channel,dense/sparse",
        f"conv1,2,0.004,0.003,0.001,{0.004 / 0.003},4.0",
        "conv2,2,0.002,0.002,0.0005,1.0,4.0",
        f"total,4,0.006,0.005,0.0015,{0.006 / 0.005},4.0",
    ]


def test_the_picture_has_three_bars_a_layer(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot_speedup(example_table(), path=tmp_path / "speedup.png")
    axes = figure.axes[0]
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [2, 1, 1.5, 1, 0.5, 0.25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv2"]
    assert (tmp_path / "speedup.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="`table` must be a `SpeedupTable` with rows"):
        plot_speedup(SpeedupTable([]))
