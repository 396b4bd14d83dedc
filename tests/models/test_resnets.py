"""ResNets equal the published tables: layers, weights, operations, and the budgets of STR, RigL and DSR."""

import math

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import models
from tests.models.zoo import (
    bits,
    built,
    check_network,
    check_padding,
    dense_operations,
    erdos_renyi_kernel,
    kernels,
    percent,
    read_csv,
    sparse_totals,
    trainable_count,
    weight_count,
)

POOLING = 2048 * 7 * 7


def resnet_50():
    return built("resnet_50", variant="str")


def sizes():
    return [math.prod(shape) for shape in kernels(resnet_50()).values()]


def floored(size, sparsity):
    return math.floor(sparsity * size)


# (weights of all kernels, number of kernels, with BN and classifier bias): torchvision's and State of Sparsity's nets.
COUNTS = {
    18: (11_678_912, 21, 11_689_512),
    34: (21_779_648, 37, 21_797_672),
    50: (25_502_912, 54, 25_557_032),
    101: (44_442_816, 105, 44_549_160),
    152: (60_040_384, 156, 60_192_808),
    200: (64_496_832, 204, 64_673_832),
}


@pytest.mark.parametrize("depth", [pytest.param(n, marks=[pytest.mark.slow] if n > 50 else []) for n in COUNTS])
def test_weights_and_parameters_of_every_depth(depth):
    model = built(f"resnet_{depth}", variant="dsr")
    assert (weight_count(model), len(kernels(model)), trainable_count(model)) == COUNTS[depth]
    assert model.name == f"resnet_{depth}"


def test_state_of_sparsity_counts():
    model = built("resnet_50")
    shapes = kernels(model)
    assert shapes["stem"] == (7, 7, 3, 64) and shapes["classifier"] == (2048, 1000)
    assert sum(math.prod(s) for n, s in shapes.items() if n not in ("stem", "classifier")) == 23_445_504
    assert (weight_count(model), trainable_count(model)) == (25_502_912, 25_557_032)
    assert sum(math.prod(v.shape) for v in model.trainable_variables if v.name in ("gamma", "beta")) == 53_120
    assert round(100 * weight_count(model) / trainable_count(model), 3) == 99.788


def test_state_of_sparsity_projects_in_the_first_stage_of_basic_blocks_too():
    shapes = kernels(built("resnet_18"))
    assert shapes["stage1_block1_projection"] == (1, 1, 64, 64)
    assert sum(math.prod(shape) for shape in shapes.values()) == 11_678_912 + 4_096
    assert "stage1_block1_projection" not in kernels(built("resnet_18", variant="str"))


@pytest.mark.parametrize(
    ("depth", "weights", "with_norm", "macs"),
    [(18, 11_678_912, 11_688_512, 1_814_073_344), (50, 25_502_912, 25_556_032, 4_089_184_256)],
)
def test_str_layers_in_order(depth, weights, with_norm, macs):
    model = built(f"resnet_{depth}", variant="str")
    header, *rows = read_csv(f"layers_resnet{depth}.csv")
    operations = dict(dense_operations(model))
    pooling = operations.pop("global_pool")
    assert len(rows) == len(kernels(model))
    for row, (name, shape), (counted, cost) in zip(rows, kernels(model).items(), operations.items(), strict=True):
        row = dict(zip(header, row, strict=True))
        size, filters, channels = (int(row[column]) for column in ("kernel", "out", "in"))
        assert shape == (size, size, channels, filters), name
        assert (counted, cost) == (name, int(row["macs_224"]))
        assert model.get_layer(name).strides == (int(row["stride"]),) * 2
        assert model.get_layer(name).output.shape[1:] == (int(row["out_hw"]),) * 2 + (filters,)
        # stage2_block1_conv3 is layer2.0.conv3.
        stage, _, place = row["layer"].partition(".")
        if place:
            block, _, conv = place.partition(".")
            conv = conv.replace("downsample.0", "projection")
            assert name == f"stage{stage[-1]}_block{int(block) + 1}_{conv}"
    assert (weight_count(model), trainable_count(model)) == (weights, with_norm)
    assert sum(operations.values()) == macs
    assert pooling == {18: 25_088, 50: 100_352}[depth]


def test_str_budget_file_has_our_weights_and_operations():
    table = read_csv("STR_Budgets_ResNet50.csv")
    rows = [row for row in table if row[0].startswith("Layer ")]
    operations = dense_operations(resnet_50())
    assert [(int(row[1]), int(row[2])) for row in rows] == [
        (size, operations[name]) for size, name in zip(sizes(), kernels(resnet_50()), strict=True)
    ]
    assert int(table[-1][2]) == operations["global_pool"] == POOLING
    overall = next(row for row in table if row[0] == "Overall")
    assert (int(overall[1]), int(overall[2])) == (weight_count(resnet_50()), sum(operations.values()))
    backbone = next(row for row in table if row[0] == "Backbone")
    assert int(backbone[1]) == weight_count(resnet_50()) - 2_048_000
    assert int(backbone[2]) == sum(operations.values()) - 2_048_000 - POOLING


def published():
    """{method: (non-zero weights, sparsity in %, multiply-accumulates, % of dense)}."""
    return {row[0]: row[1:] for row in read_csv("methods_table.csv")[1:]}


def budgets():
    """{method: sparsities of the 54 layers}: 16 of STR, and the six columns of the 90 % file."""
    table = read_csv("STR_Budgets_ResNet50.csv")
    rows = [row for row in table if row[0].startswith("Layer ")]
    names = next(row for row in table if row[0] == "Overall")[3:]
    found = {f"STR {name}": [percent(row[i + 3]) for row in rows] for i, name in enumerate(names)}
    header, *rows = read_csv("SparsityDistributions_90_ResNet50.csv")
    for i, name in enumerate(header[1:], start=1):
        found[f"{name} (90% file)"] = [percent(row[i]) for row in rows]
    return found


def test_all_22_budgets_are_there():
    assert len(budgets()) == 22 and budgets().keys() == published().keys()


@pytest.mark.parametrize("method", published())
def test_sparse_parameters_and_operations_of_a_published_budget(method):
    weights, sparsity, macs, ratio = published()[method]
    nonzeros, operations = sparse_totals(resnet_50(), budgets()[method])
    assert round(nonzeros) == int(weights)
    assert round(operations) == int(macs)
    assert f"{float(100 - 100 * nonzeros / 25_502_912):.3f}" == sparsity
    assert f"{float(100 * operations / (4_089_184_256 + POOLING)):.3f}" == ratio


@pytest.mark.parametrize("column", range(16))
def test_overall_and_backbone_sparsity_of_the_budget_file(column):
    table = {row[0]: row[3:] for row in read_csv("STR_Budgets_ResNet50.csv")}
    sparsities = list(budgets().values())[column]
    nonzeros = [size * (1 - sparsity) for size, sparsity in zip(sizes(), sparsities, strict=True)]
    overall = 100 - 100 * sum(nonzeros) / sum(sizes())
    backbone = 100 - 100 * sum(nonzeros[:-1]) / sum(sizes()[:-1])
    # The file gives hundredths of a percent.
    assert abs(overall - percent(table["Overall"][column]) * 100) <= 0.01
    assert abs(backbone - percent(table["Backbone"][column]) * 100) <= 0.01


@pytest.mark.parametrize(
    ("sparsity", "nonzeros", "millions"),
    [
        (0.8, 5_100_607, 817.96),
        (0.9, 2_550_318, 409.05),
        (0.95, 1_275_174, 204.60),
        (0.98, 510_079, 81.92),
        (0.99, 255_052, 41.02),
    ],
)
def test_uniform_budgets(sparsity, nonzeros, millions):
    exact = [math.floor(sparsity * size) / size for size in sizes()]
    weights, operations = sparse_totals(resnet_50(), exact)
    assert round(weights) == nonzeros
    assert round(operations / 1e6, 2) == millions


@pytest.mark.parametrize(("sparsity", "millions"), [(0.8, 912.37), (0.9, 515.26), (0.95, 316.70)])
def test_uniform_budgets_with_a_dense_stem(sparsity, millions):
    exact = [0, *(math.floor(sparsity * size) / size for size in sizes()[1:])]
    assert round(sparse_totals(resnet_50(), exact)[1] / 1e6, 2) == millions


def test_erdos_renyi_kernel_at_90_percent_is_the_column_of_the_file():
    shapes = list(kernels(resnet_50()).values())
    sparsities = erdos_renyi_kernel(shapes, 0.9)
    assert [i for i, s in enumerate(sparsities) if s == 0] == [1]
    epsilon = (1 - sparsities[0]) * 9408 / sum(shapes[0])
    assert round(epsilon, 4) == 48.7842
    column = budgets()["ERK (90% file)"]
    assert max(abs(100 * s - 100 * float(c)) for s, c in zip(sparsities, column, strict=True)) <= 0.51
    assert round(sparse_totals(resnet_50(), sparsities)[1] / 1e6, 2) == 988.98


@pytest.mark.parametrize(("end_sparsity", "total"), [(0.8, 0.79970), (0.91, 0.90083), (0.96, 0.94680), (0.98, 0.96518)])
def test_state_of_sparsity_extended_recipe(end_sparsity, total):
    # First layer dense, last at 80 %.
    sparsities = [0, *[end_sparsity] * 52, 0.8]
    zeros = sum(s * n for s, n in zip(sparsities, sizes(), strict=True))
    assert round(zeros / sum(sizes()), 5) == total


def rigl_operations(sparsities=None):
    """Operations in RigL's count of ResNet-50, which sees the stem's padded map of 230 under "same" padding."""
    model = resnet_50()
    rows = dict(dense_operations(model, "rigl"))
    padded = keras.Input((230, 230, 3))
    stem = keras.Model(padded, keras.layers.Conv2D(64, 7, 2, "same", use_bias=False, name="stem")(padded))
    rows["stem"] = dense_operations(stem, "rigl")["stem"]
    if sparsities is None:
        return sum(rows.values())
    total = 0
    for (name, shape), sparsity in zip(kernels(model).items(), sparsities, strict=True):
        outputs = rows[name] / (2 * math.prod(shape[:-1]) + 1)  # 2 V + 1 for each: bias and ReLU are always charged.
        total += rows[name] - sparsity * (rows[name] - outputs)
    return total


def rigl_megabytes(sparsities):
    shapes = kernels(resnet_50()).values()
    return sum(bits(math.prod(s), q, s[-1]) for s, q in zip(shapes, sparsities, strict=True)) / 8e6


def test_rigl_counts_of_the_dense_net():
    assert round(rigl_operations() / 1e9, 4) == 8.2023
    assert round(rigl_megabytes([0] * 54), 3) == 102.122


@pytest.mark.parametrize(
    ("sparsity", "ratio", "megabytes"), [(0.8, 0.4153, 23.684), (0.9, 0.2431, 13.499), (0.95, 0.1230, 8.399)]
)
def test_rigl_counts_under_erdos_renyi_kernel(sparsity, ratio, megabytes):
    shapes = [*kernels(resnet_50()).values()][:-1] + [(2048, 1000)]
    sparsities = erdos_renyi_kernel(shapes, sparsity, zeros=floored)
    assert round(rigl_operations(sparsities) / rigl_operations(), 4) == ratio
    assert round(rigl_megabytes(sparsities), 3) == megabytes


@pytest.mark.parametrize(
    ("sparsity", "ratio", "megabytes"),
    [(0.8, 0.2254, 23.729), (0.9, 0.1285, 13.532), (0.95, 0.0801, 8.433), (0.965, 0.0656, 6.904)],
)
def test_rigl_counts_under_uniform_sparsity_with_a_dense_stem(sparsity, ratio, megabytes):
    sparsities = [0, *[sparsity] * 53]
    assert round(rigl_operations(sparsities) / rigl_operations(), 4) == ratio
    assert round(rigl_megabytes(sparsities), 3) == megabytes


@pytest.mark.parametrize(("width", "sparsity"), [(0.465, 0.8), (0.34, 0.9), (0.26, 0.95)])
def test_rigl_thin_nets_have_about_the_size_of_the_sparse_ones(width, sparsity):
    sparsities = erdos_renyi_kernel(list(kernels(resnet_50()).values()), sparsity)
    thin = kernels(built("resnet_50", width=width)).values()
    megabytes = sum(bits(math.prod(shape), 0, shape[-1]) for shape in thin) / 8e6
    assert megabytes == pytest.approx(rigl_megabytes(sparsities), rel=0.02)


def test_dsr_makes_the_bottlenecks_and_the_classifier_sparse():
    model = models.resnet_50(variant="dsr", kernel_initializer="zeros", technique="masked", where=models.DSR_RESNET)
    weights = sparsity_tf.get_sparse_weights(model)
    sparse = sum(weight.size for weight in weights)
    total = trainable_count(model)
    assert (sparse, total - sparse, total) == (22_724_608, 2_832_424, 25_557_032)
    # Active weights at the start: truncated in every tensor, plus a tenth against rounding below.
    for sparsity, learnable in ((0.8, 7_377_320), (0.9, 5_104_861)):
        active = sum(int((1 - sparsity) * weight.size + 0.1) for weight in weights)
        assert total - sparse + active == learnable


@pytest.mark.parametrize(("width", "parameters"), [(0.54, 8_167_095), (0.46, 5_771_217)])
def test_dsr_thin_nets(width, parameters):
    assert trainable_count(built("resnet_50", variant="dsr", width=width)) == parameters


@pytest.mark.parametrize("variant", ["state_of_sparsity", "str", "dsr"])
def test_a_small_net_runs_and_can_be_masked(variant):
    check_network(models.resnet_50(input_shape=(64, 64, 3), num_classes=7, width=0.25, variant=variant))


@pytest.mark.parametrize(
    ("layer", "strides", "padding"),
    [
        ("stem", 2, 3),
        ("stage2_block1_conv1", 2, 1),
        ("stage2_block1_projection", 2, 0),
        ("stage1_block2_conv2", 1, 1),
    ],
)
def test_convolutions_pad_symmetrically(layer, strides, padding):
    check_padding(models.resnet_18(input_shape=(32, 32, 3), width=0.25, variant="str"), layer, strides, padding)


@pytest.mark.parametrize(("variant", "before"), [("str", 1), ("dsr", 1), ("state_of_sparsity", 0)])
def test_max_pooling_pads_as_the_source(variant, before):
    model = models.resnet_18(input_shape=(32, 32, 3), width=0.125, variant=variant)
    pooling = keras.Model(model.get_layer("stem_relu").output, model.get_layer("stem_pool").output)
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 8)).astype("float32")
    padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)), constant_values=-np.inf)
    windows = [padded[:, i : i + 15 : 2, j : j + 15 : 2] for i in range(3) for j in range(3)]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(pooling(x)), np.max(windows, axis=0))


def test_last_gamma_of_a_block_starts_at_zero_where_asked():
    def gammas(**options):
        model = models.resnet_18(input_shape=(32, 32, 3), width=0.125, **options)
        return [float(model.get_layer(f"stage1_block1_conv{i}_bn").gamma[0]) for i in (1, 2)]

    assert gammas() == [1, 0]
    assert gammas(variant="str") == gammas(zero_gamma=False) == [1, 1]
    assert gammas(variant="str", zero_gamma=True) == [1, 0]


def test_classifier_of_either_kind():
    model = models.resnet_18(input_shape=(32, 32, 3), width=0.25, variant="str", classifier="dense")
    assert kernels(model)["classifier"] == (128, 1000) and model.get_layer("classifier").use_bias
    model = models.resnet_18(input_shape=(32, 32, 3), width=0.25, classifier="conv")
    assert kernels(model)["classifier"] == (1, 1, 128, 1000) and not model.get_layer("classifier").use_bias
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize(
    ("variant", "stem", "classifier"),
    [
        ("state_of_sparsity", math.sqrt(1 / 147), 0.01),
        ("str", math.sqrt(2 / 147), math.sqrt(2 / 512)),
        ("dsr", math.sqrt(2 / (49 * 64)), math.sqrt(1 / (3 * 512))),
    ],
)
def test_kernels_start_as_in_the_source(variant, stem, classifier):
    model = models.resnet_18(input_shape=(32, 32, 3), variant=variant)
    for name, expected in (("stem", stem), ("classifier", classifier)):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        assert kernel.std() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "arguments", [{"depth": 20}, {"variant": "v2"}, {"classifier": "fc"}, {"width": 0}, {"width": -1.0}]
)
def test_bad_arguments_are_named(arguments):
    [argument] = arguments
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        models.resnet(**{"depth": 18, **arguments})
