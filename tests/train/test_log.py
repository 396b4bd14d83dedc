"""Figures on disk: what a continued run does with those that are damaged or lost."""

import json
import math
import os
import shutil

import pytest

from sparsity_tf.train import log, run_folder
from sparsity_tf.train.classifier import pictures
from tests.train.runs import classify, weights_of, write_digits

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def command(digits, folder, *more):
    small = (
        "--batch_size=16",
        "--epochs=3",
        "--jit_compile=false",
        "--frequency=2",
        "--train_examples=0",
        "--keep_best",
    )
    return ["--config=lenet300_rigl", f"--data_dir={digits}", f"--output_dir={folder}", *small, *more]


@pytest.fixture(scope="module")
def killed(whole):
    """Folder of a run that was killed when it had done two of three epochs and written the figures of the third."""
    folder = whole.with_name("killed")
    assert [row["epoch"] for row in log.read_metrics(folder)] == ["1", "2", "3"]
    return folder


def classify_quietly(arguments):
    class Nobody:
        def readouterr(self):
            return type("Output", (), {"out": "", "err": ""})

    return classify(arguments, Nobody())[0]


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Folder of the run that nothing disturbed. Beside it is `killed`: what a kill before the last saving leaves."""
    folder = tmp_path_factory.mktemp("log") / "whole"
    save = run_folder.Checkpoint.on_epoch_end

    def copy_and_save(self, epoch, logs=None):
        if epoch == 2:
            shutil.copytree(folder, folder.with_name("killed"))
        save(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw", lambda model, folder: [])
        patch.setattr(run_folder.Checkpoint, "on_epoch_end", copy_and_save)
        assert classify_quietly(command(digits, folder)) == 0
    return folder


def lines_of(folder, name):
    """Lines of a file of figures, the seconds left out."""
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    at = lines[0].index("seconds") if "seconds" in lines[0] else None
    return [[cell for k, cell in enumerate(line) if k != at] for line in lines]


@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.SPARSITY_BY_STEP])
def test_a_row_that_a_kill_cut_off_is_written_anew_without_a_word(killed, whole, digits, tmp_path, capsys, name):
    folder = shutil.copytree(killed, tmp_path / "run")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-9])
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert (status, error) == (0, "")
    for file in (run_folder.METRICS, run_folder.SPARSITY_BY_STEP):
        assert lines_of(folder, file) == lines_of(whole, file)
    for one, other in zip(weights_of(folder), weights_of(whole), strict=True):
        assert (one == other).all()


def damages():
    """Pairs: what happens to a file of figures, and what is said."""

    def rewritten(change):
        return lambda path: path.write_bytes(change(path.read_bytes()))

    def folder_in_its_place(path):
        path.unlink()
        path.mkdir()

    lines = lambda content: content.split(b"\r\n")  # noqa: E731
    joined = b"\r\n".join
    return {
        "empty": (rewritten(lambda content: b""), "is damaged: it has no header line."),
        "no UTF-8": (rewritten(lambda content: content[:-20] + b"\xff" + content[-19:]), "can't decode byte 0xff"),
        "text": (rewritten(lambda content: joined([*lines(content)[:2], b"a" + lines(content)[2], b""])), "line 3: "),
        "short row": (rewritten(lambda content: joined([*lines(content)[:2], b"2", b""])), "line 3 has 1 cells for"),
        "no header": (rewritten(lambda content: joined(lines(content)[1:])), "it lacks the columns epoch, "),
        "lost column": (
            rewritten(lambda content: joined(line.partition(b",")[2] for line in lines(content))),
            "it lacks the columns epoch",
        ),
        "folder": (folder_in_its_place, "Is a directory"),
    }


@pytest.mark.parametrize("damage", list(damages()))
@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.SPARSITY_BY_STEP])
def test_damaged_figures_are_one_line_and_status_2(killed, digits, tmp_path, capsys, name, damage):
    folder = shutil.copytree(killed, tmp_path / "run")
    change, message = damages()[damage]
    change(folder / name)
    before = {file: (folder / file).read_bytes() for file in (run_folder.CHECKPOINT, run_folder.BEST)}
    content = (folder / name).read_bytes() if damage != "folder" else None
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: ")
    assert str(folder / name) in error and message in error
    if damage != "folder":
        assert "Correct the file, or remove it" in error and (folder / name).read_bytes() == content
    assert {file: (folder / file).read_bytes() for file in before} == before
    assert not [file for file in os.listdir(folder) if "unfinished" in file]


def test_damaged_figures_of_a_finished_run_are_one_line_and_status_2(whole, digits, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "run")
    results = (folder / run_folder.RESULTS).read_bytes()
    path = folder / run_folder.METRICS
    path.write_bytes(path.read_bytes().replace(b"loss", b"less"))
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert status == 2 and f"{path} is damaged: it lacks the columns loss." in error and error.count("\n") == 1
    assert (folder / run_folder.RESULTS).read_bytes() == results


def test_rows_are_only_added_to_a_file_of_the_same_columns(killed, digits, tmp_path, capsys):
    folder = shutil.copytree(killed, tmp_path / "run")
    rows = [{name: row[name] for name in row if name != "compression"} for row in log.read_metrics(folder)]
    log.write_rows(folder / run_folder.METRICS, rows)
    before = (folder / run_folder.CHECKPOINT).read_bytes()
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert (
        status == 2
        and "must be the columns of this run, in the same order (missing: compression; unknown: none)" in error
    )
    assert (folder / run_folder.CHECKPOINT).read_bytes() == before and len(log.read_metrics(folder)) == 2


@pytest.mark.parametrize("lost", ["the file", "a row"])
def test_lost_rows_of_epochs_that_are_done_are_said(killed, digits, tmp_path, capsys, lost):
    folder = shutil.copytree(killed, tmp_path / "run")
    if lost == "the file":
        os.remove(folder / run_folder.METRICS)
    else:
        log.write_rows(folder / run_folder.METRICS, log.read_metrics(folder)[:1])
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert status == 0
    last = 0 if lost == "the file" else 1
    assert error.startswith(
        f"warning: {folder / run_folder.METRICS} has rows only up to epoch {last}, but 2 epochs are done: "
    )
    assert error.count("\n") == 1 and "best.keras" in error
    assert [int(row["epoch"]) for row in log.read_metrics(folder)] == [*range(1, last + 1), 3]
    assert json.loads((folder / run_folder.RESULTS).read_text())["epochs"] == 3


def test_lost_rows_of_a_finished_run_are_said(whole, digits, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "run")
    log.write_rows(folder / run_folder.METRICS, log.read_metrics(folder)[:2])
    status, _, error = classify(command(digits, folder, "--resume"), capsys)
    assert status == 0 and "has rows only up to epoch 2, but 3 epochs are done" in error


def test_a_run_that_begins_anew_needs_no_figures_of_before(killed, whole, digits, tmp_path, capsys):
    folder = shutil.copytree(killed, tmp_path / "run")
    os.remove(folder / run_folder.CHECKPOINT)
    for name in (run_folder.METRICS, run_folder.SPARSITY_BY_STEP):
        (folder / name).write_bytes(b"\xff")
    status, lines, error = classify(command(digits, folder, "--resume"), capsys)
    assert (status, error) == (0, "") and "no checkpoint yet: starting anew" in lines
    assert lines_of(folder, run_folder.METRICS) == lines_of(whole, run_folder.METRICS)


@pytest.mark.parametrize("error", ["low", "", "0x1"])
def test_the_lowest_error_is_a_number_of_the_file_or_the_file_is_damaged(tmp_path, error):
    (tmp_path / run_folder.BEST).touch()
    log.write_rows(tmp_path / run_folder.METRICS, [{"epoch": 1, "test_error": 0.25}, {"epoch": 2, "test_error": "inf"}])
    assert log.lowest_error(tmp_path, "test_error", 1) == 0.25
    assert log.lowest_error(tmp_path, "test_error", 2) == math.inf
    log.write_rows(tmp_path / run_folder.METRICS, [{"epoch": 1, "test_error": error}])
    with pytest.raises(
        ValueError, match=f"line 2: test_error must be a number, not '{error}'.* Correct the file, or remove it"
    ):
        log.lowest_error(tmp_path, "test_error", 1)
    with pytest.raises(ValueError, match="it lacks the columns val_loss"):
        log.lowest_error(tmp_path, "val_loss", 1)


def test_epochs_rise_from_row_to_row(tmp_path):
    log.write_rows(tmp_path / run_folder.METRICS, [{"epoch": epoch} for epoch in (1, 2, 2)])
    with pytest.raises(ValueError, match="its epochs do not rise"):
        log.read_metrics(tmp_path)
