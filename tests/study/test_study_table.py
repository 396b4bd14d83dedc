"""The table of a study: what validation data choose, what the test says of it, and what is said of runs that lack."""

import csv
import dataclasses
import io
import json
import statistics

import pytest

from sparsity_tf import study
from sparsity_tf.study import progress, search
from tests.study import study_runs

HALVES = (0.8, 0.95)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(study_runs.TEXT)
    return study.read_study(path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


def csv_of(table):
    file = io.StringIO()
    table.write_csv(file)
    return list(csv.DictReader(io.StringIO(file.getvalue())))


def test_validation_chooses_and_the_test_is_reported(plan, folder):
    results = {run.folder: study_runs.write(folder, run) for run in plan.runs()}
    table = study.study_table(plan, folder)
    assert [(row.method, row.axes["final_sparsity"]) for row in table] == [
        (method, sparsity) for method in ("magnitude", "rigl") for sparsity in HALVES
    ]
    different = 0
    for row in table:
        mean = {}
        for rate in (0.1, 0.03):
            runs = [
                results[f"{row.method}/final_sparsity={row.axes['final_sparsity']},learning_rate={rate}/seed-{s}"]
                for s in (0, 1)
            ]
            mean[rate] = [statistics.fmean(one[name] for one in runs) for name in ("val_error", "test_error")]
        best = min(mean, key=lambda rate: mean[rate][0])
        different += mean[best][1] > min(one[1] for one in mean.values())
        assert row.tuned == {"learning_rate": best} and row.candidates == 2
        assert [row.validation, row.test] == pytest.approx(mean[best])
        assert (row.runs, row.planned, row.collapsed, row.provisional) == (2, 2, 0, False)
        assert row.sparsity == row.axes["final_sparsity"] and row.dense_macs == 1000
        assert row.model == "lenet_300_100" and row.technique == row.method and len(row.folders) == 2
    assert different  # The test error would have chosen otherwise, or the case shows nothing.
    rows = csv_of(table)
    assert list(rows[0])[-1] == "seconds" and json.loads(rows[0]["axes"]) == {"final_sparsity": 0.8}
    assert float(rows[0]["test"]) == table.rows[0].test
    text = str(table)
    assert "test error, %" in text and "learning_rate=" in text and "provisional" not in text


def test_all_settings_show_no_test_figures(plan, folder):
    for run in plan.runs():
        study_runs.write(folder, run)
    table = study.study_table(plan, folder, everything=True)
    assert len(table) == 8 and "test error" not in str(table) and "validation error, %" in str(table)


def test_a_row_is_provisional_until_all_its_runs_have_ended(plan, folder):
    runs = [run for run in plan.runs() if run.method.name == "magnitude"]
    assert str(study.study_table(plan, folder)) == "No run of the study has finished."
    for run in runs[:3]:
        study_runs.write(folder, run)
    [row] = study.study_table(plan, folder)
    assert row.provisional and row.runs in (1, 2)
    assert "* provisional" in str(study.study_table(plan, folder))


def test_a_setting_whose_network_broke_is_chosen_last(plan, folder):
    for run in plan.runs():
        broken = run.tuned == {"learning_rate": 0.1} and run.seed == 0
        more = {"collapsed": "diverged: weights", "val_error": None, "test_error": None} if broken else {}
        study_runs.write(folder, run, **(more or ({"val_error": 1e-6} if run.tuned["learning_rate"] == 0.1 else {})))
    table = study.study_table(plan, folder)
    assert {row.tuned["learning_rate"] for row in table} == {0.03}
    for run in plan.runs():
        if run.tuned == {"learning_rate": 0.03}:
            study_runs.write(folder, run, collapsed="diverged: weights")
    table = study.study_table(plan, folder)
    assert {row.tuned["learning_rate"] for row in table} == {0.1} and table.rows[0].collapsed == 1
    assert "networks that diverged or collapsed, in no mean: magnitude, final_sparsity=0.8" in str(table)


def test_runs_that_a_scheduler_ended_are_not_chosen(plan, folder):
    for run in plan.runs():
        if run.tuned["learning_rate"] == 0.03:
            study_runs.write(folder, run)
        else:
            own = folder / run.folder
            own.mkdir(parents=True)
            (own / "recipe.json").write_text(json.dumps({"seed": run.seed, "epochs": 9}))
            progress.write_stopped(own, "ASHA", {"epoch": 3, "val_error": 1e-9})
    table = study.study_table(plan, folder)
    assert {row.tuned["learning_rate"] for row in table} == {0.03} and not any(row.provisional for row in table)
    found = progress.of_run(folder, plan.runs()[0])
    assert (found.state, found.detail) == ("stopped early", "by ASHA at epoch 3, val_error 1e-09")


def test_status_counts_every_run(plan, folder):
    runs = plan.runs()
    study_runs.write(folder, runs[0])
    study_runs.write(folder, runs[1], collapsed="diverged: weights that are not finite")
    own = folder / runs[2].folder
    own.mkdir(parents=True)
    (own / "recipe.json").write_text(json.dumps({"seed": 0, "epochs": 7}))
    (own / "log.txt").write_text("epoch 1\nerror: no space left\n")
    text = progress.status_text(plan, folder, runs)
    assert text.splitlines()[0].split() == ["method", "finished", "collapsed", "unfinished", "not", "begun", "runs"]
    assert text.splitlines()[-3].split() == ["all", "1", "1", "1", "13", "16"]
    assert "unfinished: magnitude, final_sparsity=0.8, learning_rate=0.03, seed 0: error: no space left" in text


def test_pictures_of_a_study(plan, folder, tmp_path):
    pytest.importorskip("matplotlib")
    for run in plan.runs():
        study_runs.write(folder, run)
    table = study.study_table(plan, folder)
    points = table.to_tradeoff()
    assert points.metric == "top-1 accuracy" and points.rows[0].score == pytest.approx(100 * (1 - table.rows[0].test))
    assert points.rows[0].standard_error == pytest.approx(100 * table.rows[0].test_error)
    beside = study.published_results(model="LeNet-300-100")
    for x in ("sparsity", "flops", "seconds"):
        figure = study.plot_study(table, x, beside if x == "sparsity" else None, path=tmp_path / f"{x}.png")
        [axes] = figure.axes
        assert {"magnitude pruning", "RigL"} <= {one.split(" (")[0] for one in _labels(figure)}
        lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
        assert len(lines) >= 2  # The points of each method are joined.
        if x == "seconds":
            assert sorted(lines[0].get_xdata()) == sorted(row.seconds for row in table.rows[:2])
    assert set(_labels(study.plot_study(table, methods=["rigl"]))) == {"RigL"}
    for wrong in (["ragl"], [], "rigl", [["rigl"]]):
        with pytest.raises((ValueError, TypeError), match="`methods` must"):
            study.plot_study(table, methods=wrong)
    dense = dataclasses.replace(table.rows[0], method="dense", technique="none")
    assert study.StudyTable([dense], "val_error").to_tradeoff().rows[0].technique == "none"
    with pytest.raises(ValueError, match="`published` must have the metric of the study"):
        study.plot_study(table, published=study.published_results(model="Transformer"))


def _labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_few_seeds_choose_and_the_others_run_the_chosen_settings(plan, folder):
    plan = dataclasses.replace(plan, seeds=(0, 1, 2), tune_seeds=(1,))
    assert search.count_runs(plan) == 4 * (2 + 2)
    results, rounds = {}, search.rounds(plan, folder)
    first = next(rounds)
    assert len(first) == 8 and {run.seed for run in first} == {1}
    for run in first[:-1]:
        results[run.folder] = study_runs.write(folder, run)
    # The last row has no choice yet, so its other seeds are not known. Those of the first rows are.
    assert len(search.planned_runs(plan, folder)) == 8 + 3 * 2
    results[first[-1].folder] = study_runs.write(folder, first[-1])
    chosen = {(row.method, row.axes["final_sparsity"]): row.tuned for row in study.study_table(plan, folder)}
    second = next(rounds)
    assert len(second) == 8 and {run.seed for run in second} == {0, 2}
    assert all(run.tuned == chosen[run.method.name, run.axes["final_sparsity"]] for run in second)
    assert study.study_table(plan, folder).rows[0].provisional
    for run in second:
        # Far worse with the other seeds: they must not change what the first seed chose.
        results[run.folder] = study_runs.write(folder, run, val_error=0.5)
    assert next(rounds, None) is None and len(search.planned_runs(plan, folder)) == 16
    table = study.study_table(plan, folder)
    for row in table:
        rates = {rate: _val_error(results, row, rate) for rate in (0.1, 0.03)}
        assert row.tuned == {"learning_rate": min(rates, key=rates.get)}
        assert (row.candidates, row.runs, row.planned, row.provisional) == (2, 3, 3, False)
    assert len(study.study_table(plan, folder, everything=True)) == 8
    # Without settings to tune nothing is chosen: all seeds run at once.
    plain = dataclasses.replace(plan, methods=(dataclasses.replace(plan.methods[0], tune={}),))
    assert search.count_runs(plain) == len(next(search.rounds(plain, folder))) == 6


def _val_error(results, row, rate):
    axis = row.axes["final_sparsity"]
    return results[f"{row.method}/final_sparsity={axis},learning_rate={rate}/seed-1"]["val_error"]


def test_a_search_goes_on_where_it_was_stopped(plan, folder):
    pytest.importorskip("optuna")
    [magnitude, _] = plan.methods
    space = {"learning_rate": {"low": 0.01, "high": 0.3, "log": True}, "momentum": [0.9, 0.95]}
    method = dataclasses.replace(magnitude, tune=space, axes={"final_sparsity": [0.9]})
    plan = dataclasses.replace(plan, methods=(method,), trials=3)
    assert search.count_runs(plan) == 6
    folder.mkdir()

    def go(count, again):
        for number, runs in enumerate(search.rounds(plan, again)):
            if number == count:
                return
            assert len(runs) == 2 and runs[0].tuned == runs[1].tuned
            for run in runs:
                study_runs.write(again, run)

    go(9, folder)
    tried = [run.tuned for run in search.planned_runs(plan, folder)][::2]
    assert len(tried) == 3 and len({one["learning_rate"] for one in tried}) == 3
    assert all(0.01 <= one["learning_rate"] <= 0.3 and one["momentum"] in (0.9, 0.95) for one in tried)
    other = folder.parent / "other"
    other.mkdir()
    go(2, other)
    go(9, other)
    assert [run.tuned for run in search.planned_runs(plan, other)][::2] == tried
    [row] = study.study_table(plan, other)
    assert row.candidates == 3 and not row.provisional
