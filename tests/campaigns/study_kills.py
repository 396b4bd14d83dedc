"""A study in peace, killed with SIGKILL and started again, and on a Ray cluster of two workers that loses one.

    python -m tests.campaigns.study_kills benchmarks/studies/tiny.toml FOLDER [--jobs=2] [--method=rigl]

The tables of all three must be equal, but for the seconds, and so must every array of every `model.keras`. `--method`,
once or more often, takes only the runs of these methods. What is there already, in FOLDER/in_peace and the like, stays.
"""

import argparse
import csv
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(file, folder, *flags):
    """Starts `sparsity-tf study run` in a process of its own."""
    command = [sys.executable, "-m", "sparsity_tf.tools.study", "run", str(file), f"--output_dir={folder}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process):
    output = process.communicate(timeout=1800)[0]
    assert process.returncode == 0, output[-5000:]
    return output


def finished(folder):
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("results.json"))


def wait_for(process, folder, count):
    """Waits until `count` runs have finished and another one has a checkpoint."""
    while process.poll() is None:
        done = finished(folder)
        begun = {str(path.parent.relative_to(folder)) for path in folder.rglob("checkpoint.keras")} - {*done}
        if len(done) >= count and begun:
            return done, sorted(begun)
        time.sleep(0.1)
    raise AssertionError(f"the study ended before: {process.communicate()[0][-3000:]}")


def in_peace(file, folder, jobs, methods):
    return end(start(file, folder, f"--jobs={jobs}", *methods))


def killed(file, folder, jobs, after, methods):
    """The study is killed with SIGKILL once `after` runs have finished, and started again."""
    process = start(file, folder, f"--jobs={jobs}", *methods)
    done, begun = wait_for(process, folder, after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    print(f"killed after {len(done)} runs; begun: {', '.join(begun)}", flush=True)
    return end(start(file, folder, f"--jobs={jobs}", *methods))


def on_a_cluster(file, folder, after, methods):
    """Two workers with one core each, of which one is killed once `after` runs have finished."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(file, folder, "--jobs=2", "--engine=ray", f"--address={cluster.address}", *methods)
        done, begun = wait_for(process, folder, after)
        cluster.remove_node(workers[1], allow_graceful=False)
        print(f"one of two workers killed after {len(done)} runs; begun: {', '.join(begun)}", flush=True)
        return end(process)
    finally:
        cluster.shutdown()


def table_of(plan, folder):
    """The CSV table of a study without its last column, the seconds."""
    from sparsity_tf import study

    text = io.StringIO()
    study.study_table(plan, folder).write_csv(text)
    rows = list(csv.reader(io.StringIO(text.getvalue())))
    assert rows[0][-1] == "seconds"
    return [row[:-1] for row in rows]


def arrays_of(plan, folder):
    """Every array of every `model.keras` of a study, by its name."""
    found = {}
    for path in sorted(path for run in plan.runs() for path in (folder / run.folder).glob("model.keras")):
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            name = str(path.parent.relative_to(folder))

            def keep(key, item, name=name):
                if isinstance(item, h5py.Dataset):
                    found[f"{name}:{key}"] = item[()]

            file.visititems(keep)
    return found


def check_same(plan, folder, other):
    assert table_of(plan, folder) == table_of(plan, other)
    ours, others = arrays_of(plan, folder), arrays_of(plan, other)
    assert ours.keys() == others.keys() and ours
    for name, array in ours.items():
        np.testing.assert_array_equal(array, others[name], name)
    return len(ours)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--after", type=int, default=6)
    parser.add_argument("--method", action="append", default=[])
    given = parser.parse_args()
    from sparsity_tf import study

    plan, methods = study.read_study(given.file), [f"--method={name}" for name in given.method]
    plan = plan.only(given.method) if methods else plan
    makers = {
        "in peace": lambda folder: in_peace(given.file, folder, given.jobs, methods),
        "killed": lambda folder: killed(given.file, folder, given.jobs, given.after, methods),
        "on a cluster": lambda folder: on_a_cluster(given.file, folder, given.after, methods),
    }
    peace = None
    for name, make in makers.items():
        folder, began = given.folder / name.replace(" ", "_"), time.monotonic()
        output = make(folder)
        print(f"== {name}: {time.monotonic() - began:.0f} s\n{output}", flush=True)
        peace = peace or folder
        if folder is not peace:
            print(f"the same table and {check_same(plan, peace, folder)} equal arrays", flush=True)


if __name__ == "__main__":
    main()
