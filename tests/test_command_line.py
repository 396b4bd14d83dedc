"""The console command `sparsity-tf`: which program it runs, and what it starts without Keras."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

import sparsity_tf
import sparsity_tf_cli
from tests import fresh_process

ROOT = pathlib.Path(__file__).resolve().parent.parent
# An import of Keras, or of a backend, fails.
WITHOUT_KERAS = """
import sys
sys.modules.update(dict.fromkeys(["keras", "tensorflow", "jax", "torch"]))
import sparsity_tf_cli
try:
    status = sparsity_tf_cli.main(["sparsity-tf", *sys.argv[1:]])
except SystemExit as exit:
    status = exit.code
assert "sparsity_tf" not in sys.modules
sys.exit(status)
"""


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a program of given source in the place of `evaluate`."""

    def make(source):
        (tmp_path / "replaced_program.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(sparsity_tf_cli.PROGRAMS, "evaluate", ("replaced_program", ""))

    return make


def test_every_program_is_named_by_its_module_and_listed_by_help(capsys):
    assert sparsity_tf_cli.main(["sparsity-tf", "--help"]) == 0
    listed = capsys.readouterr().out
    for name, (module, meaning) in sparsity_tf_cli.PROGRAMS.items():
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.exists() or (path.with_suffix("") / "__main__.py").exists()
        assert name.split()[-1].replace("-", "_") == path.stem
        assert f"  {name} " in listed and meaning in listed
    assert sparsity_tf_cli.main(["sparsity-tf"]) == 0
    assert capsys.readouterr().out == listed
    assert sparsity_tf_cli.main(["sparsity-tf", "train"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[3:]] == [
        "classifier",
        "translator",
        "language-model",
        "text-classifier",
    ]


def test_every_file_of_the_package_that_can_be_run_is_a_program():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "sparsity_tf").rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
        and "another spelling of" not in path.read_text(encoding="utf-8")
    }
    assert files == {module for module, _ in sparsity_tf_cli.PROGRAMS.values()}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["prune"], "no command 'prune'; (--help lists the commands)"),
        (["converts"], "no command 'converts'; did you mean convert? (--help lists the commands)"),
        (["train", "clasifier", "--epochs=3"], "no command 'train clasifier'; did you mean train classifier? "),
        (["--verison"], "no command '--verison'; "),
        (["classifier"], "no command 'classifier'; did you mean train classifier? "),
    ],
)
def test_an_unknown_command_is_one_line_and_status_2(capsys, arguments, message):
    assert sparsity_tf_cli.main(["sparsity-tf", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith(f"sparsity-tf: error: {message}")


def test_help_and_version_need_no_keras():
    help = run(WITHOUT_KERAS, "--help")
    assert help.returncode == 0 and help.stdout.startswith("usage: sparsity-tf COMMAND"), help.stderr
    version = run(WITHOUT_KERAS, "--version")
    assert version.returncode == 0 and version.stdout == f"sparsity-tf {sparsity_tf.__version__}\n", version.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["bleu", "--help"]])
def test_a_reader_that_has_gone_is_no_traceback(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        finished = subprocess.run(
            [sys.executable, "-c", WITHOUT_KERAS, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (finished.returncode, finished.stderr) == (1, "")


BROKEN = """
import os, sys, sparsity_tf_cli

def program(name, arguments):
    print("begun", flush=True)
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"x")

sparsity_tf_cli._run = program
sys.exit(sparsity_tf_cli.main(["sparsity-tf", "bleu"]))
"""


def test_another_broken_pipe_of_a_program_is_an_error():
    finished = subprocess.run([sys.executable, "-c", BROKEN], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 1 and finished.stdout == "begun\n" and "BrokenPipeError" in finished.stderr


def test_a_reader_that_has_gone_is_no_traceback_where_output_has_no_buffer():
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sparsity_tf_cli", "--help"]
    with open(writing, "w") as closed:
        finished = subprocess.run(command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (finished.returncode, finished.stderr) == (1, "")


def test_a_process_without_output_is_no_error():
    command = 'exec "$0" -m sparsity_tf_cli --help >&-'
    finished = subprocess.run(["sh", "-c", command, sys.executable], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_bleu_needs_no_keras(tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("sacremoses")
    text = tmp_path / "text"
    text.write_text("the small model is sparse\n")
    finished = run(WITHOUT_KERAS, "bleu", f"--hypotheses={text}", f"--references={text}")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("sacreBLEU BLEU = 100.00")
    finished = run(WITHOUT_KERAS, "bleu", f"--hypotheses={text}")
    assert finished.returncode == 2 and "--references is required" in finished.stderr
    help = run(WITHOUT_KERAS, "bleu", "--help")
    assert help.returncode == 0 and "--tokenized_references" in help.stdout


def test_other_programs_say_on_one_line_what_keras_needs(tmp_path):
    bar = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'jax', 'torch'])); import sparsity_tf_cli; "
    code = bar + "sys.exit(sparsity_tf_cli.main(['sparsity-tf', *sys.argv[1:]]))"
    finished = run(code, "train", "classifier", KERAS_BACKEND="tensorflow", KERAS_HOME=str(tmp_path))
    assert finished.returncode == 2 and finished.stdout == ""
    assert finished.stderr == (
        "sparsity-tf: error: Keras is set to a backend that needs tensorflow, which is not installed: "
        'pip install "sparsity-tf[tensorflow]".\n'
    )


def test_a_program_gets_its_arguments_and_gives_its_status(program, capsys):
    program("import sys\nprint(sys.argv[1:], __name__, CALLED_AS)\nsys.exit(130)\n")
    before = sys.argv
    with pytest.raises(SystemExit) as ended:
        sparsity_tf_cli.main(["sparsity-tf", "evaluate", "--a=1", "--help", "b"])
    assert ended.value.code == 130 and sys.argv is before
    assert capsys.readouterr().out == "['--a=1', '--help', 'b'] __main__ sparsity-tf evaluate\n"


def test_an_interrupt_and_an_error_of_a_program_pass(program):
    program("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        sparsity_tf_cli.main(["sparsity-tf", "evaluate"])


def test_a_checkpoint_is_named_without_a_flag(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    sparsity_tf.sparsify(model, "masked")
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(SystemExit) as ended:
        sparsity_tf_cli.main(["sparsity-tf", "checkpoint-sparsity", str(path), "--format=csv"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("name,shape,size,nonzeros,sparsity")


def test_training_starts_from_the_console_command():
    code = "import sys, sparsity_tf_cli; sys.exit(sparsity_tf_cli.main(['sparsity-tf', *sys.argv[1:]]))"
    finished = fresh_process.run(code, ["train", "language_model", "--config=nonsense"], cwd=ROOT)
    assert finished.returncode == 2 and finished.stdout == ""
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "nonsense" in last


# What TensorFlow and JAX say of themselves.

FAKE_KERAS = 'import os; print(os.environ.get("TF_CPP_MIN_LOG_LEVEL")); raise SystemExit'
SCRIPT = "import sparsity_tf"


@pytest.mark.parametrize(
    "command,level",
    [
        (["-m", "sparsity_tf.train.classifier"], "2"),
        (["-W", "ignore", "-m", "sparsity_tf.checkpoint_sparsity", "model.keras"], "2"),
        (["-m", "sparsity_tf_cli", "evaluate"], "2"),
        (["-c", SCRIPT], "None"),
        (["script.py", "-m", "sparsity_tf.train.classifier"], "None"),
        (["-m", "of_a_user.program", "-m", "sparsity_tf.train.classifier"], "None"),
    ],
)
@pytest.mark.parametrize("chosen", [None, "0"])
def test_programs_and_nothing_else_ask_tensorflow_for_errors_only(command, level, chosen, tmp_path):
    """A package in the place of Keras prints the level at which a backend would be imported."""
    for folder, source in (("keras", FAKE_KERAS), ("of_a_user", SCRIPT)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(source)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    if chosen is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level = chosen
    finished = subprocess.run([sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (finished.stdout, finished.returncode) == (f"{level}\n", 0), finished.stderr


@pytest.mark.parametrize("flag,notes", [([], 0), (["--verbosity=0"], 1)])
def test_training_programs_show_warnings_of_libraries_and_no_notes(flag, notes):
    code = (
        "import logging\n"
        "from sparsity_tf.train import flags\n"
        "def main(argv):\n"
        "    logging.getLogger('jax').info('a note'), logging.getLogger('jax').warning('a warning')\n"
        "flags.run_main(main)\n"
    )
    finished = fresh_process.run(code, flag)
    assert finished.returncode == 0, finished.stderr
    assert (finished.stderr.count("a note"), finished.stderr.count("a warning")) == (notes, 1)
