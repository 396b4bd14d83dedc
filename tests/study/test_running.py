"""A study on this machine: its processes, what is left to do after a kill, and what is said of runs that fail."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sparsity_tf import study
from sparsity_tf.study import local, running
from tests.study import study_runs

ORDERS = "orders.json"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A study of 16 runs whose program is a stand-in, and processes that import nothing."""
    path = tmp_path / "mine.toml"
    path.write_text(study_runs.TEXT)
    monkeypatch.setattr(local, "child", study_runs.child)
    monkeypatch.setattr(local, "_context", lambda program: multiprocessing.get_context("fork"))
    monkeypatch.setattr(running, "check_folder", lambda *arguments: None)
    return study.read_study(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    order(tmp_path / "runs")
    return tmp_path / "runs"


def order(folder, **orders):
    (folder / ORDERS).write_text(json.dumps(orders))


def starts(folder):
    return {str(path.parent.relative_to(folder)): int(path.read_text()) for path in folder.rglob("began")}


def test_every_run_is_made_once(plan, folder, capsys):
    outcome = study.run_study(plan, folder, jobs=4)
    assert outcome.states == {"finished": 16} and outcome.failed == [] and outcome.signal is None
    assert starts(folder) == {run.folder: 1 for run in plan.runs()}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"mine: 16 runs; 4 at a time, in {folder}"
    assert len(said) == 17 and said[-1].startswith("[16/16] ") and "validation error" in said[-1]
    again = study.run_study(plan, folder)
    assert again.states == {"finished": 16} and set(starts(folder).values()) == {1}
    assert "16 runs, 16 of them ended before" in capsys.readouterr().out


def test_a_part_of_a_study_and_then_the_rest(plan, folder, capsys):
    part = plan.only(["rigl"])
    assert study.run_study(part, folder, jobs=4).states == {"finished": 8}
    assert starts(folder) == {run.folder: 1 for run in plan.runs() if run.method.name == "rigl"}
    assert study.run_study(plan, folder, jobs=4).states == {"finished": 16}
    assert starts(folder) == {run.folder: 1 for run in plan.runs()}
    assert "mine: 16 runs, 8 of them ended before" in capsys.readouterr().out


def test_a_part_of_a_search_and_then_the_rest(plan, folder, tmp_path):
    """The proposals are those of a start of the whole study, because a row has its own."""
    pytest.importorskip("optuna")
    path = tmp_path / "searched.toml"
    text = study_runs.TEXT.replace("[0.1, 0.03]", "{low = 0.01, high = 0.3, log = true}")
    path.write_text("trials = 3\n" + text)
    searched = study.read_study(path)
    for name in ("part", "whole"):
        (folder / name).mkdir()
        order(folder / name)
    study.run_study(searched.only(["rigl"]), folder / "part", jobs=4)
    study.run_study(searched, folder / "part", jobs=4)
    study.run_study(searched, folder / "whole", jobs=4)
    proposed = [json.loads((folder / name / "trials.json").read_text()) for name in ("part", "whole")]
    assert proposed[0] == proposed[1] and starts(folder / "part") == starts(folder / "whole")
    assert len(starts(folder / "whole")) == 24 and set(starts(folder / "whole").values()) == {1}


def test_a_killed_run_continues_as_often_as_allowed(plan, folder):
    first, second = plan.runs()[0].folder, plan.runs()[5].folder
    order(folder, killed={first: 2, second: 3})
    outcome = study.run_study(plan, folder, jobs=2, retries=2)
    assert outcome.states == {"finished": 15, "not begun": 1}
    assert starts(folder)[first] == 3 and starts(folder)[second] == 3
    [sentence] = outcome.failed
    assert "its process was killed" in sentence and "final_sparsity=0.95" in sentence
    assert study.run_study(plan, folder).states == {"finished": 16} and starts(folder)[second] == 4


def test_a_run_that_fails_does_not_stop_the_others(plan, folder, capsys):
    order(folder, refused=["rigl/final_sparsity=0.8,"])
    outcome = study.run_study(plan, folder, jobs=3)
    assert outcome.states == {"finished": 12, "not begun": 4} and len(outcome.failed) == 4
    assert "failed: error: `data_dir` has no such file" in outcome.failed[0] and "log.txt" in outcome.failed[0]
    assert set(starts(folder).values()) == {1}  # What a program refuses once it refuses again.


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_the_study_and_its_processes(plan, folder, number):
    order(folder, seconds=60)
    threading.Timer(0.8, os.kill, (os.getpid(), number)).start()
    began = time.monotonic()
    outcome = study.run_study(plan, folder, jobs=2)
    assert outcome.signal == number and time.monotonic() - began < 10
    assert outcome.failed == [] and "finished" not in outcome.states
    assert len(starts(folder)) == 2 and not multiprocessing.active_children()
    assert signal.getsignal(number) not in (local.stopping, None)
    order(folder)
    assert study.run_study(plan, folder, jobs=8).states == {"finished": 16}


def test_two_starts_at_once_are_refused(plan, folder):
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True)"
    )
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(folder / ".lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="is in use by"):
        study.run_study(plan, folder)
    holder.communicate("")


def test_threads_are_set_for_the_runs_alone(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    with local._environment(local.environment_of(2)):
        assert os.environ["NPROC"] == "2" and os.environ["TF_NUM_INTRAOP_THREADS"] == "2"
    assert "NPROC" not in os.environ and local.environment_of(None) == {}


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"jobs": 0}, "`jobs`"),
        ({"engine": "slurm"}, "`engine` must be one of"),
        ({"retries": -1}, "`retries`"),
        ({"ray": "auto"}, "`ray` must be"),
    ],
)
def test_wrong_arguments(plan, folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        study.run_study(plan, folder, **arguments)
