"""Code that runs in a process of its own in which Keras is imported, and `sparsity_tf` is not.

An import of TensorFlow takes longer than most tests. One process, started when the first test needs it, imports Keras;
`run` forks it. TensorFlow has not started there: logical devices can still be set. Use `subprocess` where the command
line of `python` itself is tested, or where Keras must not be imported, or with other variables of the environment that
Keras or TensorFlow read when they are imported.

Example:

    done = fresh_process.run("import sparsity_tf; print(sparsity_tf.__version__)")
    assert done.returncode == 0, done.stderr
"""

import atexit
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(code=None, arguments=(), module=None, cwd=None, env=None):
    """Runs code, or a module by its name as `python -m` does.

    Args:
        code: str or `None`, Python source.
        arguments: strings, `sys.argv` from its second entry on.
        module: str or `None`, a module in the place of code.
        cwd: folder, by default the one of this process.
        env: dict of variables to set, added to those of this process.

    Returns:
        `subprocess.CompletedProcess` with its exit status and output, as text.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "code": code,
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or os.getcwd()),
            "env": {**os.environ, **(env or {})},
            "out": os.path.join(folder, "out"),
            "err": os.path.join(folder, "err"),
        }
        server = _server()
        server.stdin.write(json.dumps(task) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks has ended with status {server.wait()}")
        out, err = (pathlib.Path(task[name]).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(module or "-c", int(answer), out, err)


_servers = {}


def _server():
    """The process that forks, of this process."""
    if os.getpid() not in _servers:
        server = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__))],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        _servers[os.getpid()] = server
        atexit.register(server.stdin.close)
    return _servers[os.getpid()]


def _serve():
    # A program's folder is not on the path of `python -c`.
    sys.path[0] = ""
    tasks, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    import keras  # noqa: F401

    while line := tasks.readline():
        child = os.fork()
        if not child:
            _run(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def _run(task):
    """The whole life of a forked process."""
    for descriptor, path in ((1, task["out"]), (2, task["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    sys.argv[:] = ["-c", *task["arguments"]]
    status = 1
    try:
        if task["module"]:
            import runpy

            runpy.run_module(task["module"], run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(task["code"], "<string>", "exec"), vars(main))
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
