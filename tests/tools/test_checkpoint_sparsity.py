"""The command prints a report, or one line that says what is wrong."""

import csv
import io
import json
import pathlib

import h5py
import keras
import numpy as np
import pytest

from sparsity_tf.layers import MaskedDense
from sparsity_tf.tools.checkpoint_sparsity import main
from tests import fresh_process

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def checkpoint(tmp_path):
    """A masked layer with 3 of 10 weights left, and a variational-dropout layer with 1 of 2."""
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/masked/vars/kernel"] = np.ones((5, 2), "float32")
        file["layers/masked/vars/mask"] = np.arange(10).reshape(5, 2) < 3
        file["layers/vd/vars/kernel"] = np.array([[0.5, -0.02]], "float32")
        file["layers/vd/vars/log_sigma2"] = np.array([[-10.0, -4.0]], "float32")
    return str(path)


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = main(["checkpoint_sparsity", *arguments])
        return status, *capsys.readouterr()

    return run


def test_table_has_a_row_for_each_tensor_and_the_global_sparsity(run, checkpoint):
    status, out, _ = run(f"--checkpoint={checkpoint}")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["name", "shape", "size", "nonzeros", "sparsity"]
    assert [line.split() for line in lines[2:4]] == [
        ["layers/masked/vars/mask", "5x2", "10", "3", "0.7000"],
        ["layers/vd/vars/log_sigma2", "1x2", "2", "1", "0.5000"],
    ]
    assert lines[-1] == f"{checkpoint} global sparsity = 66.67 %"


def test_pictures_follow_the_table(run, checkpoint):
    status, out, _ = run(f"--checkpoint={checkpoint}", "--picture_width=40")
    assert status == 0
    # Three of ten in two columns and five rows, and the first of two.
    assert "layers/masked/vars/mask\n⠋\n⠀\n\nlayers/vd/vars/log_sigma2\n⠁\n\n" in out
    assert out.splitlines()[-1] == f"{checkpoint} global sparsity = 66.67 %"
    status, _, error = run(f"--checkpoint={checkpoint}", "--picture_width=40", "--format=csv")
    assert status == 2 and "--picture_width needs --format=table" in error
    assert run(f"--checkpoint={checkpoint}", "--picture_width=-1")[0] == 2


def test_json_is_the_report_and_nothing_else(run, checkpoint):
    status, out, _ = run(f"--checkpoint={checkpoint}", "--format=json", "--sparsity_technique=magnitude_pruning")
    assert status == 0
    assert json.loads(out) == {
        "global_sparsity": 0.7,
        "size": 10,
        "nonzeros": 3,
        "tensors": [
            {
                "name": "layers/masked/vars/mask",
                "shape": [5, 2],
                "size": 10,
                "nonzeros": 3,
                "sparsity": 0.7,
            }
        ],
    }


def test_csv_has_the_columns_of_the_table(run, checkpoint):
    status, out, _ = run(f"--checkpoint={checkpoint}", "--format=csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["name"], row["shape"], row["nonzeros"]) for row in rows] == [
        ("layers/masked/vars/mask", "5x2", "3"),
        ("layers/vd/vars/log_sigma2", "1x2", "1"),
    ]
    assert float(rows[1]["sparsity"]) == 0.5


def test_log_alpha_threshold_moves_the_count(run, checkpoint):
    arguments = (f"--checkpoint={checkpoint}", "--sparsity_technique=variational_dropout")
    for threshold, sparsity in (("-9", "100.00"), ("3.0", "50.00"), ("4", "0.00")):
        _, out, _ = run(*arguments, f"--log_alpha_threshold={threshold}")
        assert out.splitlines()[-1].endswith(f"global sparsity = {sparsity} %")


@pytest.mark.parametrize("model", ["transformer", "rn50"])
def test_the_command_line_of_state_of_sparsity_works(run, checkpoint, model):
    assert run(f"--checkpoint={checkpoint}", f"--model={model}") == run(f"--checkpoint={checkpoint}")


def test_assumptions_go_to_standard_error(run, checkpoint):
    status, out, err = run(f"--checkpoint={checkpoint}")
    assert status == 0
    assert err == ("checkpoint_sparsity: note: log_alpha_threshold is not in the file: 3.0 assumed\n")
    assert "note" not in out


def test_help_shows_the_flags(run):
    status, out, err = run("--help")
    assert status == 0 and not err
    for flag in ("--checkpoint", "--[no]help", "--log_alpha_threshold", "--sparsity_technique"):
        assert flag in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "--checkpoint is required"),
        (("--checkpoint=",), "--checkpoint is required"),
        (("--checkpoint=x", "--format=xml"), "--format=xml"),
        (("--checkpoint=x", "--sparsity_technique=lottery"), "--sparsity_technique=lottery"),
        (("--checkpoint=x", "--log_alpha_threshold=low"), "--log_alpha_threshold=low"),
        (("--checkpoint=x", "--log_alpha_threshold=nan"), "--log_alpha_threshold"),
        (("--checkpont=x",), "checkpont"),
        (("--checkpoint=x", "model.keras"), "Unexpected argument: model.keras"),
        (("model.keras", "other.keras"), "Unexpected argument: other.keras"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2 and not out
    assert err.startswith("checkpoint_sparsity: error: ") and err.count("\n") == 1
    assert message in err


def test_a_checkpoint_that_cannot_be_counted_is_one_line_and_status_1(run, checkpoint, tmp_path):
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(pathlib.Path(checkpoint).read_bytes()[:-600])
    with h5py.File(tmp_path / "nan.weights.h5", "w") as file:
        file["layers/l0/vars/log_alpha"] = np.array([np.nan], "float32")
    with h5py.File(tmp_path / "partner.weights.h5", "w") as file:
        file["layers/vd/vars/log_sigma2"] = np.zeros(3, "float32")
    for name, message in (
        (cut.name, "not a readable HDF5 file"),
        ("nan.weights.h5", "holds NaN"),
        ("partner.weights.h5", "no partner tensor"),
        ("absent.keras", "no such file"),
    ):
        status, out, err = run(f"--checkpoint={tmp_path / name}")
        assert status == 1 and not out
        assert err.startswith("checkpoint_sparsity: error: ") and err.count("\n") == 1
        assert message in err
    status, _, err = run(f"--checkpoint={checkpoint}", "--sparsity_technique=l0_regularization")
    assert status == 1 and "Techniques found: magnitude_pruning, variational_dropout" in err


def test_the_command_as_users_start_it(checkpoint, tmp_path):
    cut = tmp_path / "cut.keras"
    cut.write_bytes(b"PK\x03\x04 half a zip")
    cases = (
        ([f"--checkpoint={checkpoint}"], 0, "global sparsity = 66.67 %"),
        ([f"--checkpoint={cut}"], 1, "not a readable .keras file"),
        ([], 2, "--checkpoint is required"),
    )
    module = "sparsity_tf.checkpoint_sparsity"
    for arguments, status, message in cases:
        process = fresh_process.run(module=module, arguments=arguments, cwd=REPOSITORY)
        out, err = process.stdout, process.stderr
        assert process.returncode == status, err
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if "error: " in line]
        if status == 0:
            assert not errors and message in out
        else:
            assert len(errors) == 1 and message in errors[0] and not out


def test_both_figures_are_named_where_live_weights_are_zero(run, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, MaskedDense(2, name="grown", kernel_initializer="ones")(inputs))
    (weight,) = model.layers[1].sparse_weights
    weight.assign_mask([[1, 1], [1, 0], [0, 0], [0, 0]])
    weight.assign_mask([[1, 1], [1, 1], [0, 0], [0, 0]])
    model.save(tmp_path / "m.keras")
    status, out, _ = run(f"--checkpoint={tmp_path / 'm.keras'}")
    assert status == 0 and "nonzero values" in out
    assert "by masks 50.00 %, by values 62.50 % (1 live weights are exactly 0" in out
    assert out.splitlines()[-1].endswith("global sparsity = 50.00 %")
    _, out, _ = run(f"--checkpoint={tmp_path / 'm.keras'}", "--format=csv")
    assert next(csv.DictReader(io.StringIO(out)))["nonzero_values"] == "3"


def test_a_diverged_masked_net_is_exit_status_1_and_one_line(run, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, MaskedDense(2, name="grown")(inputs))
    model.layers[1].kernel.assign(np.full((4, 2), np.nan))
    model.save(tmp_path / "m.keras")
    status, out, error = run(f"--checkpoint={tmp_path / 'm.keras'}")
    assert (status, out) == (1, "") and "holds NaN" in error and len(error.splitlines()) == 1
