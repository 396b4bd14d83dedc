"""Files that appear under their name only when all of their content is on the disk: `appearing`."""

import contextlib
import os
import shutil
import tempfile

# Beginning of the name of the folder in which a file is written until it is complete.
UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def appearing(path, before_replacing=None):
    """Gives the path of an unfinished file or folder beside `path`, which takes the name when all went well.

    A file that has the name already is replaced; after an error, or a kill, it is what it was. A folder that has the
    name is replaced by a folder only. Nothing else is left behind, but by a kill a folder `.unfinished-*`.

    Args:
        path: str or `os.PathLike`. Its folder exists.
        before_replacing: Function without arguments that is called when the content is on the disk and nothing has the
            name yet; an error that it raises leaves everything as it was. `None` for nothing.

    Returns:
        A context whose value is a path with the same ending, where the caller writes.

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
        # The rename must not reach the disk before the content does.
        for file in _files(written):
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if before_replacing is not None:
            before_replacing()
        target = os.path.join(folder, name)
        if os.path.isdir(written) and os.path.isdir(target):
            # A folder is never replaced in one step: the old one steps aside first.
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
