"""The command `sparsity-tf study`: its words and flags, its exit status, and what it prints."""

import json
import multiprocessing
import os
import signal
import threading

import pytest

from sparsity_tf import study
from sparsity_tf.study import local, programs, running
from sparsity_tf.tools import study as command
from sparsity_tf.train import run_folder
from tests.study import study_runs


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(study_runs.TEXT)
    return path


def run(*arguments):
    return command.main(["study", *map(str, arguments)])


def test_table_status_and_plot_of_a_finished_study(file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plan = study.read_study(file)
    for one in plan.runs():
        study_runs.write(tmp_path / "runs" / "mine", one)
    table = study.study_table(plan, tmp_path / "runs" / "mine")
    assert run("table", file) == 0 and capsys.readouterr().out == f"{table}\n"
    assert run("table", file, "--format=csv") == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("method,technique,model,axes,tuned,")
    assert run("table", file, "--all_settings") == 0 and "test error" not in capsys.readouterr().out
    assert run("status", file) == 0 and capsys.readouterr().out.splitlines()[-1].split() == ["all", "16", "16"]
    assert run("plot", file, "--output=mine.png", "--x=seconds") == 0
    assert (tmp_path / "mine.png").read_bytes()[:4] == b"\x89PNG"
    assert run("plot", file, "--output=mine.png") == 1 and "pass --overwrite" in capsys.readouterr().err
    assert run("plot", file, "--output=rigl.png", "--method=rigl") == 0
    assert run("plot", file, "--output=other.png", "--method=rigl", "--method=ragl") == 1
    assert "`methods` must be a list of methods that have rows, such as magnitude, rigl" in capsys.readouterr().err
    assert run("status", file, "--method=rigl") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "8", "8"]
    assert run("table", file, "--method=rigl") == 0 and "magnitude" not in capsys.readouterr().out
    assert run("run", file, "--method=ragl") == 1
    assert "`methods` must be a list of methods of the study: 'magnitude', 'rigl'" in capsys.readouterr().err
    assert run("plot", file, "--output=other.png", "--published=nonsense") == 1
    assert "`model` must be one of Transformer, ResNet-50" in capsys.readouterr().err


def test_every_error_of_a_file_has_a_line_of_its_own_and_nothing_starts(file, tmp_path, capsys):
    file.write_text(study_runs.TEXT.replace("seeds = [0, 1]", "seeds = []").replace('"rigl"', '"ragl"'))
    assert run("run", file) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{file}:3: `seeds` must be") and lines[1].startswith(f"{file}:18: `technique` must be")
    assert lines[2:] == [f"study: error: {file} has 2 errors (--help shows the flags)"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "Give one of run, resume, status, table, plot, and a study file"),
        (["start", "FILE"], "Give one of run"),
        (["table", "FILE", "--jobs=2"], "Flag --jobs has no meaning with table"),
        (["run", "FILE", "--gpus=1"], "Flag --gpus needs --engine=ray"),
        (["run", "FILE", "--jobs=0"], "jobs"),
        (["plot", "FILE"], "Flag --output is required"),
    ],
)
def test_wrong_flags(file, arguments, message, capsys):
    assert run(*[str(file) if one == "FILE" else one for one in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_and_a_study_without_runs(file, capsys):
    assert run("status", "none.toml") == 1 and "none.toml" in capsys.readouterr().err
    assert run("table", file) == 0 and capsys.readouterr().out == "No run of the study has finished.\n"
    assert run("plot", file, "--output=mine.png") == 1 and "has finished" in capsys.readouterr().err


def test_exit_status_of_a_start(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "child", study_runs.child)
    monkeypatch.setattr(local, "_context", lambda program: multiprocessing.get_context("fork"))
    monkeypatch.setattr(running, "check_folder", lambda *arguments: None)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "orders.json").write_text('{"refused": ["rigl"]}')
    assert run("run", file, "--jobs=4") == 1
    shown = capsys.readouterr()
    assert "8 finished, 8 not begun" in shown.out and "study: error: 8 of 16 runs failed" in shown.err
    (folder / "orders.json").write_text('{"seconds": 30}')
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as ended:
        run("resume", file)
    assert ended.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; the same command continues the study" in capsys.readouterr().err
    (folder / "orders.json").write_text("{}")
    assert run("resume", file, "--jobs=4") == 0
    assert str(study.study_table(study.read_study(file), folder)) in capsys.readouterr().out


def test_runs_with_other_settings_are_refused(file, tmp_path, capsys):
    first = study.read_study(file).runs()[0]
    own = tmp_path / "runs" / "mine" / first.folder
    own.mkdir(parents=True)
    recipe = run_folder.as_plain(programs.recipe_of("classifier", first.arguments))
    (own / "recipe.json").write_text(json.dumps({**recipe, "epochs": 3}))
    assert run("run", file) == 1
    error = capsys.readouterr().err
    assert "holds runs with other settings than the study" in error and "epochs: 3 -> 100" in error
