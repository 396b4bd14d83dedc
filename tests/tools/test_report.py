"""The command prints the report, or one line that says what is wrong."""

import json

import keras
import numpy as np
import pytest

from sparsity_tf.tools import report as command


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = command.main(["report", *arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def checkpoint(tmp_path):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
    model.layers[0].kernel.assign(np.eye(16))
    model.save(tmp_path / "m.keras")
    return f"--checkpoint={tmp_path / 'm.keras'}"


def test_it_prints_a_table_or_json_and_draws(run, checkpoint, tmp_path):
    quick = [checkpoint, "--targets=keras,gpu_2_4", "--batch_sizes=1,2", "--rounds=1"]
    status, out, err = run(*quick, f"--plot={tmp_path / 'r.png'}")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith("93.75 % of the weights of kernels are zero")
    assert "\nShipping gains most in Keras" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert (tmp_path / "r.png").exists()
    file = checkpoint.partition("=")[2]
    status, out, _ = run(file, *quick[1:], "--format=json")
    assert status == 0 and json.loads(out)["batch_sizes"] == [1, 2]


def test_what_is_wrong_is_one_line(run, checkpoint, tmp_path):
    for arguments, code, text in (
        ([], 2, "Give the file of one network"),
        ([checkpoint, "m.keras"], 2, "Give the file of one network"),
        (["m.keras", "n.keras"], 2, "Give the file of one network"),
        ([checkpoint, "--batch_sizes=one"], 2, "--batch_sizes must be integers"),
        ([checkpoint, "--targets=coreml"], 1, "`targets` must be a list"),
        ([checkpoint, f"--plot={tmp_path / 'r.jpg'}"], 1, "--plot must end in .png"),
        ([f"--checkpoint={tmp_path / 'no.keras'}"], 1, "does not exist"),
    ):
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (code, "", 1)
        assert text in err
