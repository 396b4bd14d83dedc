"""Repeats of a run, and the summary of runs: exact statistics, and no run that vanishes."""

import json
import math
import os
import shutil

import numpy as np
import pytest

from sparsity_tf.tools import summarize as command
from sparsity_tf.train import log, repeats, run_folder, summary
from sparsity_tf.train.classifier import analysis, pictures
from sparsity_tf.train.classifier.recipe import Recipe
from tests.train.runs import classify, weights_of, write_digits


def write_run(folder, error, seed, results=None, data=None, **settings):
    """The files of a run as a program would have left them; `error=None` for an unfinished one."""
    folder.mkdir(parents=True)
    recipe = run_folder.as_plain(Recipe(seed=seed, epochs=2, **settings))
    (folder / run_folder.RECIPE).write_text(json.dumps({**recipe, "data": data or {"name": "digits", "checksum": 1}}))
    rows = [{"epoch": 1, "accuracy": 0.75, "val_error": 0.25, "val_top5_error": 0.125}]
    if error is not None:
        rows.append({"epoch": 2, "accuracy": 0.5, "val_error": 0.5, "val_top5_error": 0.25})
        found = {"collapsed": None, "test_error": error, "test_top5_error": 0.0, "test_loss": 1.0, "sparsity": 0.5}
        (folder / run_folder.RESULTS).write_text(json.dumps({**found, "compression": 2.0, **(results or {})}))
    log.write_rows(folder / run_folder.METRICS, rows)
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    status = command.main(["summarize", *map(str, arguments)])
    return status, *capsys.readouterr()


QUANTILES = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 10: 2.22814, 30: 2.04227}


@pytest.mark.parametrize(("degrees", "quantile"), QUANTILES.items())
def test_quantiles_of_student_are_those_of_the_tables(degrees, quantile):
    assert summary.student_quantile(degrees) == pytest.approx(quantile, abs=1e-5)
    assert summary.student_quantile(10_000) == pytest.approx(1.96020, abs=1e-5)
    assert summary.student_quantile(4, 0.99) == pytest.approx(4.60409, abs=1e-5)


def test_runs_that_differ_in_the_seed_are_a_group(tmp_path):
    errors = {0: 0.01, 1: 0.02, 2: 0.06}
    for seed, error in errors.items():
        write_run(tmp_path / f"a-{seed}", error, seed)
    write_run(tmp_path / "b", 0.5, 0, optimizer="sgd")
    found = summary.summarize([tmp_path])
    assert [(group.label, [run.seed for run in group.runs]) for group in found.groups] == [
        ("optimizer=adam", [0, 1, 2]),
        ("optimizer=sgd", [0]),
    ]
    row = found.rows()[0]
    assert (row["figure"], row["n"], row["seeds"]) == ("test_error", 3, "0 1 2")
    assert row["mean"] == pytest.approx(0.03) and row["median"] == 0.02
    error = np.std(list(errors.values()), ddof=1) / math.sqrt(3)
    assert row["standard_error"] == pytest.approx(error)
    assert [row["low"], row["high"]] == pytest.approx([0.03 - 4.30265 * error, 0.03 + 4.30265 * error], rel=1e-5)
    alone = next(row for row in found.rows() if row["group"] == "optimizer=sgd")
    assert (alone["n"], alone["mean"], alone["standard_error"], alone["low"]) == (1, 0.5, None, None)


def test_settings_that_change_no_weight_do_not_part_runs(tmp_path):
    write_run(tmp_path / "a", 0.1, 0)
    other = write_run(tmp_path / "b", 0.2, 1, keep_best=True, data_dir="elsewhere", bench=True, log_every=5)
    settings = json.loads((other / run_folder.RECIPE).read_text())
    for name in run_folder.ADDED:
        del settings[name]  # as in the file of an earlier version
    (other / run_folder.RECIPE).write_text(json.dumps(settings))
    write_run(tmp_path / "c", 0.3, 2, data={"name": "digits", "checksum": 2})
    found = summary.summarize([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    assert [len(group.runs) for group in found.groups] == [2, 1] and not found.left_out


def test_no_run_vanishes(tmp_path, capsys):
    write_run(tmp_path / "runs" / "good", 0.1, 0)
    write_run(tmp_path / "runs" / "unfinished", None, 1)
    write_run(tmp_path / "runs" / "diverged", 0.1, 2, {"collapsed": "diverged: weights that are not finite"})
    write_run(tmp_path / "runs" / "nan", float("nan"), 3)
    (write_run(tmp_path / "runs" / "half", 0.1, 4) / run_folder.RESULTS).write_text('{"test_error": 0.')
    (write_run(tmp_path / "runs" / "bare", 0.1, 5) / run_folder.RECIPE).unlink()
    (write_run(tmp_path / "runs" / "list", 0.1, 6) / run_folder.RESULTS).write_text("[]")
    (write_run(tmp_path / "runs" / "text", 0.1, 7) / run_folder.RESULTS).write_text('{"sparsity": "high"}')
    (write_run(tmp_path / "runs" / "empty", 0.1, 8) / run_folder.RESULTS).write_text("{}")
    shutil.copytree(tmp_path / "runs" / "good", tmp_path / "runs" / "twice")
    (tmp_path / "none").mkdir()
    (tmp_path / "file.csv").touch()
    places = [tmp_path / name for name in ("runs", "none", "file.csv", "nowhere", "runs/good")]
    status, out, error = run(capsys, *places)
    assert (status, error) == (0, "")
    left = dict(line.strip().split(": ", 1) for line in out.splitlines() if line.startswith(f"  {tmp_path}"))
    left = {name.removeprefix(f"{tmp_path}/"): reason for name, reason in left.items()}
    assert left == {
        "runs/unfinished": "unfinished: 1 of 2 epochs done",
        "runs/diverged": "diverged: weights that are not finite",
        "runs/nan": "damaged: test_error in results.json must be a finite number, not nan",
        "runs/half": left["runs/half"],
        "runs/bare": "damaged: recipe.json is missing",
        "runs/list": "damaged: results.json must hold a JSON object",
        "runs/text": "damaged: sparsity in results.json must be a finite number, not 'high'",
        "runs/empty": "damaged: results.json holds no figure",
        "runs/twice": f"the same settings and seed as {tmp_path}/runs/good",
        "none": "no run in it",
        "file.csv": "not a folder",
        "nowhere": "does not exist",
    }
    assert left["runs/half"].startswith(f"damaged: {tmp_path}/runs/half/results.json is damaged: ")
    assert "left out, 12 of 13:" in out
    for form in ("csv", "json"):
        status, out, error = run(capsys, f"--format={form}", *places)
        assert status == 0 and error.count("summarize: note: left out: ") == 12
    assert len(json.loads(out)["left_out"]) == 12


def test_a_row_names_the_runs_that_have_its_figure(tmp_path):
    write_run(tmp_path / "a", 0.1, 0)
    write_run(tmp_path / "b", 0.2, 1, {"best": {"test_error": 0.3}})
    rows = {row["figure"]: row for row in summary.summarize([tmp_path]).rows()}
    assert (rows["test_error"]["n"], rows["test_error"]["seeds"]) == (2, "0 1")
    best = rows["best.test_error"]
    assert (best["n"], best["seeds"], best["folders"]) == (1, "1", str(tmp_path / "b"))


def test_flags_may_stand_after_the_folders(tmp_path, capsys):
    write_run(tmp_path / "a", 0.1, 0)
    status, out, error = run(capsys, tmp_path, "--format=json", f"--output={tmp_path}/out.csv")
    assert (status, error) == (0, "") and not json.loads(out)["left_out"]
    assert (tmp_path / "out.csv").exists()


def test_repeats_are_not_continued_and_removed_at_once(tmp_path, capsys):
    run_of = write_run(tmp_path / "seed-0", 0.1, 0)
    flags = (f"--output_dir={tmp_path}", "--repeats=1", "--resume", "--overwrite")
    status, _, error = classify(["--config=lenet300_dense", *flags], capsys)
    assert status == 2 and "`resume` and `overwrite` exclude each other" in error
    assert (run_of / run_folder.RESULTS).exists()


def test_table_says_n_and_percent(tmp_path, capsys):
    for seed, error in enumerate((0.01, 0.02, 0.03)):
        write_run(tmp_path / str(seed), error, seed)
    status, out, _ = run(capsys, tmp_path)
    [line] = [line for line in out.splitlines() if "test error, %" in line]
    assert line.split()[-6:] == ["3", "2.000", "0.577", "-0.484", "to", "4.484"]
    assert line.startswith("none ")  # the technique, where nothing tells groups apart


def test_files_have_the_layouts_of_the_other_programs(tmp_path, capsys):
    for seed, error in enumerate((0.25, 0.5)):
        write_run(tmp_path / "runs" / str(seed), error, seed, technique="static", final_sparsity=0.5)
    held_out = {"val_error": 0.5, "val_top5_error": 0.25}
    write_run(tmp_path / "runs" / "held", 0.125, 7, held_out, validation_split=0.5)
    write_run(tmp_path / "runs" / "text", 0.1, 0, {"test_error": None, "test_loss": None, "bleu": 20.0}, batch_size=3)
    names = ("output", "str_csv", "sparse_momentum_csv")
    files = [tmp_path / f"{name}.csv" for name in names]
    outputs = [f"--{name}={file}" for name, file in zip(names, files, strict=True)]
    status, _, error = run(capsys, *outputs, tmp_path / "runs")
    assert status == 0 and error.count("is no classifier") == 2
    ours, of_str, of_momentum = (file.read_text().splitlines() for file in files)
    assert ours[0] == "group,figure,n,mean,standard_error,low,high,median,seeds,folders"
    assert of_str[0] == (
        "Date Finished, Base Config, Name, Prune Rate, Current Val Top 1, Current Val Top 5, Best Val Top 1, "
        "Best Val Top 5, Best Train Top 1, Best Train Top 5"
    )
    cells = [line.split(", ") for line in of_str[1:]]
    assert [row[1:] for row in cells if row[1].endswith("static")] == [
        ["mnist-lenet_300_100-static", f"{tmp_path}/runs/0", "0.5", "75.00", "100.00", "", "", "75.00", ""],
        ["mnist-lenet_300_100-static", f"{tmp_path}/runs/1", "0.5", "50.00", "100.00", "", "", "75.00", ""],
    ]
    [held] = [row[3:] for row in cells if "held" in row[2]]
    assert held == ["0.0", "50.00", "75.00", "75.00", "87.50", "75.00", ""]
    assert len(cells[0][0]) == len("mm-dd-yy_HH:MM:SS")
    assert of_momentum[0] == "Config,Metric,Median,Mean,Standard Error,Sample size,95% CI Lower,95% CI Upper"
    [accuracy] = [line for line in of_momentum if "technique=static" in line and ",Accuracy," in line]
    assert accuracy.endswith(f",0.625,0.625,0.125,2,{0.625 - 1.96 * 0.125},{0.625 + 1.96 * 0.125}")
    assert sum(",Loss," in line for line in of_momentum) == 2
    # Files that are there are kept.
    status, _, error = run(capsys, *outputs, tmp_path / "runs")
    assert status == 1 and "pass --overwrite to replace it" in error and error.count("\n") == 1
    assert run(capsys, *outputs, "--overwrite", tmp_path / "runs")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Folders of runs are required"),
        (["--form=csv", "runs"], 2, "Unknown command line flag 'form'"),
        (["--output=a.csv", "--str_csv=./a.csv", "runs"], 2, "must name different files"),
        (["--output=a.txt", "runs"], 1, "--output must end in .csv"),
        (["nowhere"], 1, "none of the 1 runs can be counted"),
    ],
)
def test_wrong_usage_is_said(capsys, arguments, status, message):
    found, _, error = run(capsys, *arguments)
    assert found == status and message in error.splitlines()[-1]


# Runs that are trained.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


def arguments(digits, folder, *more):
    small = ("--batch_size=32", "--epochs=2", "--jit_compile=false", "--technique=static", "--final_sparsity=0.5")
    return ["--config=lenet300_dense", f"--data_dir={digits}", f"--output_dir={folder}", *small, *more]


def test_repeats_of_several_workers_are_refused(digits, tmp_path):
    with pytest.raises(ValueError, match="`repeats` must not be given with strategy=multiworker"):
        repeats.run(None, Recipe(strategy="multiworker"), str(tmp_path), 2)


def write_speedup(folder):
    with open(os.path.join(folder, run_folder.SPEEDUP), "w") as file:
        file.write("layer\n")
    return [run_folder.SPEEDUP]


@pytest.mark.tensorflow
def test_repeats_are_ordinary_runs_that_a_second_start_completes(digits, tmp_path, capsys, monkeypatch):
    save, repeated = run_folder.Checkpoint.on_epoch_end, arguments(digits, tmp_path / "many", "--seed=3", "--iters=2")

    def save_then_interrupt(self, epoch, logs=None):
        save(self, epoch, logs)
        if "seed-4" in self.folder:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.Checkpoint, "on_epoch_end", save_then_interrupt)
        status, lines, error = classify(repeated, capsys)
    assert status == 130 and "continues the run" in error
    assert [line for line in lines if line.startswith("run ")] == [
        f"run {k} of 2, seed {seed}, in {tmp_path}/many/seed-{seed}" for k, seed in ((1, 3), (2, 4))
    ]
    before = (tmp_path / "many" / "seed-3" / run_folder.MODEL).stat().st_mtime_ns
    status, lines, error = classify(repeated, capsys)
    assert (status, error) == (0, "")
    assert "finished before: its figures are in the summary" in lines and "resuming after epoch 1" in lines
    assert (tmp_path / "many" / "seed-3" / run_folder.MODEL).stat().st_mtime_ns == before
    assert lines[-1] == f"in {tmp_path}/many/summary.csv"
    assert any(line.startswith("static  test error, %") for line in lines)
    assert (tmp_path / "many" / "summary.csv").read_text().count("seed-3") >= 3
    # An ordinary run, in a process that has made no other networks since, ends as the second repeat did.
    assert classify(arguments(digits, tmp_path / "one", "--seed=4"), capsys)[0] == 0
    for one, other in zip(weights_of(tmp_path / "one"), weights_of(tmp_path / "many" / "seed-4"), strict=True):
        np.testing.assert_array_equal(one, other)
    status, _, error = classify([*repeated, "--learning_rate=0.5"], capsys)
    assert status == 2 and "learning_rate: 0.001 -> 0.5" in error
    status, _, error = classify(arguments(digits, tmp_path / "one", "--repeats=2"), capsys)
    assert status == 2 and "`repeats` makes a folder for each run" in error
    # Finished runs are analysed later if the command asks for it then.
    with monkeypatch.context() as patch:
        patch.setattr(analysis, "check", lambda recipe, model: None)
        patch.setattr(analysis, "write", lambda prepared: write_speedup(prepared.output_dir))
        write_speedup(tmp_path / "many" / "seed-3")
        status, lines, error = classify([*repeated, "--bench"], capsys)
        assert (status, error) == (0, "")
        assert lines.count("finished before: its figures are in the summary") == 1
        assert lines.count("finished before, but it has no speedup.csv: made now") == 1
        assert (tmp_path / "many" / "seed-4" / run_folder.SPEEDUP).exists()
        status, lines, _ = classify([*repeated, "--bench"], capsys)
        assert lines.count("finished before: its figures are in the summary") == 2
    # A network that collapsed is named, and makes the status 1.
    path = tmp_path / "many" / "seed-4" / run_folder.RESULTS
    path.write_text(json.dumps({**json.loads(path.read_text()), "collapsed": "collapsed: as if"}))
    status, lines, _ = classify(repeated, capsys)
    assert status == 1 and "finished before: collapsed: as if" in lines
    assert f"  {tmp_path}/many/seed-4: collapsed: as if" in lines
