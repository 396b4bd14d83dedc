"""A process that reads damaged files for `test_damaged_files`, so that a crash, a hang or a full memory costs one case.

It takes a JSON object a line: what to do, `make` or `read`, with which format, in which folders. It answers with one.
"""

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
import warnings


def _status(key):
    """An entry of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))


def _read(form, folder, output):
    """What came of it: a dict with `outcome`, and what was said."""
    out, err = io.StringIO(), io.StringIO()
    result = {"outcome": "read", "said": ""}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = form.read(folder, output)
        except (ValueError, OSError, MemoryError) as error:
            from sparsity_tf.bounded_files import LONGEST_COMPLAINT, one_line

            result = {"outcome": "refused", "said": one_line(error, LONGEST_COMPLAINT), "error": type(error).__name__}
        except BaseException as error:  # what a program would show as a traceback
            traceback.print_exc(file=sys.__stderr__)
            result = {"outcome": "traceback", "said": f"{type(error).__name__}: {error}"[:2000]}
        else:
            if status:
                result = {"outcome": "refused", "said": err.getvalue(), "status": status}
    return result


def main():
    from tests.campaigns.file_formats import FORMATS

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    limited = False
    for line in sys.stdin:
        task = json.loads(line)
        form = FORMATS[task["format"]]
        if task["do"] == "make":
            form.make(task["folder"])
            # Once more as it will be: what is imported and compiled does not count for the first damaged file.
            answer = _read(form, task["folder"], task["output"])
            if not limited:
                # A last resort that keeps the machine alive: what is judged is the memory that was really used.
                resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + (24 << 30),) * 2)
                limited = True
        else:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # forgets the peak
            before, begin = _status("VmRSS"), time.process_time()
            answer = _read(form, task["folder"], task["output"])
            answer |= {"seconds": time.process_time() - begin, "memory": _status("VmHWM") - before}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
