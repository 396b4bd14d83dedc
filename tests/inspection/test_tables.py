import csv
import json
import math

import keras
import numpy as np
import pytest
from keras import layers as kl

from sparsity_tf import sparsify
from sparsity_tf.inspection import sparsity_table
from sparsity_tf.layers import MaskedConv2D, MaskedDense, STRDense, VDDense, get_sparse_weights


def masked_model():
    """Masked layers with 6 of 20 and 10 of 40 weights live, a plain head with 8 of 20 non-zero."""
    inputs = kl.Input((5,))
    x = kl.BatchNormalization()(MaskedDense(4, name="first")(inputs))
    x = MaskedDense(10, name="second")(x)
    model = keras.Model(inputs, kl.Dense(2, name="head")(x))
    for name, count in (("first", 6), ("second", 10)):
        weight = model.get_layer(name).sparse_weights[0]
        weight.variable.assign(np.ones(weight.shape))
        weight.assign_mask(first(weight.shape, count))
    head = model.get_layer("head").kernel
    head.assign(first(head.shape, 8).astype("float32"))
    return model


def first(shape, count):
    mask = np.zeros(math.prod(shape), bool)
    mask[:count] = True
    return mask.reshape(shape)


def test_every_sparse_weight_has_a_row_and_the_totals_are_exact():
    table = sparsity_table(masked_model())
    assert [(r.name, r.shape, r.size, r.nonzeros) for r in table.rows] == [
        ("first/kernel", (5, 4), 20, 6),
        ("second/kernel", (4, 10), 40, 10),
    ]
    assert [r.sparsity for r in table] == [0.7, 0.75]
    assert (len(table), table.size, table.nonzeros) == (2, 60, 16)
    assert table.sparsity == 1 - 16 / 60
    assert table.compression == 60 / 16
    assert table.finite


def test_include_dense_adds_the_kernels_of_plain_layers():
    table = sparsity_table(masked_model(), include_dense=True)
    assert [r.name for r in table] == ["first/kernel", "second/kernel", "head/kernel"]
    assert [r.sparse for r in table] == [True, True, False]
    assert table.rows[2].sparsity == 0.6
    assert (table.size, table.nonzeros) == (80, 24)


def test_a_plain_model_has_rows_for_kernels_but_not_for_biases_or_scales():
    tokens = kl.Input((6,), dtype="int32")
    x = kl.Embedding(11, 8, name="tokens")(tokens)
    x = kl.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = kl.LayerNormalization(axis=[1, 2])(x)
    x = kl.LSTM(3, name="lstm")(x)
    model = keras.Model(tokens, x)
    model.get_layer("tokens").embeddings.assign(np.eye(11, 8))
    table = sparsity_table(model)
    assert [r.name for r in table] == [
        "tokens/embeddings",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
    ]
    assert table.rows[0].nonzeros == 8


def test_shared_and_nested_layers_count_once():
    shared = MaskedDense(4, name="shared")
    inner_inputs = kl.Input((4,))
    inner = keras.Model(inner_inputs, shared(inner_inputs), name="inner")

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.again, self.listed = inner, shared, [MaskedDense(3)]

        def call(self, x):
            return self.listed[0](self.again(self.inner(x)))

    model = Outer()
    model(np.zeros((1, 4)))
    assert [r.size for r in sparsity_table(model)] == [16, 12]


def test_one_layer_is_enough():
    layer = MaskedDense(3)
    layer.build((None, 2))
    assert sparsity_table(layer).size == 6


def test_an_empty_network_has_infinite_compression():
    model = masked_model()
    for name in ("first", "second"):
        weight = model.get_layer(name).sparse_weights[0]
        weight.assign_mask(np.zeros(weight.shape, bool))
    table = sparsity_table(model)
    assert (table.sparsity, table.compression) == (1.0, math.inf)
    assert "no weight is left" in str(table)


def test_a_model_without_kernels_is_not_an_error():
    table = sparsity_table(keras.Sequential([kl.Input((3,)), kl.ReLU()]))
    assert (table.size, table.sparsity, table.compression) == (0, 0.0, 1.0)
    assert "no kernels" in str(table)


def variational_and_soft_threshold_model():
    soft = STRDense(2, threshold_initializer=-2.0, name="str")
    model = keras.Sequential([kl.Input((4,)), VDDense(3, name="vd"), soft])
    vd = model.layers[0]
    vd.kernel.assign(np.ones((4, 3)))
    # log alpha = log_sigma2 - log theta^2 = log_sigma2 here: rows 0 and 1 are above the threshold
    # of 3.
    vd.log_sigma2.assign(np.array([[4.0], [3.5], [-1.0], [-8.0]]) * np.ones((4, 3)))
    soft.kernel.assign(np.array([[1.0, 0.01], [0.02, -1.0], [1.0, 1.0]]))
    return model


def test_rows_show_the_thresholds_of_techniques_that_have_them():
    table = sparsity_table(variational_and_soft_threshold_model())
    vd, soft = table.rows
    assert (vd.nonzeros, vd.threshold) == (6, 3.0)
    assert soft.nonzeros == 4
    assert soft.threshold == pytest.approx(1 / (1 + math.exp(2)))
    assert str(table).splitlines()[0].split()[-1] == "threshold"


def test_several_thresholds_are_shown_as_their_range(tmp_path):
    model = keras.Sequential([kl.Input((4,)), STRDense(2, granularity="filter", name="str")])
    variable = model.layers[0].raw_threshold
    variable.assign(np.array([-2.0, 0.0]).reshape(variable.shape))
    table = sparsity_table(model)
    assert table.rows[0].threshold == (pytest.approx(1 / (1 + math.exp(2))), 0.5)
    assert "0.1192..0.5" in str(table)
    table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().strip().endswith("..0.5")


@pytest.mark.parametrize("layer, variable", [(0, "kernel"), (0, "log_sigma2"), (1, "raw_threshold")])
def test_a_diverged_layer_is_never_called_sparse(layer, variable):
    model = variational_and_soft_threshold_model()
    weight = getattr(model.layers[layer], variable)
    weight.assign(np.full(weight.shape, np.nan))
    table = sparsity_table(model)
    assert [r.finite for r in table] == [layer == 1, layer == 0]
    assert not table.finite
    assert math.isnan(table.rows[layer].sparsity)
    assert math.isnan(table.sparsity)
    assert math.isnan(table.compression)
    for text in (str(table), table.summary_table(), table.stats_table()):
        assert "non-finite weights" in text
    assert "100" not in str(table)


def test_an_infinite_kernel_is_not_finite_either():
    model = masked_model()
    model.get_layer("first").kernel.assign(np.full((5, 4), np.inf))
    assert not sparsity_table(model).finite


def test_half_precision_weights_are_counted():
    layer = MaskedDense(3, dtype="bfloat16")
    layer.build((None, 2))
    layer.kernel.assign(np.ones((2, 3)))
    layer.sparse_weights[0].assign_mask(first((2, 3), 4))
    table = sparsity_table(layer)
    assert (table.nonzeros, table.finite) == (4, True)


def test_the_printed_table_is_readable():
    assert str(sparsity_table(masked_model())).splitlines() == [
        "weight         shape      size    non-zeros    sparsity",
        "-------------  -------  ------  -----------  ----------",
        "first/kernel   5 x 4        20            6     70.00 %",
        "second/kernel  4 x 10       40           10     75.00 %",
        "total                       60           16     73.33 %",
        "compression (all weights / non-zeros): 3.75x",
    ]


def test_a_few_survivors_do_not_print_as_none():
    layer = kl.Dense(1000)
    layer.build((None, 1000))
    layer.kernel.assign(first((1000, 1000), 3).astype("float32"))
    assert "> 99.99 %" in str(sparsity_table(layer))
    layer.kernel.assign(1.0 - first((1000, 1000), 3))
    assert "< 0.01 %" in str(sparsity_table(layer))


def test_csv_and_dict_hold_the_exact_values(tmp_path):
    table = sparsity_table(masked_model())
    table.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "shape", "size", "nonzeros", "sparsity", "threshold"]
    assert rows[0]["shape"] == "5x4"
    assert [float(r["sparsity"]) for r in rows] == [0.7, 0.75]
    values = json.loads(json.dumps(table.to_dict()))
    assert values["total"]["nonzeros"] == 16
    assert values["rows"][1]["shape"] == [4, 10]


def test_the_summary_table_has_the_columns_and_the_sparsity_of_dst():
    table = sparsity_table(masked_model())
    # Trainable: 20 + 4, batch normalisation 4 + 4, 40 + 10, 20 + 2 -> 104.
    header, _, values = table.summary_table(free_parameters=False).splitlines()
    assert [h.strip() for h in header.split("  ") if h.strip()] == [
        "# total parameters",
        "# sparse parameters",
        "# dense parameters",
        "# nonzero parameters in sparse",
        "sparsity",
    ]
    assert values.split() == ["104", "60", "44", "16", "0.4231"]
    header, _, values = table.summary_table().splitlines()
    assert "# free parameters    sparsity" in header
    assert values.split() == ["104", "60", "44", "16", "60", "0.4231"]


def test_the_stats_table_has_the_columns_of_dst():
    header, _, *lines = sparsity_table(masked_model()).stats_table().splitlines()
    assert [h.strip() for h in header.split("  ") if h.strip()] == [
        "Parameter tensor",
        "# total",
        "# nonzero",
        "sparsity",
    ]
    assert [line.split() for line in lines] == [
        ["first/kernel", "20", "6", "0.7000"],
        ["second/kernel", "40", "10", "0.7500"],
    ]


def test_frozen_layers_stay_in_the_summary():
    model = masked_model()
    model.trainable = False
    assert sparsity_table(model).summary_table().splitlines()[-1].split()[:3] == ["60", "60", "0"]


def test_depth_does_not_matter_for_convolutions_and_wrappers():
    model = keras.Sequential(
        [kl.Input((3, 8, 8, 2)), kl.TimeDistributed(MaskedConv2D(4, 3, name="conv"))], name="video"
    )
    assert [r.shape for r in sparsity_table(model)] == [(3, 3, 2, 4)]


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="`model` must be a Keras model or layer"):
        sparsity_table([1, 2])
    with pytest.raises(ValueError, match="`model` must be built"):
        sparsity_table(keras.Sequential([kl.Dense(3)]))


def test_weights_that_live_and_are_zero_are_named():
    model = masked_model()
    (one, other) = sparsity_table(model)
    assert (one.live, other.live) == (one.nonzeros, other.nonzeros) and "by masks" not in str(sparsity_table(model))
    weight = get_sparse_weights(model)[0]
    weight.assign_mask(first((5, 4), 8))  # Two entries are grown, and begin at zero.
    table = sparsity_table(model)
    assert (table.rows[0].nonzeros, table.rows[0].live) == (6, 8)
    assert (table.nonzeros, table.live, table.to_dict()["total"]["live"]) == (16, 18, 18)
    assert "sparsity by values: 73.33 %, by masks: 70.00 % (2 live weights are exactly 0" in str(table)


def test_a_pattern_that_a_shape_cannot_hold_is_shown():
    inputs = kl.Input((8, 8, 3))
    model = keras.Model(inputs, kl.Conv2D(4, 3, name="second")(kl.Conv2D(4, 3, name="first")(inputs)))
    sparsify(model, "masked", structure="2:4")
    text = "first/kernel: 2:4 gives only 33.33 % zeros here, because 3 inputs are not a multiple of 4"
    assert model.sparsify_report.notes == (text,) and text in str(model.sparsify_report)
    rows = sparsity_table(model).rows
    assert [row.note for row in rows] == [text.partition(": ")[2], ""]
    assert rows[0].note in " ".join(str(sparsity_table(model)).split())  # The note is folded.
