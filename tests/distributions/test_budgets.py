"""Budgets survive files, find their tensors by name or order, and say what does not fit."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import inspection
from sparsity_tf.distributions import TensorSpec, allocate, budgets
from sparsity_tf.distributions.budgets import Budget
from sparsity_tf.masks import number_of_zeros, number_to_keep


def bottleneck_shapes():
    """Names and shapes of ResNet-50's 54 kernels, in the order of PyTorch and of the published files."""
    shapes, inputs = {"conv1": (7, 7, 3, 64)}, 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1"] = (1, 1, inputs, width)
            shapes[f"{name}.conv2"] = (3, 3, width, width)
            shapes[f"{name}.conv3"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{name}.downsample.0"] = (1, 1, inputs, 4 * width)
            inputs = 4 * width
    return {**shapes, "fc": (2048, 1000)}


SHAPES = bottleneck_shapes()
# Two of the sixteen columns of STR_Budgets_ResNet50.csv (arXiv 2002.03231, Apache-2.0), in percent.
STR_79_55 = (
    "51.46 69.36 77.85 74.81 70.95 80.27 81.36 84.45 78.23 76.01 84.47 73.74 82.56 84.7 85.1 85.42 76.95 84.76 84.3 "
    "84.28 82.19 83.37 82.83 82.93 76.63 87.35 81.22 89.75 85.88 85.06 84.34 87.51 87.15 84.86 86.62 86.52 84.19 85.85 "
    "85.96 83.45 83.33 84.98 79.78 77.83 86.18 78.43 88.49 82.07 83.42 78.08 76.34 73.57 68.78 50.65"
).split()
STR_90_23 = (
    "59.8 83.28 89.48 85.8 83.34 89.89 90.6 91.7 88.07 87.03 90.99 85.95 93.91 93.13 94.96 95.31 91.5 93.66 94.61 "
    "94.86 93.38 93.26 93.21 94.14 88.85 96.14 93.19 97.2 95.36 95.06 94.84 96.77 95.59 94.99 96.08 96.1 94.94 95.49 "
    "95.66 94.49 95.09 94.92 93.14 90.32 95.66 91.14 96.79 93.69 93.98 90.48 87.57 84.37 80.29 64.5"
).split()


@pytest.fixture
def str_file(tmp_path):
    """STR's budgets as published: byte order mark, two header lines, two totals, a last line for the pooling."""
    lines = ["Metric,Params,FLOPs,Sparsity (%),", "Overall,25502912,4089284608,79.55,90.23"]
    lines += ["Backbone,23454912,4087136256,82.07,92.47"]
    for index, (name, a, b) in enumerate(zip(SHAPES, STR_79_55, STR_90_23, strict=True), start=1):
        lines.append(f"Layer {index} - {name},{np.prod(SHAPES[name])},1,{a},{b}")
    lines.append("AP - adaptive average pool before fc,0,100352,0,0")
    path = tmp_path / "STR_Budgets_ResNet50.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    return path


@pytest.fixture
def methods_file(tmp_path):
    """STR's comparison of methods as published."""
    lines = ["Layer,STR,Uniform"] + [f"{i},{float(s):.2f}%,90.00%" for i, s in enumerate(STR_90_23, start=1)]
    path = tmp_path / "SparsityDistributions_90_ResNet50.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    return path


def keras_like(shapes=SHAPES):
    """The same net with other names."""
    return [TensorSpec(f"block_{index}/kernel", shape) for index, shape in enumerate(shapes.values())]


def small_model(names=("hidden", "logits"), units=(20, 3), technique="masked"):
    model = keras.Sequential(
        [keras.Input((8,))] + [keras.layers.Dense(n, name=m) for m, n in zip(names, units, strict=True)]
    )
    return sparsity_tf.sparsify(model, technique)


def cut(model, live):
    for weight, count in zip(sparsity_tf.get_sparse_weights(model), live, strict=True):
        weight.assign_mask(ops.reshape(ops.arange(weight.size) < count, weight.shape))
    return model


# Files.


def test_the_str_budget_gives_the_published_number_of_weights(str_file):
    for column, nonzeros, sparsity in (("79.55", 5_216_259, 0.7955), ("90.23", 2_492_045, 0.9023)):
        budget = budgets.read_csv(str_file, column)
        assert len(budget) == 54
        assert list(budget.sizes) == list(budget) == list(SHAPES)
        live = sum((1 - budget[name]) * budget.sizes[name] for name in budget)
        assert round(live) == nonzeros
        assert 1 - live / 25_502_912 == pytest.approx(sparsity, abs=1e-4)


def test_percents_are_the_fraction_that_is_written(str_file):
    budget = budgets.read_csv(str_file, 90.23)
    assert [str(100 * number_of_zeros(s, 10_000)) for s in budget.values()] == [
        str(round(10_000 * float(s))) for s in STR_90_23
    ]
    assert budget["conv1"] == 0.598
    assert budget["fc"] == 0.645


def test_the_comparison_of_methods_names_positions(methods_file, str_file):
    budget = budgets.read_csv(methods_file, "STR")
    assert list(budget) == [str(index) for index in range(1, 55)]
    assert budget.sizes is None
    assert list(budget.values()) == list(budgets.read_csv(str_file, "90.23").values())
    assert set(budgets.read_csv(methods_file, "Uniform").values()) == {0.9}


def test_rows_that_are_no_layers_are_left_out(tmp_path):
    rows = ["Overall,5,9,40", "Backbone,5,9,40", "Total,5,9,99", "Layer 1 - a,5,9,40", "AP - pool,0,1,0"]
    path = tmp_path / "str.csv"
    path.write_text("\n".join(["Metric,Params,FLOPs,Sparsity (%)", *rows, ""]))
    assert budgets.read_csv(path) == budgets.read_csv(path, 40) == {"a": 0.4}


@pytest.mark.parametrize("column", [None, "80", "Overall", 79.5])
def test_a_file_with_several_columns_needs_the_name_of_one(str_file, column):
    with pytest.raises(ValueError, match=r"`column` must be one of \['79.55', '90.23'\]"):
        budgets.read_csv(str_file, column)
    with pytest.raises(ValueError, match=r"`column` must be one of \['79.55', '90.23'\]"):
        allocate(keras_like(), None, str(str_file))


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "budget.csv"
    budget = Budget(
        {"a/kernel": 1 / 3, "b,c/kernel": 0.0, "d": 1.0, "e": 1e-7}, {"a/kernel": 3, "b,c/kernel": 2, "d": 1, "e": 9}
    )
    budgets.write_csv(path, budget)
    assert path.read_text().startswith("name,size,sparsity\n") or path.read_bytes().startswith(
        b"name,size,sparsity\r\n"
    )
    assert budgets.read_csv(path) == budget
    assert list(budgets.read_csv(path)) == list(budget)
    assert budgets.read_csv(path).sizes == budget.sizes
    budgets.write_csv(path, {"a": 0.5})
    assert budgets.read_csv(path, "sparsity") == {"a": 0.5}
    assert budgets.read_csv(path).sizes is None


def test_a_sparsity_table_is_a_budget(tmp_path):
    model = cut(small_model(units=(20, 30)), (9, 423))
    inspection.sparsity_table(model).to_csv(tmp_path / "table.csv")
    assert budgets.read_csv(tmp_path / "table.csv") == inspection.sparsity_budget(model)
    assert budgets.read_csv(tmp_path / "table.csv").sizes == inspection.sparsity_budget(model).sizes


def test_counts_of_a_table_decide_where_there_are_any(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,size,sparsity,nonzeros\nempty,4,1.0,0\nfull,4,0.0,4\nthird,3,0.3333,2\nunknown,9,0.25,\n")
    assert budgets.read_csv(path) == {"empty": 1.0, "full": 0.0, "third": 1 / 3, "unknown": 0.25}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,layer,weights\n1,conv1,9408\n", "columns `name` and `sparsity`.*'index'"),
        ("", "columns `name` and `sparsity`"),
        ("name,sparsity\na,0.5\na,0.6\n", "distinct names"),
        ("name,sparsity\na\n", "a number for each weight"),
        ("name,sparsity\na,1.5\n", "a number for each weight.*'a'"),
        ("name,sparsity\na,nan\n", "a number for each weight"),
        ("name,sparsity,size\na,0.5,many\n", "a number for each weight"),
        ("name,sparsity\n", "a number for each weight"),
        ("Metric,Params,FLOPs,Sparsity (%)\nOverall,1,1,50\nLayer 1 - a,1,1,\n", "a number for each weight"),
        ("Metric,Params,FLOPs,Sparsity (%)\nLayer 1 - a,1,1,50\n", "`column` must be one of \\[\\]"),
        ("Layer,STR\n1,x%\n", "a number for each weight"),
        ("Layer,STR\n1,1e999999999%\n", "a number for each weight.*'1e999999999%'"),
        ("Layer,STR\n1,1/0%\n", "a number for each weight.*'1/0%'"),
        ("name,sparsity,size,nonzeros\na,0.5,0,0\n", "a number for each weight.*size 0"),
        ("name,sparsity,size,nonzeros\na,0.5,4,5\n", "a number for each weight.*5 nonzeros"),
        ("name,sparsity,size\na,0.5,-3\n", r"a number for each weight.*`sizes\['a'\]` must be an integer"),
        (f"name,sparsity\n{'a' * 200_000},0.5\n", "a readable CSV file.*field larger than field limit"),
        (f"{','.join('abc' * 10_000)}\n", "columns `name` and `sparsity`.*and 29980 more"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        budgets.read_csv(path)


def test_a_file_that_is_no_utf_8_is_named(tmp_path):
    (tmp_path / "latin.csv").write_bytes("name,sparsity\nü,0.5\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv'.*utf-8"):
        budgets.read_csv(tmp_path / "latin.csv")


# Models.


@pytest.mark.parametrize("live", [(9, 1), (160, 60), (153, 47)])
def test_the_budget_of_a_model_counts_its_zeros_exactly(live):
    budget = inspection.sparsity_budget(cut(small_model(), live))
    assert list(budget.sizes.values()) == [160, 60]
    zeros = [number_of_zeros(s, size) for s, size in zip(budget.values(), budget.sizes.values(), strict=True)]
    assert zeros == [160 - live[0], 60 - live[1]]


def test_the_budget_of_a_learned_sparsity_is_transferred_to_masks():
    learned = small_model(technique="str")
    for weight in sparsity_tf.get_sparse_weights(learned):
        weight.variable.assign(np.linspace(-0.9, 1.0, weight.size).reshape(weight.shape))
        weight.extra_variable("raw_threshold").assign(0.0)
    model = small_model()
    targets = allocate(sparsity_tf.get_sparse_weights(model), None, inspection.sparsity_budget(learned))
    counts = [weight.size - weight.count() for weight in sparsity_tf.get_sparse_weights(learned)]
    assert [number_of_zeros(s, size) for s, size in zip(targets.values(), (160, 60), strict=True)] == counts
    assert 0 < counts[1] < 60


def test_zeros_of_plain_layers_are_not_in_the_budget():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros", name="plain")])
    model.add(keras.layers.Dense(2, name="logits"))
    sparsity_tf.sparsify(model, "masked", where="logits")
    assert list(inspection.sparsity_budget(model).values()) == [0.0]


def test_a_layer_without_live_weights_has_sparsity_one():
    assert list(inspection.sparsity_budget(cut(small_model(), (0, 60))).values()) == [1.0, 0.0]


def test_a_model_without_sparse_weights_is_refused():
    with pytest.raises(ValueError, match="`model` must have sparse weights.*'plain'"):
        inspection.sparsity_budget(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="plain"))


# Whose number is whose.


def test_entries_are_matched_by_path_layer_path_or_layer_name():
    tensors = [TensorSpec("net/a/kernel", (2, 3)), TensorSpec("net/b/kernel", (4, 5)), TensorSpec("net/c/kernel", (6,))]
    budget = Budget({"c": 0.1, "net/b": 0.2, "net/a/kernel": 0.3})
    assert budget.match(tensors) == {"net/a/kernel": 0.3, "net/b/kernel": 0.2, "net/c/kernel": 0.1}
    assert budget(tensors, 0.9) == allocate_values(tensors, budget) == [0.3, 0.2, 0.1]


def allocate_values(tensors, budget, **options):
    return list(allocate(tensors, None, budget, **options).values())


def test_names_are_never_regular_expressions():
    with pytest.raises(ValueError, match="`tensors` must fit"):
        Budget({"a.*": 0.5}).match([TensorSpec("a1/kernel", (2, 3))])


def test_a_pytorch_budget_is_matched_by_order(str_file):
    budget = budgets.read_csv(str_file, "90.23")
    assert budget(keras_like()) == list(budget.values())
    torch_names = [TensorSpec(f"{name}/kernel", shape) for name, shape in reversed(SHAPES.items())]
    assert budget(torch_names) == list(budget.values())[::-1]


def test_dense_overrides_a_budget(str_file):
    budget = budgets.read_csv(str_file, "90.23")
    values = allocate_values(keras_like(), budget, dense="first")
    assert values == [0.0, *list(budget.values())[1:]]


def test_another_order_of_layers_is_refused(str_file):
    tensors = keras_like()
    tensors[1], tensors[4] = tensors[4], tensors[1]
    with pytest.raises(ValueError, match="'layer1.0.conv1' has 4096 entries and 'block_4/kernel' has 16384"):
        budgets.read_csv(str_file, "90.23")(tensors)
    with pytest.raises(ValueError, match="54 entries for 53 tensors"):
        budgets.read_csv(str_file, "90.23")(tensors[:-1])


def test_positions_are_matched_by_their_number(methods_file):
    budget = budgets.read_csv(methods_file, "STR")
    assert budget(keras_like()) == list(budget.values())
    with pytest.raises(ValueError, match="54 entries for 2 tensors"):
        budget(keras_like()[:2])


def test_names_without_sizes_are_not_matched_by_order():
    with pytest.raises(ValueError, match="no sizes to compare with the tensors"):
        Budget({"conv1": 0.5, "fc": 0.9}).match([TensorSpec("a/kernel", (2, 3)), TensorSpec("b/kernel", (2, 3))])


def test_automatic_names_of_another_model_do_not_mislead():
    first = Budget({"dense": 0.1, "dense_1": 0.2, "dense_2": 0.3}, {"dense": 12, "dense_1": 20, "dense_2": 6})
    second = [
        TensorSpec("dense_1/kernel", (3, 4)),
        TensorSpec("dense_2/kernel", (4, 5)),
        TensorSpec("dense_3/kernel", (6,)),
    ]
    assert first(second) == [0.1, 0.2, 0.3]
    alike = Budget({"dense": 0.1, "dense_1": 0.2}, {"dense": 9, "dense_1": 9})
    with pytest.raises(ValueError, match="no tensor for .'dense'.*'dense_1/kernel' is in the place of 'dense'"):
        alike([TensorSpec("dense_1/kernel", (3, 3)), TensorSpec("dense_2/kernel", (3, 3))])


def test_a_budget_that_does_not_fit_says_which_names_are_left_over_on_either_side():
    tensors = [TensorSpec(f"{name}/kernel", (2, 3)) for name in ("a", "x", "b")]
    with pytest.raises(ValueError, match=r"no tensor for \['c', 'd'\] and no entry for \['x/kernel'\]; by order"):
        Budget({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})(tensors)


def test_a_named_tensor_of_another_size_is_refused():
    with pytest.raises(ValueError, match="'a' has 5 entries and 'a/kernel' has 6"):
        Budget({"a": 0.5}, {"a": 5}).match([TensorSpec("a/kernel", (2, 3))])


@pytest.mark.parametrize("tensors", [[], None])
def test_no_tensors_are_refused(tensors):
    with pytest.raises(ValueError, match="`tensors`"):
        Budget({"a": 0.5})(tensors)


@pytest.mark.parametrize(
    ("sparsities", "sizes", "message"),
    [
        ({}, None, "`sparsities` must be a dict"),
        ({1: 0.5}, None, "`sparsities` must be a dict"),
        ({"a": 1.1}, None, r"`sparsities\['a'\]` must be a number in \[0, 1\]"),
        ({"a": float("nan")}, None, r"`sparsities\['a'\]`"),
        ({"a": 0.5}, {"b": 3}, "`sizes`"),
        ({"a": 0.5}, {"a": 0}, r"`sizes\['a'\]` must be an integer of at least 1"),
        ({"a": 0.5}, {"a": -3}, r"`sizes\['a'\]` must be an integer of at least 1"),
    ],
)
def test_bad_budgets_are_refused(sparsities, sizes, message):
    with pytest.raises(ValueError, match=message):
        Budget(sparsities, sizes)


def test_a_path_of_a_file_is_a_distribution(tmp_path):
    budgets.write_csv(tmp_path / "budget.csv", {"hidden": 0.5, "logits": 0.25})
    weights = sparsity_tf.get_sparse_weights(small_model())
    assert allocate_values(weights, str(tmp_path / "budget.csv")) == [0.5, 0.25]
    assert allocate_values(weights, tmp_path / "budget.csv", dense="last") == [0.5, 0.0]
    assert repr(Budget({"a": 0.5})) == "Budget({'a': 0.5}, sizes=None)"


# STR's layout, as written.


def test_a_budget_in_the_layout_of_str_line_by_line(tmp_path):
    path = tmp_path / "str.csv"
    budget = Budget({"conv1": 0.25, "conv2": 0.5, "fc": 2 / 3}, {"conv1": 8, "conv2": 10, "fc": 6})
    budgets.write_str_csv(path, budget, {"conv1": 800, "conv2": 1000, "fc": 6}, {"pool1": 30, "pool2": 5})
    assert path.read_text().splitlines() == [
        "Metric,Params,FLOPs,Sparsity (%)",
        "Overall,24,1841,45.83",  # 2 + 5 + 4 zeros
        "Backbone,18,1835,38.89",
        "Layer 1 - conv1,8,800,25.00",
        "Layer 2 - conv2,10,1000,50.00",
        "Layer 3 - fc,6,6,66.6666666666667",
        "AP - pool1,0,30,0",
        "AP - pool2,0,5,0",
    ]


def test_one_layer_has_no_backbone_and_unknown_costs_stay_empty(tmp_path):
    path = tmp_path / "str.csv"
    budgets.write_str_csv(path, Budget({"fc": 0.5}, {"fc": 6}))
    assert path.read_text().splitlines()[1:] == ["Overall,6,,50.00", "Layer 1 - fc,6,,50.00"]
    assert budgets.read_csv(path).sizes == {"fc": 6}


@pytest.mark.parametrize(
    "zeros,size,percent",
    [
        (1, 3, "33.3333333333333"),
        (1, 8, "12.50"),
        (1, 7, "14.2857142857143"),
        (7, 7, "100.00"),
        (9_999, 10**5, "9.999"),
    ],
)
def test_a_percent_has_two_decimals_or_as_many_as_both_roundings_need(tmp_path, zeros, size, percent):
    path = tmp_path / "str.csv"
    budgets.write_str_csv(path, Budget({"a": zeros / size}, {"a": size}))
    assert path.read_text().splitlines()[-1] == f"Layer 1 - a,{size},,{percent}"
    read = budgets.read_csv(path)["a"]
    assert number_of_zeros(read, size) == zeros == size - number_to_keep(read, size)


def test_costs_that_do_not_fit_the_budget_are_refused(tmp_path):
    path, budget = tmp_path / "str.csv", Budget({"conv": 0.5, "fc": 0.5}, {"conv": 8, "fc": 6})
    costs = {"conv": 80, "fc": 6}
    for arguments, message in (
        (({**costs, "fc": "many"},), r"`flops\['fc'\]` must be a finite number"),
        (({"conv": 80},), r"`flops` must have the names of the budget. Received none for \['fc'\]"),
        (([80, 6],), "`flops` must be of type"),
        ((costs, {"pool": None}), r"`pooling\['pool'\]` must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            budgets.write_str_csv(path, budget, *arguments)
    for wrong in (Budget({"conv": 0.5}), {"conv": 0.5}):
        with pytest.raises(ValueError, match="`budget` must be a `Budget` with sizes"):
            budgets.write_str_csv(path, wrong)
    assert not path.exists()
