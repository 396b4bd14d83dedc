"""`deployment_report`: what is gained, and why not. Times are not tested, what is said of them is."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.deploy import DeploymentReport, DeploymentRow, deployment_report, litert, plot_deployment
from sparsity_tf.deploy.report import TARGETS
from tests.deploy.models import randomize

pytestmark = pytest.mark.compiled

QUICK = {"rounds": 1, "seconds": 1e-4, "batch_sizes": (1, 2)}


def zeroed(kind, units=64):
    """A network of which 90 % of the hidden weights are zero: anywhere, in blocks of 4 inputs, or whole units."""
    model = randomize(
        keras.Sequential(
            [
                keras.Input((units,)),
                layers.Dense(units, "relu", name="first"),
                layers.Dense(units, "relu", name="second"),
            ]
        )
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        kernel = np.array(ops.convert_to_numpy(layer.kernel))
        if kind == "unstructured":
            kernel[rng.random(kernel.shape) < 0.9] = 0
        elif kind == "blocks":
            kernel[np.repeat(rng.random((units // 4, units)) < 0.9, 4, axis=0)] = 0
        elif kind == "2:4":
            kernel[0::4] = kernel[1::4] = 0
        elif kind == "units" and layer.name == "first":
            kernel[:, : units // 2] = 0
            layer.bias.assign(np.where(np.arange(units) < units // 2, 0, 1))
        layer.kernel.assign(kernel)
    return model


def rows(report, target):
    return {row.way: row for row in report if row.target == target}


@pytest.fixture(scope="module")
def unstructured():
    model = zeroed("unstructured")
    report = deployment_report(model, targets=["keras", "litert", "gpu_2_4"], **QUICK)
    return model, report


def test_every_way_has_sizes_times_and_a_reason(unstructured):
    model, report = unstructured
    keras_rows = rows(report, "keras")
    assert set(keras_rows) == {"sparse", "shrunk"}
    for row in keras_rows.values():
        assert set(row.seconds) == set(row.speedup) == {1, 2}
        assert all(value > 0 for value in (*row.seconds.values(), *row.speedup.values()))
        assert row.source == "measured" and row.why
    assert keras_rows["sparse"].smaller > 2
    assert report.sparsity == pytest.approx(0.9, abs=0.02)
    assert "multiplies them like other numbers" in keras_rows["sparse"].why
    assert "every unit and filter has an effect" in keras_rows["shrunk"].why


def test_what_is_not_measured_is_read_and_says_where(unstructured):
    [row] = rows(unstructured[1], "gpu_2_4").values()
    assert row.source.startswith("read: ") and "TensorRT" in row.source
    assert row.bytes is None and row.speedup == {} and row.smaller is None
    assert "the kernels are not 2:4" in row.why
    [row] = deployment_report(zeroed("2:4"), targets=["gpu_2_4"], **QUICK)
    assert "every sparse kernel is 2:4" in row.why


def test_the_report_is_a_table_and_plain_values(unstructured):
    _, report = unstructured
    text = str(report)
    assert "90." in text.splitlines()[0] or "89." in text.splitlines()[0]
    assert "LiteRT" in text and " ".join(text.split()).endswith(report.gain)
    found = json.loads(json.dumps(report.to_dict()))
    assert [row["target"] for row in found["rows"]] == [row.target for row in report]
    assert found["gain"] == report.gain


@pytest.mark.tensorflow
def test_unstructured_zeros_are_told_what_litert_needs(unstructured):
    model, report = unstructured
    sparse = rows(report, "litert")["sparse"]
    assert sparse.smaller > 2
    assert sparse.why == "kernels have zeros without a structure: retrain with structure='4x1'"
    assert {finding.layer.rpartition("/")[2] for finding in report.lint} == {"first", "second"}


@pytest.mark.tensorflow
def test_blocks_and_dead_units_are_praised_and_int8_needs_data():
    report = deployment_report(zeroed("blocks"), targets=["litert"], **QUICK)
    assert "computed sparsely" in rows(report, "litert")["sparse"].why
    assert report.lint == []
    data = np.random.default_rng(0).normal(size=(8, 64)).astype("float32")
    report = deployment_report(zeroed("units"), data, targets=["litert"], **QUICK)
    found = rows(report, "litert")
    assert set(found) == {"sparse", "shrunk", "shrunk, int8"}
    assert "computed sparsely" in found["sparse"].why  # a dead unit is a column of blocks
    assert "units without effect are removed: 8,320 -> 4,192 parameters" in found["shrunk"].why
    assert found["shrunk, int8"].bytes < found["shrunk"].bytes
    assert report.parameters == (8320, 4192)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "target, package", [("onnx", "onnxruntime"), pytest.param("openvino", "openvino", marks=pytest.mark.slow)]
)
def test_other_runtimes_are_measured_where_they_are_installed(target, package):
    pytest.importorskip(package)
    if target == "onnx":
        pytest.importorskip("tf2onnx")
    row = rows(deployment_report(zeroed("unstructured"), targets=[target], **QUICK), target)["sparse"]
    assert row.speedup and "multiplies zeros like other numbers" in row.why


def test_a_missing_runtime_is_a_row(monkeypatch):
    import importlib

    module = importlib.import_module("sparsity_tf.deploy.report")

    def missing(*_, **__):
        raise ImportError("The package onnxruntime is not installed.")

    monkeypatch.setattr(module, "export", missing)
    [row] = deployment_report(zeroed("unstructured"), targets=["onnx"], **QUICK)
    assert row.why == "not measured: The package onnxruntime is not installed."
    assert row.bytes is None


def test_the_model_is_left_as_it_is(unstructured):
    model = unstructured[0]
    assert 0.85 < np.mean(ops.convert_to_numpy(model.layers[0].kernel) == 0) < 0.95


def made(*arguments):
    return DeploymentReport([DeploymentRow(*a) for a in arguments], [], 0.9, (100, 50), (1, 32))


def test_the_printed_report_fits_100_columns(unstructured):
    assert max(len(line) for line in str(unstructured[1]).splitlines()) <= 100
    large = dict.fromkeys(range(1, 1_000_001, 250_000), 1234.567)
    rows = [
        DeploymentRow(target, way, 10**11, 10**12, large, large, "the reason is long " * 9)
        for target in TARGETS
        for way in ("sparse", "shrunk", "shrunk, int8")
    ]
    rules = [
        litert.Finding(layer, "the rule is long " * 9, False, "measured: somewhere")
        for layer in ("network/first/convolution", "network/second/convolution")
    ]
    text = str(DeploymentReport(rows, rules, 0.9, (10**11, 10**10), tuple(large)))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(f"batch {size}:" in text for size in large)
    # A rule that several layers break stands once.
    assert " ".join(text.split()).count("the rule is long") == 9
    assert "- network/first/convolution, network/second/convolution: the rule" in text


def test_a_reason_of_several_rows_stands_once_below_the_table():
    text = str(made(*((target, "shrunk", None, None, {}, {}, "nothing to remove") for target in ("keras", "litert"))))
    assert text.count("nothing to remove") == 1
    assert "\n- Keras (shrunk), LiteRT (shrunk): nothing to remove\n" in text
    assert "Why:" not in str(made(("keras", "sparse", 10, 100)))


def test_the_gain_is_the_best_that_was_measured():
    slow = ("keras", "sparse", 10, 100, {1: 1.0}, {1: 0.9})
    fast = ("litert", "shrunk", 50, 100, {1: 1.0}, {1: 2.0})
    assert made(slow, fast).gain == (
        "Shipping gains most in LiteRT (shrunk): 2.0 times smaller and 2.0 times faster than dense at batch 1."
    )
    assert "10.0 times smaller and no faster" in made(slow).gain
    read = ("gpu_2_4", "sparse", 1, 100, {1: 1.0}, {1: 9.0}, "", "read: somewhere")
    assert made(read).gain == "Shipping: nothing could be measured."


def test_a_long_reason_is_wrapped_in_the_printed_table_and_whole_in_its_values():
    why = " ".join(["convolutions are computed densely:"] * 8)
    report = made(("gpu_2_4", "sparse", None, None, {}, {}, why, "read: somewhere"))
    assert max(len(line) for line in str(report).splitlines()[1:-2]) < 150
    assert " ".join(str(report).split()).count("densely:") == 8
    assert report.to_dict()["rows"][0]["why"] == why


def test_the_picture_has_a_bar_for_each_figure(tmp_path):
    pytest.importorskip("matplotlib")
    report = made(
        ("keras", "sparse", 10, 100, {1: 1.0, 32: 1.0}, {1: 0.9, 32: 1.1}),
        ("litert", "shrunk", 50, 100, {1: 1.0, 32: 1.0}, {1: 2.0, 32: 3.0}),
        ("onnx", "sparse", None, None),
    )
    figure = plot_deployment(report, tmp_path / "report.png")
    sizes, speeds = figure.axes
    assert [patch.get_x() + patch.get_width() for patch in sizes.patches] == pytest.approx([10, 2])
    assert [patch.get_x() + patch.get_width() for patch in speeds.patches] == pytest.approx([0.9, 2, 1.1, 3])
    assert (tmp_path / "report.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="`report` must be a `DeploymentReport` with a measured row"):
        plot_deployment(made(("onnx", "sparse", None, None)))


def test_bad_input_is_refused():
    model = zeroed("units")
    for match, arguments, options in (
        ("`model` must be a Keras model", (None,), {}),
        ("`model` must be built", (keras.Sequential([layers.Dense(2)]),), {}),
        ("`targets` must be a list", (model,), {"targets": ["coreml"]}),
        ("`targets` must be a list", (model,), {"targets": [["litert"]]}),
        ("`targets` must be a list", (model,), {"targets": "litert"}),
        ("`batch_sizes` must be a tuple", (model,), {"batch_sizes": ()}),
        ("`rounds` must be an integer", (model,), {"rounds": 0}),
        ("`seconds` must be a finite number above 0", (model,), {"seconds": 0}),
        ("`data` must hold inputs of the shapes", (model, np.zeros((2, 3), "float32")), {}),
    ):
        with pytest.raises(ValueError, match=match):
            deployment_report(*arguments, **options)
    assert sparsity_tf.deployment_report is deployment_report
