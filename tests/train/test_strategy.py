"""Strategies of `tf.distribute`: the same masks and weights on every replica and worker, and exact continuation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsity_tf.train import log, run_folder, strategy
from tests.train.runs import classify, write_digits

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).resolve().parents[2]
RUN = (
    "--config=lenet300_rigl",
    "--train_examples=0",
    "--final_sparsity=0.75",
    "--frequency=4",
    "--batch_size=8",
    "--epochs=3",
    "--jit_compile=false",
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_workers(digits, folder, *flags, epochs_to_live=99):
    """Two workers on this machine: the variables of both, or `None` if they were killed."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    workers, files = [], [folder.with_name(f"{folder.name}_{index}.npz") for index in range(2)]
    for index, file in enumerate(files):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-m", "tests.train.worker", str(folder), str(file), str(epochs_to_live)]
        command += [*RUN, f"--data_dir={digits}", "--strategy=multiworker", *flags]
        environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
        workers.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    try:
        # The chief is the one that dies: the other may wait for it for ever.
        output = workers[0].communicate(timeout=300)[0].decode()
        if epochs_to_live < 99:
            assert workers[0].returncode == 9, output
            return None
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0], output
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return [dict(np.load(file)) for file in files]


@pytest.mark.slow
def test_workers_agree_and_a_killed_run_continues_to_the_same_weights(digits, tmp_path):
    through = run_workers(digits, tmp_path / "through")
    for name, value in through[0].items():
        np.testing.assert_array_equal(value, through[1][name])
    results = json.loads((tmp_path / "through" / run_folder.RESULTS).read_text())
    assert results["sparsity"] == pytest.approx(0.75, abs=1e-4)

    run_workers(digits, tmp_path / "killed", epochs_to_live=2)
    assert len(log.read_metrics(tmp_path / "killed")) == 2
    for variables in run_workers(digits, tmp_path / "killed", "--resume"):
        for name, value in through[0].items():
            np.testing.assert_array_equal(value, variables[name])


def test_run_under_one_mirrored_replica_is_the_run_without(digits, tmp_path, capsys):
    rows = []
    for name in ("none", "mirrored"):
        folder = tmp_path / name
        flags = [*RUN, "--epochs=1", f"--data_dir={digits}", f"--output_dir={folder}", f"--strategy={name}"]
        status, _, error = classify(flags, capsys)
        assert status == 0, error
        rows += log.read_metrics(folder)
    for column in set(rows[0]) - {"seconds"}:
        assert float(rows[0][column]) == pytest.approx(float(rows[1][column]), rel=1e-5, abs=1e-7), column


@pytest.mark.parametrize("text", ["", "{", '{"cluster": {}}', '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}'])
def test_workers_without_a_cluster_are_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`strategy=multiworker` needs TF_CONFIG"):
        strategy.get_strategy("multiworker")


def test_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="one of none, mirrored, multiworker, tpu"):
        strategy.get_strategy("horovod")


def test_batch_must_divide_among_replicas(digits, tmp_path, capsys, monkeypatch):
    class Four:
        num_replicas_in_sync = 4

    from sparsity_tf.train import trainer as loop

    monkeypatch.setattr(loop, "get_strategy", lambda name: Four())
    flags = [*RUN, "--batch_size=6", f"--data_dir={digits}", f"--output_dir={tmp_path}"]
    status, _, error = classify(flags, capsys)
    assert status == 2 and "`batch_size` must be a multiple of the 4 replicas" in error


@pytest.mark.slow
def test_two_replicas_of_one_process_train_together(digits, tmp_path):
    code = (
        "import tensorflow as tf\n"
        "cpus = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from sparsity_tf.train.classifier.__main__ import run_main; run_main()"
    )
    arguments = [*RUN, f"--data_dir={digits}", f"--output_dir={tmp_path / 'run'}", "--strategy=mirrored"]
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert finished.returncode == 0, finished.stderr
    assert "1 steps a call, 2 replicas" in finished.stdout
    results = json.loads((tmp_path / "run" / run_folder.RESULTS).read_text())
    assert results["collapsed"] is None and 0.74 < results["sparsity"] < 0.76
