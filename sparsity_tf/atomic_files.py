"""Atomic writing: with `appearing`, a file gets its name only when all of its content is on the disk."""

import contextlib
import os
import shutil
import tempfile

# A file is written in a folder until it is complete. The name of the folder starts with this.
UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def appearing(path, before_replacing=None):
    """Gives the path of an unfinished file or folder. When the context ends without an error, it moves to `path`.

    An existing file of that name is replaced. After an error or a kill it is unchanged. An existing folder is replaced
    only by a folder. Nothing else is left behind, except that a kill leaves a folder `.unfinished-*`.

    Args:
        path: str or `os.PathLike`. Its folder exists.
        before_replacing: Function without arguments. It is called when the content is on the disk, before anything gets
            the name. If it raises an error, everything stays as before. `None` for nothing.

    Returns:
        A context. Its value is a path with the same ending, to which the caller writes.

    Example:

    ```python
    with appearing("model.keras") as unfinished:
        model.save(unfinished)
    ```
    """
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as unfinished:
        written = os.path.join(unfinished, name)
        yield written
        # The content must reach the disk before the rename does.
        for file in _files(written):
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if before_replacing is not None:
            before_replacing()
        target = os.path.join(folder, name)
        if os.path.isdir(written) and os.path.isdir(target):
            # No system call replaces a folder in one step, so the old folder is moved aside first.
            aside = os.path.join(unfinished, "replaced")
            os.rename(target, aside)
            try:
                os.rename(written, target)
            except OSError:
                os.rename(aside, target)
                raise
            shutil.rmtree(aside)
        else:
            os.replace(written, target)


def _files(path):
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
