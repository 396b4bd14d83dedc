"""Reads a TensorFlow checkpoint in a `.tar` file, the form in which *The State of Sparsity* publishes its networks.

TensorFlow reads checkpoints from files only. So the files of the checkpoint are written into a temporary folder, which
is removed with the reader. Only regular files with the names of checkpoint files are written, each under the last part
of its name: nothing can land outside the folder. A file that holds links is refused.
"""

import contextlib
import os
import re
import tarfile
import tempfile

from sparsity_tf.bounded_files import check_unpacked, one_line
from sparsity_tf.checkpoints.checkpoint import CheckpointError

_CHUNK = 1 << 20
# The files of a TensorFlow checkpoint. (The graph, `.meta`, is not needed.)
_WANTED = re.compile(r"checkpoint|[^.][^/]*\.index|[^.][^/]*\.data-\d{5}-of-\d{5}")
# A folder of checkpoints has a few files. A file of millions of empty members would only cost time.
_MOST_MEMBERS = 10_000


def is_tar_file(path):
    """Whether a file is a tar file. Packed ones, such as `.tar.gz`, are not read."""
    with contextlib.suppress(Exception):  # tarfile raises many kinds of errors for files of other kinds
        tarfile.open(path, "r:").close()
        return True
    return False


def open_tar(path, open_directory):
    """Opens the checkpoint in a tar file.

    Args:
        path: The tar file.
        open_directory: Function from a folder of checkpoints, and the path for messages, to a `Checkpoint`.

    Returns:
        A `Checkpoint` that owns the temporary folder.

    Raises:
        CheckpointError: The file is damaged, holds links or no checkpoint, or unpacks to more than its size justifies.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsity_tf_"))
        try:
            _unpack(path, folder)
        except CheckpointError:
            raise
        except Exception as error:  # tarfile raises many kinds of errors for damage
            raise CheckpointError(
                f"'{path}' is not a readable .tar file (damaged or cut off?): {one_line(error)}"
            ) from error
        checkpoint = open_directory(folder, path)
        checkpoint.close_also(stack.pop_all())
    return checkpoint


def _unpack(path, folder):
    total, written = 0, set()
    with tarfile.open(path, "r:") as archive:
        for number, member in enumerate(archive):
            total += member.size
            check_unpacked(path, total)
            if number >= _MOST_MEMBERS:
                raise CheckpointError(f"'{path}' holds more than {_MOST_MEMBERS:,} files, and so no checkpoint")
            if member.isdir():
                continue
            name = os.path.basename(member.name)
            if not member.isreg() or member.issparse():
                raise CheckpointError(f"'{path}' must hold plain files only. Received: {one_line(member.name, 200)}")
            if not _WANTED.fullmatch(name):
                continue
            if name in written:
                raise CheckpointError(f"'{path}' must hold one checkpoint. Received: {one_line(name, 200)} twice")
            written.add(name)
            with archive.extractfile(member) as source, open(os.path.join(folder, name), "wb") as target:
                left = member.size
                while left and (part := source.read(min(left, _CHUNK))):
                    target.write(part)
                    left -= len(part)
            if left:
                raise CheckpointError(f"'{path}' is cut off in {one_line(member.name, 200)}")
            # The newest of several checkpoints is chosen by these times.
            os.utime(os.path.join(folder, name), (member.mtime, member.mtime))
