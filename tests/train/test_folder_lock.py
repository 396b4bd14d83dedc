"""The lock on a run's folder: one holder at a time, free as soon as the holder is gone."""

import contextlib
import errno
import os
import signal

import pytest

from sparsity_tf.train import folder_lock
from sparsity_tf.train.folder_lock import FolderLock

pytestmark = pytest.mark.skipif(folder_lock.fcntl is None, reason="needs the record locks of Unix")


@pytest.fixture
def holder(tmp_path):
    """A process of its own that holds the lock on `tmp_path`; gives its id."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            lock = FolderLock(tmp_path)  # noqa: F841  (kept until the process ends)
            os.write(told, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    yield pid
    end(pid)


def end(pid):
    """Kills a child; nothing for one that has gone."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_second_process_is_refused_and_told_by_whom(holder, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is in use by process {holder} on .*: two runs can't share"):
        FolderLock(tmp_path)


def test_killed_holder_does_not_block_its_successor(holder, tmp_path):
    end(holder)
    FolderLock(tmp_path).release()


def test_successor_waits_for_a_holder_that_still_dies(holder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_lock.time, "sleep", lambda seconds: end(holder))
    FolderLock(tmp_path, wait_seconds=1000).release()
    assert f"waiting up to 1000 s for process {holder}" in capsys.readouterr().out


def test_child_of_a_holder_does_not_keep_the_lock(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if not child:
        signal.pause()
    lock.release()
    try:
        grandchild = os.fork()
        if not grandchild:
            try:
                FolderLock(tmp_path)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(grandchild, 0)[1] == 0
    finally:
        end(child)


def test_file_that_is_left_behind_means_nothing(tmp_path):
    (tmp_path / folder_lock.LOCK).write_text("process 1 on another machine")
    FolderLock(tmp_path).release()


def test_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "lockf", refuse)
    with pytest.warns(UserWarning, match=f"file system of {tmp_path} has no locks .*start no other run in this folder"):
        FolderLock(tmp_path)


def test_system_without_locks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with pytest.warns(UserWarning, match=f"can't lock {tmp_path}: start no other run"):
        FolderLock(tmp_path).release()
