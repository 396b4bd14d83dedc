"""Points of quality against sparsity, of published results and of own runs, and the picture of them."""

import csv
import json
import math
import statistics
import sys

import numpy as np
import pytest

from sparsity_tf import study
from sparsity_tf.study import PublishedResult, plot_tradeoff, published_results, read_run, tradeoff_table
from tests.study.run_folders import write_run
from tests.train.runs import classify, write_digits


def result(technique="magnitude", sparsity=0.9, score=70.0, **fields):
    wanted = {"system": "str", "source": "a.csv", "line": 2, "model": "ResNet-50", "dataset": "ImageNet"}
    wanted |= {"metric": "top-1 accuracy", **fields}
    return PublishedResult(technique=technique, sparsity=sparsity, score=score, **wanted)


def rows(*arguments, **more):
    return [(row.level, row.sparsity, row.score) for row in tradeoff_table(*arguments, **more)]


# Published results.


def test_the_best_of_the_published_checkpoints_is_the_published_table():
    table = tradeoff_table(published_results("state_of_sparsity", "Transformer"))
    best = {(row.technique, row.level): row.score for row in table}
    assert len(table) == 29 and table.metric == "BLEU"
    assert best["none", 0.0] == pytest.approx(27.292)
    for level, technique, score in (
        (0.5, "l0", 26.72),
        (0.7, "l0", 25.29),
        (0.8, "magnitude", 24.65),
        (0.9, "magnitude", 23.26),
        (0.95, "magnitude", 20.75),
        (0.98, "l0", 16.83),
    ):
        found = max((one for one in best.items() if one[0][1] == level), key=lambda one: one[1])
        assert found == ((technique, level), score)


def test_the_best_rows_of_resnet_50_are_the_published_checkpoints():
    tables = [one for one in published_results("state_of_sparsity", "ResNet-50") if one.checkpoint is None]
    best = {(row.technique, row.level): row for row in tradeoff_table(tables)}
    found = {level: best["magnitude", level].score for level in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
    assert found == pytest.approx({0.5: 76.53, 0.7: 76.38, 0.8: 75.576, 0.9: 73.91, 0.95: 70.592, 0.98: 57.9})
    found = {level: best["random", level].score for level in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
    assert found == pytest.approx({0.5: 74.594, 0.7: 72.218, 0.8: 70.206, 0.9: 65.004, 0.95: 58.084, 0.98: 43.996})
    # 161 rows of variational dropout have as many sparsities, so the usual levels serve.
    assert [level for technique, level in best if technique == "vd"] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99]
    assert (best["vd", 0.5].score, best["vd", 0.98].score) == (76.548, 67.356)
    assert best["vd", 0.98].sparsity == 0.978934824467  # 0.98, with 0.002 to spare
    dense = best["none", 0.0]
    assert dense.score == pytest.approx(76.6867, abs=1e-4) and dense.repeats == 3
    assert dense.standard_error == pytest.approx(statistics.stdev((76.67, 76.8, 76.59)) / math.sqrt(3))
    # Nine lottery tickets of the same settings are repeats, in nine rows of their table.
    assert best["lottery", 0.5].repeats == 9 and best["lottery", 0.98].repeats == 3
    assert best["scratch", 0.5].repeats == 9 and best["scratch", 0.5].settings["variant"] == "lr_scaled"


def test_a_checkpoint_is_preferred_to_the_equal_row_of_its_table():
    table = tradeoff_table(published_results("state_of_sparsity", "ResNet-50", technique="magnitude"))
    source = {row.level: row.source for row in table}
    assert source[0.9] == "state_of_sparsity/published_checkpoints.csv:33 standard_threshold_0.9_40000_76000_2000_0.1"


def test_levels():
    results = [result(sparsity=sparsity, score=100 * (1 - sparsity)) for sparsity in (0.41, 0.5, 0.55, 0.899, 0.93)]
    assert [level for level, _, _ in rows(results)] == [0.41, 0.5, 0.55, 0.899, 0.93]
    # 0.899 reaches 0.9, 0.55 does not reach 0.6, and 0.41 reaches nothing.
    assert rows(results, levels=(0.5, 0.6, 0.9)) == [(0.5, 0.5, 50.0), (0.9, 0.899, pytest.approx(10.1))]
    many = [result(sparsity=0.5 + step / 100, score=70.0 - step) for step in range(13)]
    assert [level for level, _, _ in rows(many)] == [0.5, 0.6]


def test_repeats_count_by_their_mean():
    results = [result(score=score, settings={"seed": 0}, line=line) for line, score in enumerate((70.0, 72.0))]
    results += [result(score=71.5, settings={"other": 1})]
    [row] = tradeoff_table(results)
    assert (row.score, row.repeats, row.standard_error) == (71.5, None, None)
    [row] = tradeoff_table(results[:2])
    assert (row.score, row.repeats, row.standard_error) == (71.0, 2, 1.0)
    [row] = tradeoff_table([result(score=71.0, scores=(70.0, 72.0), standard_error=1.0)])
    assert (row.score, row.repeats, row.standard_error) == (71.0, 2, 1.0)
    [row] = tradeoff_table([result(score=71.0, standard_error=0.25)])
    assert (row.repeats, row.standard_error) == (None, 0.25)


def test_one_network_in_two_files_is_no_repeat():
    [row] = tradeoff_table([result(score=70.0), result(score=70.1, source="b.csv")])
    assert (row.score, row.repeats, row.source) == (70.1, None, "b.csv:2")


def test_lower_is_better_for_perplexity():
    results = [result(score=score, metric="perplexity", settings={"lr": score}) for score in (5.0, 4.0, 6.0)]
    assert rows(results) == [(0.9, 0.9, 4.0)]
    assert rows([result(score=score, settings={"lr": score}) for score in (5.0, 4.0, 6.0)]) == [(0.9, 0.9, 6.0)]


def test_a_result_without_a_sparsity_is_left_out_and_said():
    table = tradeoff_table(published_results("sparse_momentum", "VGG-D"))
    assert [row.technique for row in table] == ["none"]
    assert table.left_out == ["left out: 19 published results without a sparsity"]
    assert "left out: 19" in str(table)


# Own runs.


@pytest.mark.tensorflow
def test_a_run_of_the_classifier_is_read(tmp_path, capsys, monkeypatch):
    # Drawing takes longer than training here.
    monkeypatch.setattr("sparsity_tf.train.classifier.pictures.draw", lambda model, folder: [])
    data = write_digits(tmp_path)
    for seed in (0, 1):
        folder = tmp_path / f"run_{seed}"
        arguments = [f"--data_dir={data}", f"--output_dir={folder}", "--epochs=2", "--batch_size=32", f"--seed={seed}"]
        arguments += ["--dataset=mnist", "--model=lenet_300_100", "--technique=static", "--final_sparsity=0.8"]
        assert classify([*arguments, "--jit_compile=false", "--learning_rate=0.1"], capsys)[0] == 0
    run = read_run(tmp_path / "run_1")
    written = json.loads((tmp_path / "run_1" / "results.json").read_text())
    assert (run.model, run.technique, run.metric, run.seed) == ("lenet_300_100", "static", "top-1 accuracy", 1)
    assert run.score == pytest.approx(100 * (1 - written["test_error"]))
    assert run.sparsity == written["sparsity_of_sparse_weights"] == pytest.approx(0.8, abs=1e-3)
    assert run.flops == written["macs"]["sparse"] and run.collapsed is None
    assert run.settings["final_sparsity"] == 0.8 and "seed" not in run.settings and "log_every" not in run.settings
    [row] = tradeoff_table(runs=[tmp_path / "run_0", tmp_path / "run_1"])
    assert (row.system, row.repeats) == ("own runs", 2) and row.standard_error is not None


@pytest.fixture
def folders(tmp_path):
    """Two experiments with three and one seed."""
    for seed, error in enumerate((0.019, 0.02, 0.021)):
        write_run(tmp_path / f"a{seed}", test_error=error, sparsity=0.9, seed=seed, macs=26_620)
    write_run(tmp_path / "b", test_error=0.05, sparsity=0.98, seed=0, macs=5324, final_sparsity=0.98)
    return [tmp_path / name for name in ("a0", "a1", "a2", "b")]


def test_runs_that_differ_in_the_seed_are_repeats(folders):
    first, second = tradeoff_table(runs=folders)
    assert (first.repeats, first.sparsity, first.sparsity_error) == (3, pytest.approx(0.9), pytest.approx(0))
    assert first.score == pytest.approx(98.0) and first.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert first.flops == 26_620 and first.source == ", ".join(map(str, folders[:3]))
    assert (second.repeats, second.score, second.standard_error) == (1, 95.0, None)


def test_a_copy_of_a_run_is_no_repeat(folders):
    assert [row.repeats for row in tradeoff_table(runs=[*folders, folders[0], folders[3]])] == [3, 1]


def test_equal_scores_of_two_seeds_are_repeats(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"{seed}", test_error=0.02, sparsity=0.9, seed=seed)
    [row] = tradeoff_table(runs=[tmp_path / "0", tmp_path / "1"])
    assert (row.repeats, row.standard_error) == (2, 0.0)


def test_what_is_only_logged_does_not_divide_repeats(tmp_path, folders):
    write_run(tmp_path / "c", test_error=0.022, sparsity=0.9, seed=7, macs=1, log_every=5, keep_best=True)
    assert tradeoff_table(runs=[*folders, tmp_path / "c"]).rows[0].repeats == 4
    write_run(tmp_path / "d", test_error=0.022, sparsity=0.9, seed=8, macs=1, learning_rate=0.3)
    write_run(tmp_path / "e", test_error=0.022, sparsity=0.9, seed=9, macs=1, data_dir="/other_text")
    more = [tmp_path / "d", tmp_path / "e"]
    assert [row.repeats for row in tradeoff_table(runs=[*folders, *more])] == [3, 1, 1, 1]


def test_which_sparsity_counts(tmp_path):
    write_run(tmp_path / "a", test_error=0.02, sparsity=0.85, of_sparse=0.9)
    assert read_run(tmp_path / "a").sparsity == 0.9
    assert read_run(tmp_path / "a", sparsity_of="kernels").sparsity == 0.85
    write_run(tmp_path / "dense", test_error=0.02, sparsity=0.25, of_sparse=None, technique="none")
    assert read_run(tmp_path / "dense").sparsity == 0.25
    [row] = tradeoff_table(runs=[tmp_path / "a"], sparsity_of="kernels")
    assert row.sparsity == 0.85


def test_runs_of_the_other_programs(tmp_path):
    validation = {"perplexity": 12.5}
    write_run(tmp_path / "bleu", model=None, sparsity=0.9, results={"bleu": 25.5, "validation": validation})
    assert (read_run(tmp_path / "bleu").metric, read_run(tmp_path / "bleu").score) == ("BLEU", 25.5)
    assert read_run(tmp_path / "bleu").model == "Transformer"
    write_run(tmp_path / "text", model=None, sparsity=0.9, results={"validation": validation})
    assert (read_run(tmp_path / "text").metric, read_run(tmp_path / "text").score) == ("perplexity", 12.5)
    bits = {"bits_per_character": {"validation": 2.0, "test": 2.1}}
    write_run(tmp_path / "bits", model=None, sparsity=0.9, results=bits, cell="lstm")
    run = read_run(tmp_path / "bits")
    assert (run.model, run.metric, run.score) == ("CharRNN", "bits per character", 2.1)
    write_run(tmp_path / "words", model=None, test_error=0.25, sparsity=0.9, min_count=3)
    assert read_run(tmp_path / "words").model == "TextLSTM"


def test_what_a_run_keeps_makes_no_other_experiment(tmp_path):
    write_run(tmp_path / "a", test_error=0.02, sparsity=0.9, seed=0)
    write_run(tmp_path / "b", test_error=0.03, sparsity=0.9, seed=1, save_every=5, bench=True)
    [row] = tradeoff_table(runs=[tmp_path / "a", tmp_path / "b"])
    assert row.repeats == 2


def test_names_of_earlier_versions_and_other_names_of_techniques(tmp_path):
    write_run(tmp_path / "old", test_error=0.02, sparsity=0.9, technique="gmp", dense_layers="first", dense=...)
    run = read_run(tmp_path / "old")
    assert run.technique == "magnitude" and run.settings["dense"] == "first" and "dense_layers" not in run.settings


def test_collapsed_runs_are_left_out_and_said(tmp_path, folders):
    write_run(tmp_path / "bad", test_error=0.9, sparsity=None, collapsed="collapsed: it predicts class 8")
    assert read_run(tmp_path / "bad").sparsity is None
    table = tradeoff_table(runs=[*folders, tmp_path / "bad"])
    assert len(table) == 2 and table.left_out == [f"left out: {tmp_path / 'bad'} (collapsed: it predicts class 8)"]
    with pytest.raises(ValueError, match=r"at least one result. Received: none \(left out: .*class 8\)\)"):
        tradeoff_table(runs=[tmp_path / "bad"])


@pytest.mark.parametrize(
    "change,message",
    [
        ("{", "is damaged: Expecting property name"),
        ("[]", "must hold a JSON object"),
        ("{}", "its entry 'recipe' is None"),
        ({"recipe": 3}, "its entry 'recipe' is 3"),
        ({"recipe": {"seed": 0}}, "its entry 'technique' is None"),
        ({"sparsity": 1.5}, "its entry 'sparsity' is 1.5"),
        ({"sparsity": "0.9"}, "its entry 'sparsity' is '0.9'"),
        ({"sparsity": math.nan}, "its entry 'sparsity' is nan"),
        ({"sparsity": True}, "its entry 'sparsity' is True"),
        ({"test_error": "low"}, "its entry 'test_error' is 'low'"),
        ({"test_error": None}, "it has no top-1 accuracy"),
        ({"collapsed": 1}, "its entry 'collapsed' is 1"),
        ({"macs": [1]}, r"its entry 'macs' is \[1\]"),
    ],
)
def test_a_damaged_results_file_is_named(tmp_path, change, message):
    write_run(tmp_path / "a", test_error=0.02, sparsity=0.9)
    path = tmp_path / "a" / "results.json"
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        read_run(tmp_path / "a")
    assert str(caught.value).startswith(f"{path} is damaged: ") and "\n" not in str(caught.value)


def test_a_run_without_a_known_score_is_refused(tmp_path):
    write_run(tmp_path / "a", sparsity=0.9, results={"loss": 1.0})
    with pytest.raises(ValueError, match="neither test_error, bleu, validation nor bits_per_character"):
        read_run(tmp_path / "a")


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`folder` must hold a finished run .* \(it has no results.json\)$"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"\(there is no such folder\)$"):
        read_run(tmp_path / "nothing")
    with pytest.raises(ValueError, match="^`folder` must be a path"):
        read_run(3)
    with pytest.raises(ValueError, match="^`sparsity_of` must be one of"):
        read_run(tmp_path, sparsity_of="all")
    for value in (None, "runs", 3, {}):
        with pytest.raises(ValueError, match="^`runs` must be a list"):
            study.read_runs(value)


# The table.


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({}, "`published` and `runs` must hold at least one result"),
        ({"published": 3}, "`published` must be a list of `PublishedResult`"),
        ({"published": ["a"]}, "`published` must be a list of `PublishedResult`"),
        ({"published": [result()], "levels": 0.9}, "`levels` must be a list"),
        ({"published": [result()], "levels": []}, "`levels` must be a list"),
        ({"published": [result()], "levels": [0.9, 0.5]}, "`levels` must ascend"),
        ({"published": [result()], "levels": [0.9, 0.9]}, "`levels` must ascend"),
        ({"published": [result()], "levels": [90]}, "`levels` must be a number in"),
        ({"published": [result()], "sparsity_of": "x"}, "`sparsity_of` must be one of"),
        (
            {"published": [result(), result(model="VGG-D", dataset="CIFAR-10")]},
            "`published` must be of one model.* Received: ResNet-50 on ImageNet, VGG-D on CIFAR-10",
        ),
        (
            {"published": [result(), result(metric="BLEU")]},
            "`published` and `runs` must have one metric. Received: BLEU, top-1 accuracy",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tradeoff_table(**arguments)


def test_the_table_is_written_in_full(tmp_path, folders):
    table = tradeoff_table(published_results("str", "ResNet-50"), folders)
    text = str(table)
    assert "soft threshold" in text and "4,089.3M" in text and "26,620" in text and "81.27 %" in text
    assert "ResNet-50" in text and "lenet_300_100" in text  # two models
    table.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["top-1 accuracy"]) for line in lines] == [row.score for row in table]
    assert json.loads(lines[-1]["settings"])["final_sparsity"] == 0.98
    plain = json.loads(json.dumps(table.to_dict()))
    assert plain["metric"] == "top-1 accuracy" and plain["rows"][1]["flops"] == 705_385_411
    assert repr(table) == "TradeoffTable(<10 rows>, metric='top-1 accuracy')"
    with pytest.raises(ValueError, match="^`path` must be a path"):
        table.to_csv(3)


# The picture.


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(
        ImportError, match=r'The package matplotlib is not installed: pip install "sparsity-tf\[plot\]"'
    ):
        plot_tradeoff(published_results("str", "ResNet-50"))


@pytest.fixture(scope="module", autouse=True)
def needs_matplotlib():
    pytest.importorskip("matplotlib")


def markers(axes):
    """Dict from the label in the legend to the (x, y) of the points."""
    handles, labels = axes.get_legend_handles_labels()
    found = {}
    for handle, label in zip(handles, labels, strict=True):
        line = handle[0] if hasattr(handle, "lines") else handle
        found[label] = np.stack([line.get_xdata(orig=False), line.get_ydata(orig=False)], axis=1)
    return found


def test_the_picture_shows_the_points(tmp_path, folders):
    published = published_results("sparse_momentum", "LeNet-300-100", technique=["none", "set"])
    figure = plot_tradeoff(published, folders, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    [axes] = figure.axes
    points = markers(axes)
    assert set(points) == {
        "dense (Sparse Networks from Scratch): 98.69",
        "SET (Sparse Networks from Scratch)",
        "RigL (own runs)",
    }
    np.testing.assert_allclose(points["RigL (own runs)"], [[0.1, 98.0], [0.02, 95.0]])
    assert len(points["SET (Sparse Networks from Scratch)"]) == 6
    # Upright error bars alone: the sparsities of the repeats are equal.
    bars = {container.get_label(): len(container[2]) for container in axes.containers}
    assert bars == {"SET (Sparse Networks from Scratch)": 1, "RigL (own runs)": 1}
    assert axes.get_xscale() == "log" and axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.get_title(loc="left") == "LeNet-300-100, MNIST: best top-1 accuracy by technique"
    assert axes.get_ylabel() == "top-1 accuracy (%)"
    assert {label.get_text() for label in axes.get_xticklabels()} >= {"90", "95", "98", "99"}


def test_the_picture_against_operations(folders):
    published = published_results(["state_of_sparsity", "str"], "ResNet-50", technique=["magnitude", "vd", "str"])
    [axes] = plot_tradeoff(published, x="flops").axes
    points = markers(axes)
    # No operations are known of variational dropout.
    assert set(points) == {"magnitude pruning (State of Sparsity)", "soft threshold (STR)"}
    assert points["soft threshold (STR)"][0].tolist() == [705_385_411, 76.12]
    assert axes.xaxis.get_major_formatter()(2e8, 0) == "200M"
    [axes] = plot_tradeoff(runs=folders, x="flops", title="mine").axes
    assert axes.get_title(loc="left") == "mine"
    assert [axes.xaxis.get_major_formatter()(count, 0) for count in (5e3, 50.0, 2e9)] == ["5k", "50", "2G"]


def test_the_models_of_own_runs_are_named_if_they_differ(folders):
    [axes] = plot_tradeoff(published_results("str", "ResNet-50"), folders).axes
    assert "RigL (own runs, lenet_300_100)" in markers(axes)


def test_hopeless_points_can_be_left_out():
    published = published_results("state_of_sparsity", "ResNet-50", technique=["magnitude", "l0"])
    [axes] = plot_tradeoff(published, worst_score=40).axes
    assert set(markers(axes)) == {"magnitude pruning"}
    with pytest.raises(ValueError, match="none has a score that `worst_score` admits"):
        plot_tradeoff(published, worst_score=99)
    with pytest.raises(ValueError, match="^`worst_score` must be a finite number"):
        plot_tradeoff(published, worst_score="40")


def test_bad_arguments_of_the_picture(tmp_path):
    published = published_results("state_of_sparsity", "Transformer")
    for arguments, message in (
        ({"x": "macs"}, r"`x` must be one of \['sparsity', 'flops', 'seconds'\]"),
        ({"x": "flops"}, "`published` and `runs` must hold a point to draw. Received: none has a number of multiply"),
        ({"title": ""}, "`title` must be a string"),
        ({"path": 3}, "`path` must be a path"),
        ({"levels": "all"}, "`levels` must be a list"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            plot_tradeoff(published, **arguments)


def test_extreme_sparsities_can_be_drawn(tmp_path):
    points = [result(sparsity=sparsity, score=50 - sparsity) for sparsity in (0.0, 0.001, 0.9999, 1.0)]
    [axes] = plot_tradeoff(points, path=tmp_path / "a.png").axes
    assert markers(axes)["magnitude pruning"].shape == (4, 2)
    np.testing.assert_allclose(markers(axes)["magnitude pruning"][:, 0], [1.0, 0.999, 1e-4, 1e-5])
    [axes] = plot_tradeoff([result(sparsity=0.333)], path=tmp_path / "b.png").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["33.3"]
    [axes] = plot_tradeoff([result("none", 0.0)], path=tmp_path / "c.png").axes
    assert list(markers(axes)) == ["dense: 70.00"]


def test_many_techniques_have_colours():
    points = [result(f"mine_{number}", 0.9, 50.0 + number) for number in range(25)]
    assert len(markers(plot_tradeoff(points).axes[0])) == 25
