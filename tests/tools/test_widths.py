"""The command prints accuracy and sparsity by width and draws them, or one line says what is wrong."""

import pytest

from sparsity_tf.tools import widths as command
from tests.study.run_folders import write_run


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = command.main(["widths", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def runs(tmp_path):
    folders = []
    for width, seed in ((0.25, 0), (0.5, 0), (0.5, 1)):
        folder = tmp_path / f"run-{width}-{seed}"
        settings = {"technique": "vd", "model": "vgg_like", "model_options": {"width": width}, "seed": seed}
        write_run(folder, test_error=0.3 - width / 4 + seed / 100, sparsity=0.6 + width / 2, **settings)
        folders.append(folder)
    return folders


def test_it_prints_a_line_for_each_width(run, runs, tmp_path):
    write_run(tmp_path / "bad", test_error=0.9, collapsed="collapsed: always 8", technique="vd", model="vgg_like")
    status, out, err = run(*runs, tmp_path / "bad")
    assert status == 0 and err == f"widths: note: left out: {tmp_path}/bad (collapsed: always 8)\n"
    lines = [line.split() for line in out.splitlines()[2:]]
    assert lines[0] == "variational dropout 0.25 76.25 % 72.50 % 1".split()
    assert lines[1] == "variational dropout 0.5 82.00 % 0.50 85.00 % 0.00 2".split()


def test_it_draws(run, runs, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "a.png"
    assert run(*runs, f"--output={picture}", "--title=Widths")[0] == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    status, out, err = run(*runs, f"--output={picture}")
    assert status == 1 and out == "" and "pass --overwrite" in err
    assert run(*runs, f"--output={picture}", "--overwrite")[0] == 0


def test_wrong_use_is_said_in_one_line(run, runs, tmp_path):
    assert run()[0] == 2
    status, _, err = run(tmp_path / "none")
    assert status == 1 and "there is no such folder" in err and err.count("\n") == 1
    assert "must end in .png" in run(*runs, f"--output={tmp_path}/a.pdf")[2]
