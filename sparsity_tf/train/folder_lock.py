"""A lock on the folder of a run, so that two processes do not write into it at once."""

import errno
import os
import socket
import time
import warnings

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
# How long a run that is continued waits for its predecessor to end: a killed one may still be writing, or its network
# file system may not have noticed yet.
WAIT_SECONDS = 120
_HELD = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """Keeps other processes out of the folder of a run until `release`, or until this process ends.

    What it guarantees: of all processes that take this lock on a folder, one at a time holds it. It is the operating
    system's record lock (`fcntl`) on the file `.lock` in the folder, which ends with the process that holds it, however
    that ends: a killed holder never blocks its successor, and the file that stays behind means nothing. Processes
    that a holder started do not inherit it. On NFS the server keeps the lock, for all machines that mount the folder
    with locking (the default; not `nolock` or `local_lock=all`); of a machine that went down it is free again after the
    server's lease (NFS 4: 90 seconds by default) or when that machine is back (NFS 3). Within one process it keeps
    nothing apart. On Windows, and on file systems without locks, there is none, and a warning says so.

    Args:
        folder: Path of an existing folder.
        wait_seconds: How long to wait for another process that holds it.

    Raises:
        ValueError: Another process still holds it. The message names folder and process.
        OSError: The file can't be made, for example in a folder that can't be written to.
    """

    def __init__(self, folder, wait_seconds=0):
        self._file, self._taken = None, False
        if fcntl is None:
            warnings.warn(f"This system has no lock for {folder}: keep other runs out of it.", stacklevel=2)
            return
        path = os.path.join(folder, LOCK)
        # Opened for writing, which a lock needs on NFS, without emptying what the holder wrote.
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8", errors="replace")
        try:
            self._take(folder, wait_seconds)
        except BaseException:
            self.release()
            raise

    def _take(self, folder, wait_seconds):
        end, waiting = time.monotonic() + wait_seconds, False
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    warnings.warn(
                        f"The file system of {folder} has no locks ({error.strerror}): keep other runs out of it.",
                        stacklevel=4,
                    )
                    return
                if error.errno not in _HELD:
                    raise
            holder = self._holder()
            if time.monotonic() >= end:
                raise ValueError(
                    f"{folder} is in use by {holder}: two runs can't share a folder. Wait until that one has ended, or "
                    "pass another --output_dir."
                )
            if not waiting:
                print(f"waiting up to {wait_seconds:.0f} s for {holder}, which uses {folder}", flush=True)
                waiting = True
            time.sleep(0.2)
        self._taken = True
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def _holder(self):
        self._file.seek(0)
        return " ".join(self._file.read(200).split()) or "another process"

    def release(self):
        """Lets others into the folder; the empty file stays, because another process may have opened it."""
        if self._file is not None:
            if self._taken:
                self._file.truncate(0)
            self._file.close()
            self._file = None
