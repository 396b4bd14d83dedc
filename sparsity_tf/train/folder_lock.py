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
# How long a continued run waits for the run before it to end. A killed process may still be writing, or the network
# file system may not have noticed its death yet.
WAIT_SECONDS = 120
_HELD = (errno.EACCES, errno.EAGAIN)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """Keeps other processes out of the folder of a run until `release`, or until this process ends.

    Of all processes that take this lock on a folder, only one holds it at a time. The lock is the operating system's
    record lock (`fcntl`) on the file `.lock` in the folder. The lock ends with the process that holds it, also if that
    process is killed. A killed process therefore never blocks the next one, and the file that stays behind means
    nothing. Child processes do not inherit the lock. Within one process, the lock does not keep two runs apart.

    On NFS the server keeps the lock, for all machines that mount the folder with locking (the default; not `nolock` or
    `local_lock=all`). If a machine goes down, its lock becomes free after the server's lease (NFS 4: 90 seconds by
    default) or when the machine is back (NFS 3). Windows and some file systems have no such locks; there a warning says
    that the folder is not locked.

    Args:
        folder: Path of an existing folder.
        wait_seconds: How long to wait for another process that holds the lock.

    Raises:
        ValueError: Another process still holds the lock. The message names folder and process.
        OSError: The file `.lock` can't be made, for example because the folder is not writable.
    """

    def __init__(self, folder, wait_seconds=0):
        self._file, self._taken = None, False
        if fcntl is None:
            warnings.warn(f"This system can't lock {folder}: start no other run in this folder.", stacklevel=2)
            return
        path = os.path.join(folder, LOCK)
        # A lock on NFS needs a file that is open for writing. This mode keeps the text that the holder wrote.
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
                        f"The file system of {folder} has no locks ({error.strerror}): start no other run in this "
                        "folder.",
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
        """Frees the folder for other processes. The empty file stays, because another process may have opened it."""
        if self._file is not None:
            if self._taken:
                self._file.truncate(0)
            self._file.close()
            self._file = None
