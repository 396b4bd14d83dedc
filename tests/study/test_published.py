"""The packaged results: exact copies, known figures of the papers, and every mended error."""

import collections
import copy
import hashlib
import math
import pickle
import statistics

import pytest

import sparsity_tf
from sparsity_tf.study import PublishedResult, other_systems, published_files, published_results
from sparsity_tf.study import published as module
from tests import fresh_process

RESNET = "state_of_sparsity/sparse_rn50/"
COMPARED = f"{RESNET}technique_comparison/rn50_"
SCRATCH = f"{RESNET}scratch_lotto/rn50_"
BASELINES = "state_of_sparsity/sparse_transformer/technique_comparison/transformer_baselines.csv"
# By file: number of results, and git's blob id of the copy (None: not a copy).
FILES = {
    "state_of_sparsity/published_checkpoints.csv": (49, None),
    f"{COMPARED}baselines.csv": (3, "1bcc3d2d582792739966f1328e349d1b0d216606"),
    f"{COMPARED}magnitude_pruning.csv": (236, "73436ceffe0bfe4ca50ab3c7c1770e8f527c9c64"),
    f"{COMPARED}random_pruning.csv": (288, "fbe5e880adb6af099bc285b4c8ae5c42773936c1"),
    f"{COMPARED}variational_dropout.csv": (161, "0c717d074a6b8234b70cf74760ff8281340d3bc7"),
    f"{COMPARED}l0_regularization.csv": (323, "1ee5a1938900b105d9e40ed685859b7cbcf7f5d6"),
    f"{SCRATCH}lottery_ticket.csv": (48, "687b63a8af92c3f699e8652266206af8784b16d6"),
    f"{SCRATCH}scratch_lr_constant_decay.csv": (12, "f79626cb719c434037be643670a3d2b73b112644"),
    f"{SCRATCH}scratch_lr_constant_final.csv": (10, "abeff2c606509d41eb851191966275b5a6a38410"),
    f"{SCRATCH}scratch_lr_continual_decay.csv": (12, "83312c84e46058642ecea107d340b2455a419c77"),
    f"{SCRATCH}scratch_lr_scaled.csv": (20, "137b2f3d6e730657f88f128c4918465349b5bac0"),
    BASELINES: (5, "982a6eaa87d55cbe306929aae6555e110392fda3"),
    "str/readme_models.csv": (11, None),
    "str/STR_Budgets_ResNet50.csv": (0, None),
    "str/SparsityDistributions_90_ResNet50.csv": (0, None),
    "sparse_momentum/MNIST_sparse_summary.csv": (25, None),
    "sparse_momentum/WRN-28-2_results_summary.csv": (21, None),
    "sparse_momentum/MNIST_compression_comparison_lenet300-100.csv": (19, None),
    "sparse_momentum/MNIST_compression_comparison_lenet5.csv": (19, None),
    "sparse_momentum/sensitivity_momentum_alexnet-s.csv": (14, None),
    "sparse_momentum/sensitivity_momentum_vgg-d.csv": (14, None),
    "sparse_momentum/sensitivity_prune_rate_alexnet-s.csv": (12, None),
    "sparse_momentum/sensitivity_prune_rate_vgg-d.csv": (12, None),
    "sparse_momentum/imagenet_logs.csv": (4, None),
    "dsr/deepr_errors_cf10.txt": (5, None),
    "dsr/dynamic_errors_cf10.txt": (5, None),
    "dsr/dynamic_errors_mnist.txt": (6, None),
    "dsr/imagenet.csv": (2, None),
    "dsr/prune_errors_cf10.txt": (5, None),
    "dsr/prune_errors_mnist.txt": (6, None),
    "dsr/set_errors_cf10.txt": (5, None),
    "dsr/static_errors_cf10.txt": (5, None),
    "dsr/static_errors_mnist.txt": (6, None),
}


@pytest.fixture(scope="module")
def everything():
    return published_results()


def of(everything, source):
    return [result for result in everything if result.source == source]


def scores(**wanted):
    return {result.sparsity: result.score for result in published_results(**wanted)}


def test_the_files_are_those_that_the_readme_lists(everything):
    assert set(published_files()) == set(FILES)
    counts = collections.Counter(result.source for result in everything)
    assert {source: counts[source] for source in FILES} == {source: count for source, (count, _) in FILES.items()}
    assert sum(counts.values()) == 1363


def test_the_budgets_of_str_are_exact_copies():
    for source, digest in (
        ("str/STR_Budgets_ResNet50.csv", "61d003cb"),
        ("str/SparsityDistributions_90_ResNet50.csv", "6a5c8cbf"),
    ):
        with open(published_files()[source], "rb") as file:
            assert hashlib.md5(file.read()).hexdigest().startswith(digest)


@pytest.mark.parametrize("source", [source for source, (_, blob) in FILES.items() if blob])
def test_a_copy_is_exact(source):
    with open(published_files()[source], "rb") as file:
        content = file.read()
    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == FILES[source][1]


def test_the_published_checkpoints_of_the_transformer():
    levels = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    expected = {
        "magnitude": (26.33, 25.94, 25.21, 24.65, 23.26, 20.75, 16.37),
        "vd": (26.26, 25.37, 25.08, 24.33, 21.43, 19.13, 14.45),
        "l0": (26.72, 26.16, 25.29, 24.15, 20.05, 19.78, 16.83),
        "random": (24.56, 24.45, 24.01, 23.15, 20.67, 17.42, 10.94),
    }
    for technique, values in expected.items():
        assert scores(model="Transformer", technique=technique) == dict(zip(levels, values, strict=True))
    results = published_results(model="transformer", technique=["magnitude", "vd", "l0", "random"])
    assert all(result.metric == "BLEU" and result.dataset == "WMT14 En-De" for result in results)
    assert [result.score for result in published_results(model="Transformer", technique="none")] == [
        27.13,
        27.39,
        27.3,
        27.52,
        27.12,
    ]


def test_the_published_checkpoints_of_resnet_50(everything):
    checkpoints = [one for one in of(everything, "state_of_sparsity/published_checkpoints.csv") if "50" in one.model]
    found = collections.defaultdict(dict)
    for result in checkpoints:
        found[result.technique][result.sparsity] = result.score
    assert found == {
        "magnitude": {0.5: 76.53, 0.7: 76.38, 0.8: 75.58, 0.9: 73.91, 0.95: 70.59, 0.98: 57.9},
        "magnitude_nonuniform": {0.8: 76.52, 0.9: 75.16, 0.95: 72.71, 0.965: 69.26},
        "random": {0.5: 74.59, 0.7: 72.2, 0.8: 70.21, 0.9: 65.0, 0.95: 58.04, 0.98: 43.99},
        "vd": {0.5: 76.55, 0.8: 75.28, 0.9: 73.84, 0.95: 71.91, 0.98: 67.36},
    }
    assert len({one.checkpoint for one in everything if one.checkpoint}) == 49
    assert all(one.url.endswith(f"/{one.checkpoint}.tar") for one in everything if one.checkpoint)


def test_the_settings_of_checkpoints():
    [result] = published_results(model="Transformer", technique="vd", sparsity=0.5)
    assert result.settings == {
        "dropout": 0.1,
        "label_smoothing": 0.1,
        "log_alpha_threshold": 2.5,
        "penalty_coefficient": 2.22e-8,
        "penalty_schedule": "cubic",
        "penalty_begin_step": 400_000,
        "penalty_end_step": 500_000,
    }
    [result] = [one for one in published_results(model="ResNet-50", technique="vd", sparsity=0.9) if one.checkpoint]
    assert result.settings == {
        "label_smoothing": 0.0,
        "log_alpha_threshold": 0.5,
        "penalty_coefficient": 7.80538368534e-08,
        "penalty_begin_step": 20_000,
        "penalty_end_step": 68_000,
    }
    [result] = published_results(technique="magnitude_nonuniform", sparsity=0.95)
    assert result.settings["target_sparsity"] == 0.96 and result.settings["frequency"] == 1000


def test_every_accuracy_of_resnet_50_is_a_number_of_the_50_000_images(everything):
    results = [one for one in everything if one.source.startswith(RESNET) and one.technique != "none"]
    values = [score for one in results for score in (one.scores or (one.score,))]
    assert len(values) == 1350
    assert all(abs(500 * value - round(500 * value)) < 1e-9 for value in values)


def test_cells_of_the_tables_of_resnet_50(everything):
    [row] = [
        one for one in of(everything, f"{COMPARED}magnitude_pruning.csv") if one.sparsity == 0.5 and one.score == 76.53
    ]
    assert row.settings == {"begin_step": 40_000, "end_step": 100_000, "frequency": 2000, "label_smoothing": 0.1}
    by_level = collections.Counter(one.sparsity for one in of(everything, f"{COMPARED}magnitude_pruning.csv"))
    assert by_level == {0.5: 54, 0.7: 54, 0.8: 54, 0.9: 51, 0.95: 22, 0.98: 1}
    by_level = collections.Counter(one.sparsity for one in of(everything, f"{COMPARED}random_pruning.csv"))
    assert by_level == {0.5: 54, 0.7: 54, 0.8: 54, 0.9: 54, 0.95: 54, 0.98: 18}
    rows = of(everything, f"{COMPARED}variational_dropout.csv")
    [row] = [one for one in rows if one.score == 76.548]
    assert row.sparsity == 0.50044721365
    assert row.settings == {
        "log_alpha_threshold": 0.5,
        "penalty_begin_step": 8000,
        "penalty_end_step": 68_000,
        "penalty_coefficient": 7.80538368534e-9,
        "label_smoothing": 0.1,
    }
    units = {round(1_281_167 * one.settings["penalty_coefficient"], 4) for one in rows}
    assert units == {0, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 1, 10, 100}
    rows = of(everything, f"{SCRATCH}scratch_lr_scaled.csv")
    assert rows[0].scores[0] == 74.628 and len(rows[0].scores) == 9
    assert rows[0].score == pytest.approx(statistics.fmean(rows[0].scores))
    assert rows[0].standard_error == pytest.approx(statistics.stdev(rows[0].scores) / 3)
    assert {one.settings["time_multiplier"] for one in rows} == {1, 2}
    assert {one.settings["init_method"] for one in rows} == {"baseline", "sparse"}
    assert of(everything, f"{SCRATCH}lottery_ticket.csv")[-1].sparsity == 0.98


def test_columns_of_l0_that_were_swapped_are_exchanged(everything):
    rows = of(everything, f"{COMPARED}l0_regularization.csv")
    assert all("wrong way round" in one.mended[0] for one in rows)
    assert {one.settings["label_smoothing"] for one in rows} == {0, 0.1}
    # The decay is 1e-4, divided by the sigmoid of the initial log alpha.
    for one in rows:
        decay = 1e-4 * (1 + math.exp(-one.settings["initial_log_alpha"]))
        assert one.settings["weight_decay"] == 0 or one.settings["weight_decay"] == pytest.approx(decay, rel=1e-8)
    assert max(one.score for one in rows) == 40.504
    assert collections.Counter(one.settings["initial_log_alpha"] for one in rows) == {
        4.6: 80,
        2.95: 84,
        2.197: 79,
        0.847: 80,
    }


def test_the_empty_header_is_the_init_method(everything):
    rows = of(everything, f"{SCRATCH}scratch_lr_constant_decay.csv")
    assert all(one.mended == ("the header of the init method was empty",) for one in rows)
    assert (rows[0].settings["init_method"], rows[1].settings["init_method"]) == ("sparse", "baseline")
    assert rows[0].score == 72.502 and rows[-1].score == 47.154
    assert not any(one.mended for one in of(everything, f"{SCRATCH}scratch_lr_continual_decay.csv"))


def test_what_could_not_be_decided_is_noted(everything):
    noted = {one.checkpoint: one.notes for one in everything if one.notes}
    assert len(noted) == 4
    tables = {"random": f"{COMPARED}random_pruning.csv"}
    for name, [note] in noted.items():
        [checkpoint] = [one for one in everything if one.checkpoint == name]
        if checkpoint.technique == "vd":
            assert "no row" in note
            continue
        rows = of(everything, tables[checkpoint.technique])
        wanted = {k: v for k, v in checkpoint.settings.items() if k != "target_sparsity"}
        [row] = [one for one in rows if one.sparsity == checkpoint.sparsity and one.settings == wanted]
        assert row.score != checkpoint.score and str(row.score) in note


def test_results_of_str_are_computed_from_its_budgets():
    results = {result.sparsity: result for result in published_results("str", "ResNet-50")}
    expected = {
        0.0: (25_502_912, 4_089_284_608, 77.01),
        0.8127: (4_775_866, 705_385_411, 76.12),
        0.9023: (2_492_045, 342_704_659, 74.31),
        0.9515: (1_237_702, 162_286_322, 70.23),
        0.9611: (991_719, 126_989_743, 67.78),
        0.9653: (883_922, 117_247_907, 67.22),
        0.9805: (497_978, 72_942_818, 61.46),
        0.9898: (259_835, 47_420_137, 51.82),
    }
    assert {key: (one.parameters, one.flops, one.score) for key, one in results.items()} == expected
    mended = [one for one in results.values() if one.mended]
    assert [one.sparsity for one in mended] == [0.8127]
    assert "4.47M" in mended[0].mended[0] and "4,775,866" in mended[0].mended[0]
    mobile = {one.sparsity: (one.parameters, one.flops, one.score) for one in published_results("str", "mobilenet_v1")}
    assert mobile == {
        0.0: (4_210_000, 569_000_000, 71.95),
        0.7528: (1_040_000, 101_000_000, 68.35),
        0.8901: (460_000, 42_000_000, 62.1),
    }


# Weights left and multiply-accumulates of STR's 16 networks, computed from the budgets by another program.
BUDGETS = {
    "79.55": (5_216_259, 766_636_718),
    "81.27": (4_775_866, 705_385_411),
    "87.7": (3_136_008, 401_720_908),
    "90.23": (2_492_045, 342_704_659),
    "90.55": (2_409_402, 341_549_313),
    "94.8": (1_326_562, 181_680_756),
    "95.03": (1_269_016, 158_668_661),
    "95.15": (1_237_702, 162_286_322),
    "96.11": (991_719, 126_989_743),
    "96.53": (883_922, 117_247_907),
    "97.78": (565_147, 80_220_958),
    "98.05": (497_978, 72_942_818),
    "98.22": (454_278, 68_348_589),
    "98.79": (307_766, 53_655_554),
    "98.98": (259_835, 47_420_137),
    "99.1": (229_602, 43_779_795),
}


def test_all_16_budgets_of_str():
    budgets = other_systems._str_budgets(published_files()["str/STR_Budgets_ResNet50.csv"])
    assert budgets.pop("0") == (25_502_912, 4_089_284_608)
    assert {float(name): budget for name, budget in budgets.items()} == {float(k): v for k, v in BUDGETS.items()}


@pytest.mark.parametrize("technique,target,flops", [("magnitude", 0.9, 409_018_778), ("random", 0.8, 817_937_203)])
def test_uniform_sparsity_gives_the_operations(technique, target, flops):
    results = published_results("state_of_sparsity", "ResNet-50", technique=technique, sparsity=target)
    assert {(one.flops, one.flops_source) for one in results} == {(flops, "rule")}


def test_operations_of_non_uniform_pruning():
    """The first convolution is dense and the last layer 80 % sparse."""
    found = {one.sparsity: one.flops for one in published_results(technique="magnitude_nonuniform")}
    rest, first, last, pooling = 4_089_184_256 - 118_013_952 - 2_048_000, 118_013_952, 2_048_000, 100_352
    for sparsity, target in ((0.8, 0.8), (0.9, 0.91), (0.95, 0.96), (0.965, 0.98)):
        assert found[sparsity] == pytest.approx((1 - target) * rest + first + 0.2 * last + pooling, abs=1)


def test_accuracies_and_errors_that_were_stored_times_100():
    results = published_results("sparse_momentum", "WRN-28-2")
    assert all("times 100" in one.mended[0] for one in results)
    dense, *others = results
    assert (dense.technique, dense.sparsity, dense.score) == ("none", 0.0, 94.7)
    assert dense.standard_error == pytest.approx(0.0508, abs=1e-4)
    found = {(one.technique, one.sparsity): (one.score, one.standard_error) for one in others}
    assert found["dsr", 0.9] == (93.59, 0.078)
    assert found["sparse_momentum", 0.5] == (94.7487, 0.0403)
    assert found["set", 0.5] == (94.76, 0.04)
    assert found["deepr", 0.7] == (92.5, 0.1)


def test_the_summary_of_mnist():
    found = {
        (one.technique, one.sparsity): (one.score, one.standard_error)
        for one in published_results("sparse_momentum", "LeNet-300-100")
        if "summary" in one.source
    }
    assert found["none", 0.0] == (98.69, 0.0106094)
    assert found["sparse_momentum", 0.99] == (97.53, 0.0469515)
    assert found["set", 0.95] == (98.14458, None)  # An empty cell.
    assert found["deepr", 0.99] == (94.0, 0.01)  # " 0.94", with a space.


def test_files_called_errors_hold_accuracies():
    results = [one for one in published_results("dsr") if one.source.endswith(".txt")]
    assert all(one.mended == ("the file is called errors and holds accuracies",) for one in results)
    found = {(one.model, one.technique, one.sparsity): one for one in results}
    means = {
        ("WRN-28-2", "dsr", 0.9): (93.588, 0.078),
        ("WRN-28-2", "magnitude", 0.8): (94.126, 0.057),
        ("WRN-28-2", "set", 0.7): (94.396, 0.089),
        ("WRN-28-2", "static", 0.6): (94.256, 0.051),
        ("WRN-28-2", "deepr", 0.5): (92.920, 0.082),
        ("MNIST-MLP", "dsr", 0.99): (97.754, None),
        ("MNIST-MLP", "magnitude", 0.97): (98.342, None),
        ("MNIST-MLP", "static", 0.98): (82.806, None),
    }
    for place, (mean, error) in means.items():
        assert found[place].score == pytest.approx(mean, abs=1e-6) and len(found[place].scores) == 5
        assert error is None or found[place].standard_error == pytest.approx(error, abs=6e-4)


def test_errors_on_mnist_become_accuracies():
    found = {
        (one.model, one.technique, one.sparsity): one
        for one in published_results("sparse_momentum")
        if "compression" in one.source
    }
    assert found["LeNet-300-100", "sparse_momentum", 0.99].score == 97.64
    assert found["LeNet-300-100", "sparse_momentum", 0.99].standard_error == 0.044
    assert found["LeNet-5-Caffe", "vd", 0.996].score == 99.2
    assert found["LeNet-5-Caffe", "vd", 0.996].settings == {"author": "Molchanov 2017"}


def test_sensitivity_to_momentum_and_prune_rate():
    results = [one for one in published_results("sparse_momentum", "AlexNet-s") if one.settings.get("momentum") == 0.9]
    assert {one.technique: (one.sparsity, one.score) for one in results} == {
        "sparse_momentum": (None, 85.502),
        "none": (0.0, 87.317),
    }
    best = max(
        (one for one in published_results(model="AlexNet-s") if "prune_rate" in one.settings), key=lambda one: one.score
    )
    assert best.settings["prune_rate"] == 0.2 and best.settings["decay"] == "linear" and best.score == 85.877


def test_imagenet_results_of_dynamic_methods():
    found = {one.sparsity: one.score for one in published_results("sparse_momentum", "ResNet-50")}
    assert found == {0.84373913: 72.328, 0.9: 73.067, 0.8: 74.909, 0.7: 75.921}
    assert {one.sparsity: one.score for one in published_results("dsr", "ResNet-50")} == {0.8: 73.3, 0.9: 71.6}


def test_budgets_are_read_by_the_reader_of_budgets():
    files = published_files()
    budget = sparsity_tf.budgets.read_csv(files["str/STR_Budgets_ResNet50.csv"], column="90.23")
    assert len(budget) == 54 and budget["fc"] == 0.645
    compared = sparsity_tf.budgets.read_csv(files["str/SparsityDistributions_90_ResNet50.csv"], column="ERK")
    assert compared["1"] == 0.58


def test_selection_by_names_in_any_spelling():
    assert published_results(model="resnet_50", technique="L0")[0].technique == "l0"
    both = published_results("State of Sparsity", ["resnet50", "TRANSFORMER"], technique=("vd",))
    assert {one.model for one in both} == {"ResNet-50", "Transformer"} and {one.technique for one in both} == {"vd"}
    assert published_results(dataset="mnist", metric="BLEU") == []
    assert published_results(sparsity=0.1234) == []


@pytest.mark.parametrize("name", ["system", "model", "dataset", "technique", "metric"])
@pytest.mark.parametrize("value", ["nonsense", "", 3, [], ["nonsense"], [3], {}, b"vd"])
def test_an_unknown_name_lists_those_that_are_known(name, value):
    with pytest.raises(ValueError) as caught:
        published_results(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"`{name}` must be one of ") and f"Received: {name}=" in message
    known = {
        "system": "state_of_sparsity, ",
        "model": "Transformer, ",
        "dataset": "ImageNet",
        "technique": "magnitude, ",
    }
    assert known.get(name, "BLEU") in message


@pytest.mark.parametrize("value", ["0.9", 2, -0.1, math.nan, True])
def test_a_sparsity_is_a_fraction(value):
    with pytest.raises(ValueError, match="^`sparsity` must be a number in"):
        published_results(sparsity=value)


def test_a_result_can_be_changed_by_its_owner_alone():
    published_results("str")[0].settings["mine"] = 1
    first = published_results("str")[0]
    assert "mine" not in first.settings
    assert pickle.loads(pickle.dumps(first)) == first == copy.deepcopy(first)
    assert len({first, copy.deepcopy(first)}) == 1
    with pytest.raises(AttributeError):
        first.score = 100.0
    assert isinstance(first, PublishedResult)


def test_the_room_is_imported_when_it_is_used_and_needs_no_matplotlib():
    code = """
import sys, sparsity_tf
assert "sparsity_tf.study" not in sys.modules
before = set(sys.modules)  # Some releases of Keras import matplotlib themselves.
assert len(sparsity_tf.study.published_results()) == 1363
print({"matplotlib", "tabulate", "PIL"} & (set(sys.modules) - before))
"""
    finished = fresh_process.run(code)
    assert finished.returncode == 0 and finished.stdout.split() == ["set()"], finished.stderr


def test_the_readme_beside_the_data_names_every_folder():
    text = (module._FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(source.split("/")[0] in text for source in FILES)
    assert text.count("Apache-2.0") >= 4 and text.count("MIT") >= 3
