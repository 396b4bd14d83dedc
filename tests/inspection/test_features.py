"""Class specialisation is counted channel by channel as in the source, and compared between two networks."""

import math

import keras
import numpy as np
import pytest
from keras import layers as kl

from sparsity_tf.inspection import (
    FeatureRow,
    FeatureTable,
    class_specialization,
    plot_class_specialization,
    specialization_anova,
)


def relu_only(shape=(2, 2, 3), classes=2):
    """Its feature maps are the positive part of its inputs."""
    inputs = kl.Input(shape)
    features = kl.ReLU(name="relu")(inputs)
    return keras.Model(inputs, kl.Dense(classes)(kl.GlobalAveragePooling2D()(features)))


def row_of(specialization, classes=5):
    """A `FeatureRow` whose channels have these specialisations and equal sums."""
    contributions = [[s] + [(1 - s) / (classes - 1)] * (classes - 1) for s in specialization]
    return FeatureRow("relu", np.array(contributions), 1.0, dropped_share=0.0)


def test_contributions_are_sums_over_examples_and_positions_by_class():
    x = np.zeros((3, 2, 2, 3), "float32")
    x[0, 0, 0, 0] = 2
    x[0, 1, 1, 0] = 1
    x[1, 0, 1, 1] = 4
    x[1, 0, 0, 0] = -9  # lost in the ReLU
    x[2, ..., 2] = 0.5
    [row] = class_specialization(relu_only(), (x, [0, 1, 0]))
    np.testing.assert_allclose(row.contributions, [[3, 0], [0, 4], [2, 0]])
    assert row.name == "relu"
    assert row.density == pytest.approx(7 / 36)
    np.testing.assert_allclose(row.specialization, [1, 1, 1])


def test_batches_and_one_hot_labels_give_the_same():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2, 2, 3)).astype("float32"), rng.integers(0, 4, 12)
    model = relu_only(classes=4)
    [whole] = class_specialization(model, (x, y))
    [parts] = class_specialization(model, [(x[:5], y[:5, None]), (x[5:], y[5:, None])])
    [one_hot] = class_specialization(model, [(x, np.eye(4)[y])])
    np.testing.assert_allclose(parts.contributions, whole.contributions)
    np.testing.assert_allclose(one_hot.contributions, whole.contributions)


def test_the_weakest_channels_up_to_five_percent_are_left_out():
    # Shares 0.90, 0.02, 0.07, 0.01: in rising order their sums are 0.01, 0.03, 0.10, 1.
    row = FeatureRow("relu", np.array([[45, 45], [2, 0], [7, 0], [0, 1]], float), 1.0)
    assert row.kept.tolist() == [2, 0]
    np.testing.assert_allclose(row.specialization, [1, 0.5])
    everything = FeatureRow("relu", row.contributions, 1.0, dropped_share=0.0)
    assert sorted(everything.kept.tolist()) == [0, 1, 2, 3]


def test_specialization_lies_between_one_class_and_all_alike():
    contributions = np.array([[1.0] * 10, [1.0] + [0.0] * 9])
    np.testing.assert_allclose(FeatureRow("relu", contributions, 1.0).specialization, [1, 0.1])


def test_dead_and_diverged_layers_are_said_to_be():
    dead = FeatureRow("dead", np.zeros((3, 2)), 0.0)
    diverged = FeatureRow("diverged", np.full((3, 2), np.nan), 1.0)
    table = FeatureTable([dead, diverged])
    assert dead.specialization.size == diverged.specialization.size == 0
    assert math.isnan(table.mean)
    assert "all maps are 0" in str(table)
    assert "non-finite activations" in str(table)


def test_layers_that_end_in_a_relu_and_put_out_maps_are_found():
    inputs = kl.Input((8, 8, 1))
    x = kl.Conv2D(2, 3, activation="relu", name="conv")(inputs)
    x = kl.ReLU(name="relu")(kl.Conv2D(2, 3, name="linear")(x))
    x = kl.Activation("relu", name="activation")(x)
    x = kl.Dense(4, activation="relu", name="fc")(kl.Flatten()(x))
    model = keras.Model(inputs, kl.Dense(2)(x))
    data = np.ones((2, 8, 8, 1), "float32"), [0, 1]
    assert [row.name for row in class_specialization(model, data)] == ["conv", "relu", "activation"]
    [row] = class_specialization(model, data, where="fc")
    assert row.contributions.shape == (4, 2)


def test_a_shared_layer_counts_all_its_outputs():
    relu, inputs = kl.ReLU(name="relu"), kl.Input((1, 1, 2))
    model = keras.Model(inputs, kl.Flatten()(relu(relu(inputs) - 1.0)))
    [row] = class_specialization(model, (np.array([[[[3.0, 1.0]]]], "float32"), [1]))
    np.testing.assert_allclose(row.contributions, [[0, 3 + 2], [0, 1]])
    assert row.density == 0.75


def test_channels_first_maps():
    model = relu_only((3, 2, 2))
    keras.config.set_image_data_format("channels_first")
    x = np.zeros((1, 3, 2, 2), "float32")
    x[0, 1] = 1
    [row] = class_specialization(model, (x, [0]))
    np.testing.assert_allclose(row.contributions, [[0, 0], [4, 0], [0, 0]])


def test_bad_arguments_are_named():
    model, x = relu_only(), np.ones((2, 2, 2, 3), "float32")
    with pytest.raises(ValueError, match="`data` must hold labels from 0 to 1. Received: labels from 0 to 2"):
        class_specialization(model, (x, [0, 2]))
    with pytest.raises(ValueError, match="`data` must hold labels: tuples"):
        class_specialization(model, x)
    with pytest.raises(ValueError, match="`num_classes` must be the width of one-hot labels, 2"):
        class_specialization(model, (x, np.eye(2)), num_classes=3)
    with pytest.raises(ValueError, match=r"`dropped_share` must be a number in \[0, 1\)"):
        class_specialization(model, (x, [0, 1]), dropped_share=1.0)
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        class_specialization(keras.Sequential([kl.Input((2, 2, 3)), kl.ReLU()]), (x, [0, 1]))
    with pytest.raises(ValueError, match="`where` must be given, because no layer"):
        class_specialization(keras.Sequential([kl.Input((3,)), kl.Dense(2)]), (x, [0, 1]))
    with pytest.raises(ValueError, match="`model` must be built"):
        class_specialization(keras.Sequential([kl.ReLU()]), (x, [0, 1]))


def test_the_printed_table_is_readable():
    table = FeatureTable([row_of([0.2, 0.4]), FeatureRow("relu2", np.array([[3.0, 1.0]]), 0.25)])
    assert str(table).splitlines() == [
        "layer      channels    counted    mean specialization    highest    density",
        "-------  ----------  ---------  ---------------------  ---------  ---------",
        "relu              2          2                 0.3000     0.4000     1.0000",
        "relu2             1          1                 0.7500     0.7500     0.2500",
        "mean class specialization: 0.4500",
    ]


def test_analysis_of_variance_by_hand():
    dense = FeatureTable([row_of([0.2, 0.4]), row_of([0.6, 0.8])])
    sparse = FeatureTable([row_of([0.3, 0.5]), row_of([0.5, 0.7])])
    layer, network, both, residual = specialization_anova(dense, sparse)
    # Means: cells 0.3, 0.7 / 0.4, 0.6; layers 0.35, 0.65; networks 0.5, 0.5. The residual's mean square is 0.02.
    assert [row.sum_of_squares for row in (layer, network, both, residual)] == pytest.approx(
        [0.18, 0, 0.02, 0.08], abs=1e-12
    )
    assert [row.degrees for row in (layer, network, both, residual)] == [1, 1, 1, 4]
    assert [row.f for row in (layer, network, both)] == pytest.approx([9, 0, 1], abs=1e-9)
    assert layer.eta_squared == pytest.approx(0.18 / 0.28)
    assert layer.omega_squared == pytest.approx((0.18 - 0.02) / (0.28 + 0.02))
    assert math.isnan(residual.f)


def test_sums_of_squares_of_unequal_layers_add_up_in_their_order():
    rng = np.random.default_rng(0)
    groups = [[rng.uniform(0.2, 0.9, size) for size in sizes] for sizes in ((3, 7, 5), (4, 2, 9))]
    tables = [FeatureTable([row_of(values) for values in group]) for group in groups]
    anova = specialization_anova(*tables)
    values = np.concatenate(groups[0] + groups[1])
    total = np.square(values - values.mean()).sum()
    assert sum(row.sum_of_squares for row in anova) == pytest.approx(total)
    by_layer = [np.concatenate(pair) for pair in zip(*groups, strict=True)]
    between = sum(v.size * (v.mean() - values.mean()) ** 2 for v in by_layer)
    assert anova.rows[0].sum_of_squares == pytest.approx(between)
    within = sum(np.square(v - v.mean()).sum() for group in groups for v in group)
    assert anova.rows[3].sum_of_squares == pytest.approx(within)
    assert str(anova).splitlines()[4].startswith("layer x network")


def test_networks_that_cannot_be_compared_are_refused():
    one, two = FeatureTable([row_of([0.2, 0.4])]), FeatureTable([row_of([0.2, 0.4]), row_of([0.5])])
    with pytest.raises(ValueError, match="the same number of layers. Received: 1 and 2"):
        specialization_anova(one, two)
    with pytest.raises(ValueError, match="two layers or more"):
        specialization_anova(one, one)


def test_the_picture_has_the_sources_bins_back_to_back(tmp_path):
    pytest.importorskip("matplotlib")
    dense = FeatureTable([row_of([0.2, 0.2, 0.31]), row_of([0.5])])
    sparse = FeatureTable([row_of([0.2, 0.9]), row_of([0.4])])
    figure = plot_class_specialization(dense, sparse, path=tmp_path / "features.png")
    assert (tmp_path / "features.png").stat().st_size > 1000
    first = figure.axes[0]
    widths = np.array([bar.get_width() for bar in first.patches])
    assert len(widths) == 2 * 49
    assert widths[:49].sum() == -3
    assert widths[49:].sum() == 2
    assert widths[:49].min() == -2
    assert widths[-1] == 1  # 0.9 is above the last edge
    assert [text.get_text() for text in first.texts] == ["above: 0 | 1"]
    assert first.patches[0].get_height() == pytest.approx(0.7 * 0.42 / 49)
    assert first.get_title() == "relu"
    with pytest.raises(ValueError, match="`sparse` must be a `FeatureTable` with rows"):
        plot_class_specialization(dense, FeatureTable([]))
    with pytest.raises(ValueError, match="the same number of layers"):
        plot_class_specialization(dense, FeatureTable([row_of([0.3])]))


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = FeatureTable([row_of([0.3, 0.6]), FeatureRow("dead", np.zeros((3, 5)), 0.25)])
    table.save(tmp_path / "features.npz")
    loaded = FeatureTable.load(tmp_path / "features.npz")
    assert str(loaded) == str(table) and loaded.mean == table.mean
    for one, other in zip(table, loaded, strict=True):
        assert (one.name, one.density, one.dropped_share) == (other.name, other.density, other.dropped_share)
        np.testing.assert_array_equal(one.contributions, other.contributions)
    table.to_csv(tmp_path / "features.csv")
    lines = (tmp_path / "features.csv").read_text().splitlines()
    assert lines[0] == "layer,channels,counted,mean_specialization,highest,density"
    assert lines[1].startswith("relu,2,2,0.4") and lines[2] == "dead,3,0,,,0.25"
    FeatureTable([]).save(tmp_path / "features.npz")
    with pytest.raises(ValueError, match="`path` must end in .npz. Received: path='.*features'"):
        FeatureTable([]).save(tmp_path / "features")
    assert not (tmp_path / "features").exists()
    assert len(FeatureTable.load(tmp_path / "features.npz")) == 0


def test_a_table_without_a_dropped_share_is_read_again(tmp_path):
    table = FeatureTable([FeatureRow("relu", np.ones((2, 5)), 1, 0)])
    table.save(tmp_path / "features.npz")
    [row] = FeatureTable.load(tmp_path / "features.npz")
    assert row.density == 1 and row.dropped_share == 0


@pytest.mark.parametrize(
    "change",
    [
        {"names": np.array(["relu", "more"])},
        {"densities": np.zeros(2)},
        {"contributions_0": np.zeros(3)},
        {"contributions_0": np.array([["a"]])},
        {"dropped_shares": np.array([])},
        {"densities": np.array(["x"])},
        {"names": np.array(5.0)},
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, change):
    arrays = {"names": np.array(["relu"]), "densities": np.ones(1), "dropped_shares": np.zeros(1)}
    np.savez(tmp_path / "features.npz", **{**arrays, "contributions_0": np.ones((2, 5)), **change})
    with pytest.raises(ValueError, match="features.npz"):
        FeatureTable.load(tmp_path / "features.npz")
    (tmp_path / "features.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="features.npz is not a readable .npz file"):
        FeatureTable.load(tmp_path / "features.npz")
