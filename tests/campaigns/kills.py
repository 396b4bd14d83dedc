"""What the kill campaign runs in processes of their own: one program of training, with a fault on its way.

`multiprocessing`'s fork server imports the programs once and forks for every run, so that none waits for TensorFlow.
"""

import faulthandler
import os
import resource
import signal
import sys

from absl import flags

from sparsity_tf.train.classifier import __main__ as classifier
from sparsity_tf.train.language_model import __main__ as language_model
from sparsity_tf.train.translator import __main__ as translator
from sparsity_tf.train.translator import task as translation_loop  # noqa: F401

# A user who may not read Python's own folder can't import codecs, which Python does at their first use.
for _codec in ("utf-8", "utf-32-le", "ascii", "latin-1", "idna"):
    "".encode(_codec)

PROGRAMS = {"classifier": classifier, "translator": translator, "language_model": language_model}


def run(program, arguments, log, fault=None):
    """Runs a program and ends the process with its exit status.

    Args:
        program: Key of `PROGRAMS`.
        arguments: Its flags.
        log: Path of a file that its output is added to.
        fault: `None`; `("write", n)`: SIGKILL at the n-th time that a file of the run is opened for writing, renamed or
            removed; `("full", n)`: no file can become larger than n bytes; `("nobody", None)`: as a user who may not
            write into the folder.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    values = flags.FlagValues()
    PROGRAMS[program].define_flags(values)
    values([program, *arguments])
    count = _count_writes(values.output_dir, fault[1] if fault and fault[0] == "write" else None)
    if fault and fault[0] == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault[1], resource.RLIM_INFINITY))
    if fault and fault[0] == "nobody":
        os.setgid(65534)
        os.setuid(65534)
    status = PROGRAMS[program].main([program], values)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(f"writes {count[0]}, exit status {status}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _count_writes(folder, kill_at):
    """Counts what happens to the files of a folder, and kills the process at one of these events."""
    count = [0]

    def hook(event, arguments):
        path = arguments[0] if arguments else None
        if not isinstance(path, str) or not path.startswith(folder):
            return
        if event == "open":
            mode = arguments[1]
            if not isinstance(mode, str) or not set(mode) & set("wax+"):
                return
        elif event not in ("os.rename", "os.remove"):
            return
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count
