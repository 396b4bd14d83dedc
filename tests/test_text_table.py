"""A printed table fits a terminal, and shows all that the wide table shows."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf import checkpoint_sparsity, inspection
from sparsity_tf.text_table import COLUMNS, shortened, text_table, wrapped

ALIGN = ["left", "right", "left"]
HEADER = ["layer", "size", "why"]


def widest(table):
    return max(map(len, table.splitlines()))


def path(number, depth=12):
    return "/".join(["network", *(f"stage_{k}" for k in range(depth)), f"dense_{number}", "kernel"])


def test_a_table_that_fits_stays_as_it_is():
    assert text_table([["a", "1", "so"], ["b", "20", ""]], HEADER, ALIGN).splitlines() == [
        "layer      size  why",
        "-------  ------  -----",
        "a             1  so",
        "b            20",
    ]


def test_long_names_lose_their_middle_and_stay_different():
    body = [[path(number), f"{10**9:,}", "dense"] for number in range(20)]
    table = text_table(body, HEADER, ALIGN)
    assert widest(table) == COLUMNS
    names = [line.split()[0] for line in table.splitlines()[2:]]
    assert len(set(names)) == 20
    assert all(name.startswith("network/") and name.endswith("/kernel") and "..." in name for name in names)


def test_names_that_differ_only_in_their_middle_stay_different():
    names = [f"encoder/block_{number}/" + "attention/" * 6 + "kernel" for number in range(12)]
    assert len(set(shortened(names, 40))) == 12
    assert {len(name) for name in shortened(names, 40)} == {40}


def test_columns_are_broken_before_names_become_the_same():
    names = [f"a_stage_of_the_network_unit_{k}_{kind}" for k in range(4) for kind in ("convolution" * 3, "normal" * 5)]
    header = ["layer", *(f"column {k}" for k in "abcde")]
    table = text_table([[name, *["1"] * 5] for name in names], header, ["left"] + ["right"] * 5)
    assert len({line.split()[0] for line in table.splitlines() if " 1" in line}) == 8 and widest(table) <= COLUMNS


@pytest.mark.parametrize("width", [10, 11, 30])
def test_short_names_stay_whole(width):
    assert shortened(["logits", "a/long/path/of/a/layer/that/is/cut"], width)[0] == "logits"


def test_a_column_of_text_is_folded():
    why = "its activation looks at all channels, and the layer is shared with another model that keeps them all " * 2
    table = text_table([["conv", "10", why], ["dense", "20", "kept"]], HEADER, ALIGN, folds_last=True)
    assert widest(table) <= COLUMNS
    assert " ".join(table.split()).count("looks at all channels") == 2 and "kept" in table


def test_too_many_columns_become_several_tables_with_the_names():
    header = ["layer", *(f"column {k}" for k in range(15))]
    body = [[f"layer_{row}", *(f"{row * k:,}" for k in range(15))] for row in range(3)]
    table = text_table(body, header, ["left"] + ["right"] * 15)
    assert widest(table) <= COLUMNS
    assert table.count("layer_2") > 1 and all(f"column {k}" in table for k in range(15))
    assert sum(line.split()[1:].count("28") for line in table.splitlines()) == 1


def test_notes_that_do_not_fit_stand_below_with_the_rows_that_have_one():
    header = ["layer", *(f"column {k}" for k in range(7)), ""]
    body = [["noted", *["1,000,000"] * 7, "not counted: " + "long " * 30], ["plain", *["1"] * 7, ""]]
    table = text_table(body, header, ["left"] + ["right"] * 7 + ["left"], folds_last=True)
    assert widest(table) <= COLUMNS
    assert table.count("plain") == 1 and table.count("noted") == 2 and table.count("long") == 30


def test_a_table_without_rows_has_its_header():
    assert text_table([], HEADER, ALIGN).split() == ["layer", "size", "why", *["-" * 7, "-" * 6, "-" * 5]]


def test_a_long_line_is_wrapped_between_words():
    assert wrapped("word " * 50, "  ")[1].startswith("  word") and max(map(len, wrapped("word " * 50))) <= COLUMNS


def deep_network():
    """Convolutions with names as long as in a deep network, and counts of millions."""
    inputs = keras.Input((64, 64, 3))
    x = inputs
    for block in range(3):
        stage = f"expanded_inverted_residual_stage_4_unit_{block}"
        x = layers.Conv2D(256, 3, padding="same", name=f"{stage}_pointwise_convolution")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"{stage}_normalization_of_the_pointwise_convolution")(x))
    x = layers.GlobalAveragePooling2D(name="average_over_all_positions_of_the_last_stage")(x)
    return keras.Model(inputs, layers.Dense(10, name="predictions")(x))


def test_reports_of_a_deep_network_fit_a_terminal_and_keep_full_names(tmp_path, capsys):
    model = sparsity_tf.prune(deep_network(), 0.5, structure="channel")
    convolution = "expanded_inverted_residual_stage_4_unit_0_pointwise_convolution"
    small, table, flops = sparsity_tf.shrink(model), inspection.sparsity_table(model), inspection.count_flops(model)
    sensitivity = inspection.SensitivityTable(
        [inspection.SensitivityRow(row.name, row.size, (0,) * 9, (0.5,) * 9) for row in table.rows],
        tuple(k / 10 for k in range(1, 10)),
        "accuracy",
        0.9,
    )
    reports = [model.sparsify_report, model.prune_report, table, flops, small.shrink_report, sensitivity]
    texts = [str(report) for report in reports]
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    assert checkpoint_sparsity.main(["checkpoint_sparsity", f"--checkpoint={path}"]) == 0
    texts.append(capsys.readouterr().out.rpartition("\n\n")[0])  # The last line has the path of the file.
    assert [widest(text) for text in texts if widest(text) > COLUMNS] == []
    assert table.rows[0].name == f"{convolution}/kernel"
    assert small.shrink_report.rows[0].layer == flops.rows[0].name == convolution
    table.to_csv(tmp_path / "sparsity.csv")
    assert f"{convolution}/kernel" in (tmp_path / "sparsity.csv").read_text()


def test_reports_of_a_transformer_fit_a_terminal():
    model = sparsity_tf.models.Transformer(50, size="tiny", technique="masked")
    ids = {key: np.ones((1, 3), "int32") for key in ("inputs", "targets")}
    model(ids)
    table = inspection.sparsity_table(model, include_dense=True)
    assert max(widest(str(report)) for report in (model.sparsify_report, table)) <= COLUMNS


def test_names_that_no_cut_tells_apart_stay_whole():
    names = ["p" * 60 + f"/{number}/" + "q" * 60 for number in range(6)]
    header = ["name", *(f"c{number}" for number in range(8))]
    table = text_table([[name, *["1,234,567"] * 8] for name in names], header, ["left", *["right"] * 8])
    assert all(name in table for name in names)


def test_tables_without_rows_columns_or_values():
    assert "a" * 60 in text_table([], ["a" * 60, "b" * 60], ["left", "right"])
    assert "h" * 150 in text_table([["x" * 150]], ["h" * 150], ["left"])
    assert "None" not in text_table([["x", None]], ["name", "value"], ["left", "right"])
