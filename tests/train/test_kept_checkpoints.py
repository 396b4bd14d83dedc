"""Copies of checkpoints: those of the epochs that were asked for, also after a kill, and each a usable network."""

import shutil

import pytest

from sparsity_tf.tools import evaluate
from sparsity_tf.train import run_folder
from sparsity_tf.train.classifier import pictures
from sparsity_tf.train.kept_checkpoints import KeptCheckpoints
from tests.train.runs import classify, write_digits

pytestmark = pytest.mark.tensorflow


class Killed(Exception):
    pass


def names(kept):
    return [path.name for path in sorted(kept.glob("*"))]


def keep(folder, every, most, epochs, first_epoch=0):
    kept = KeptCheckpoints(str(folder), every, most, first_epoch)
    for epoch in epochs:
        (folder / "new").write_text(str(epoch))
        kept.add(str(folder / "new"), epoch)
    return {path.name: path.read_text() for path in (folder / "checkpoints").glob("*")}


def test_every_so_many_epochs_and_the_newest_stay(tmp_path):
    assert keep(tmp_path, 4, 0, range(1, 11)) == {"epoch_4.keras": "4", "epoch_8.keras": "8"}
    # Sorted by number, not by name: 12 is newer than 8.
    assert keep(tmp_path, 4, 2, range(9, 13), first_epoch=8) == {"epoch_8.keras": "8", "epoch_12.keras": "12"}


def test_a_continued_run_drops_what_comes_after_its_checkpoint(tmp_path):
    keep(tmp_path, 2, 0, range(1, 9))
    (tmp_path / "checkpoints" / "unfinished_copy.keras").write_text("cut off")
    (tmp_path / "checkpoints" / "mine.keras").write_text("mine")
    found = keep(tmp_path, 2, 0, (), first_epoch=5)
    assert sorted(found) == ["epoch_2.keras", "epoch_4.keras", "mine.keras"]


def test_a_killed_run_ends_with_the_same_copies(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])
    (tmp_path / "digits").mkdir()
    write_digits(tmp_path / "digits")
    run = tmp_path / "run"
    command = ["--config=lenet300_dense", f"--data_dir={tmp_path / 'digits'}", f"--output_dir={run}"]
    command += ["--batch_size=32", "--epochs=4", "--jit_compile=false", "--save_every=2"]
    add = KeptCheckpoints.add

    def die(self, checkpoint, done):
        add(self, checkpoint, done)
        if done == 4:
            raise Killed  # after the copy, before the checkpoint counts

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(KeptCheckpoints, "add", die)
        classify(command, capsys)
    assert names(run / "checkpoints") == ["epoch_2.keras", "epoch_4.keras"]
    status, lines, _ = classify([*command, "--resume", "--keep_checkpoint_max=1"], capsys)
    assert status == 0 and "resuming after epoch 3" in lines
    assert names(run / "checkpoints") == ["epoch_4.keras"]
    # The copy is the checkpoint itself, a network that other commands take.
    copy = run / "checkpoints" / "epoch_4.keras"
    assert copy.read_bytes() == (run / run_folder.CHECKPOINT).read_bytes()
    assert evaluate.main(["evaluate", f"--checkpoint={copy}"]) == 0
    # A run may lie in a folder of the same name.
    shutil.copytree(run, tmp_path / "other" / "checkpoints")
    assert evaluate.main(["evaluate", f"--checkpoint={tmp_path}/other/checkpoints/model.keras"]) == 0


def test_copies_alone_are_an_earlier_run(tmp_path):
    keep(tmp_path, 1, 0, [1])
    with pytest.raises(ValueError, match="holds an earlier run"):
        run_folder.check_free(str(tmp_path), "")
