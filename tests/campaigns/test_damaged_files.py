"""Damaged files of every format that is read: each is one clear line, soon, in little memory, and runs no code.

    python -m pytest -m slow tests/campaigns/test_damaged_files.py --cases=1500 --seed=0 -s

The files are read in a process of its own (`file_worker`), most of them through the function or the command's `main`
that users call; a sample goes through the commands as users start them.
"""

import json
import os
import re
import select
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.campaigns import file_damage
from tests.campaigns.file_formats import FORMATS

pytestmark = pytest.mark.slow

SECONDS = 20  # of computing
HANGS = 120  # seconds on the clock of a machine that does other things besides
MEMORY = 1 << 30  # bytes beyond what the process had
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Worker:
    """The process that reads; it is begun again after it died."""

    def __init__(self, folder):
        self.folder, self.process = folder, None

    def ask(self, **task):
        """The worker's answer, or one with the outcome `crash` or `hang`."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.campaigns.file_worker"],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=open(self.folder.parent / "worker.log", "a"),
                text=True,
            )
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], HANGS)[0]:
            self.close()
            return {"outcome": "hang", "said": ""}
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            self.process = None
            return {"outcome": "crash", "said": f"status {status}"}
        return json.loads(answer)

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def files_of(folder, wanted):
    paths = [os.path.join(base, name) for base, _, names in os.walk(folder) for name in names]
    return sorted(path for path in paths if wanted(os.path.basename(path)))


def damages(form, canary, count, random):
    """The damages of a format, as many as asked for: its lies, then what can happen to any file."""
    lies = list(form.lies(canary))
    lies = [lies[k] for k in random.permutation(len(lies))][: max(1, count // 2)]
    for number, lie in enumerate(lies):
        yield f"lie {number}", form.lied_about, lambda path, random, lie=lie: lie(path)
    for _ in range(count - len(lies)):
        damage = file_damage.ANY[int(random.integers(len(file_damage.ANY)))]
        yield damage.__name__, form.damaged, damage


def faults(answer, form, folder, output, canary):
    """What is wrong with an answer, a list of texts."""
    found = []
    outcome, said = answer["outcome"], answer["said"]
    if outcome not in ("read", "refused"):
        found.append(outcome)
    if outcome == "refused":
        lines = said.strip().splitlines()
        complaints = lines if "status" not in answer else [line for line in lines if ": error: " in line]
        if len(complaints) != 1 or "Traceback" in said or len(complaints[0]) > 3100:
            found.append("not one line")
        elif not any(part in said for part in (str(folder), *(os.path.basename(p) for p in files_of(folder, bool)))):
            found.append("no file is named")
        if os.listdir(output):
            found.append(f"left behind: {os.listdir(output)}")
    if answer.get("seconds", 0) > SECONDS:
        found.append(f"{answer['seconds']:.0f} s")
    if answer.get("memory", 0) > MEMORY:
        found.append(f"{answer['memory'] >> 20} MiB")
    if os.path.exists(canary):
        os.remove(canary)
        found.append("code was run")
    return found


def test_damaged_files(tmp_path, cases, seed):
    # A module that TensorFlow alone can read is left out on other backends.
    formats = {n: f for n, f in FORMATS.items() if keras.config.backend() == "tensorflow" or not f.tensorflow}
    total = cases(1500)
    random = np.random.default_rng(seed)
    canary, temporary = str(tmp_path / "canary"), tmp_path / "temporary"
    temporary.mkdir()
    worker, wrong, figures = Worker(temporary), [], []
    try:
        for position, (name, form) in enumerate(formats.items()):
            specimen, folder, output = (tmp_path / f"{kind}{position}" for kind in ("specimen", "damaged", "output"))
            specimen.mkdir()
            output.mkdir()
            sound = worker.ask(do="make", format=name, folder=str(specimen), output=str(output))
            assert sound["outcome"] == "read", (name, sound)
            shutil.rmtree(output)
            count = total // len(formats) + (position < total % len(formats))
            outcomes = {"read": 0, "refused": 0}
            for what, wanted, damage in damages(form, canary, count, random):
                shutil.copytree(specimen, folder)
                output.mkdir()
                paths = files_of(folder, wanted)
                path = paths[int(random.integers(len(paths)))]
                damage(path, random)
                answer = worker.ask(do="read", format=name, folder=str(folder), output=str(output))
                problems = faults(answer, form, folder, output, canary)
                left = [name for name in os.listdir(temporary) if not name.startswith("__autograph")]
                if left:
                    problems.append(f"left in TMPDIR: {left}")
                shutil.rmtree(temporary)
                temporary.mkdir()
                outcomes[answer["outcome"]] = outcomes.get(answer["outcome"], 0) + 1
                if problems:
                    place = os.path.relpath(path, folder)
                    wrong.append(f"{name}, {what}, {place}: {'; '.join(problems)}: {answer['said'][:300]!r}")
                    print(wrong[-1], flush=True)
                shutil.rmtree(folder)
                shutil.rmtree(output)
            shutil.rmtree(specimen)
            figures.append(f"{name} {' + '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
            print(figures[-1], flush=True)
    finally:
        worker.close()
    print(f"damaged files, {keras.config.backend()}: {total} cases, {len(wrong)} wrong; {'; '.join(figures)}")
    assert not wrong, "\n".join(wrong)


# Command as users start it -> (format of the files, the file that is damaged, flags, exit status).
COMMANDS = {
    "train.classifier": ("idx", "t10k-labels-idx1-ubyte", "--dataset=mnist --data_dir={0} --output_dir={1}/run", 2),
    "train.classifier, npz": ("npz", "mnist.npz", "--dataset=mnist --data_dir={0}/mnist.npz --output_dir={1}/run", 2),
    "train.classifier, weights": (".keras", "model.keras", "--load_weights={0}/model.keras --output_dir={1}/run", 2),
    "train.classifier, masks": (
        *(".keras", "model.keras"),
        "--technique=masked --load_masks={0}/model.keras --output_dir={1}/run",
        2,
    ),
    "train.translator": ("tsv.xz", "train.tsv.xz", "--data_dir={0} --output_dir={1}/run", 2),
    "train.language_model": ("characters.gz", "text.txt.gz", "--data_dir={0}/text.txt.gz --output_dir={1}/run", 2),
    "train.evaluate": (".keras", "model.keras", "--checkpoint={0}/model.keras --config=lenet300_magnitude", 1),
    "train.convert": (".keras", "model.keras", "--checkpoint={0}/model.keras --output={1}/dense.keras", 1),
    "train.budget": (".keras", "model.keras", "--checkpoint={0}/model.keras --output={1}/budget.csv", 1),
    "train.budget, input": ("budget", "budget.csv", "--input={0}/budget.csv", 1),
    "train.translate": (
        *("translate", "vocabulary"),
        "--checkpoint={0}/model.keras --vocabulary={0}/vocabulary --input={0}/input --output={1}/text",
        1,
    ),
    "train.bleu": ("bleu", "references", "--hypotheses={0}/hypotheses --references={0}/references", 1),
    "train.import_checkpoint": (
        *("TF checkpoint, import", "model.ckpt-5.index"),
        "--checkpoint={0}/model.ckpt-5 --output={1}/network.keras",
        1,
    ),
    "checkpoint_sparsity": ("hdf5, sparsity", "model.weights.h5", "--checkpoint={0}/model.weights.h5", 1),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("command", list(COMMANDS))
def test_commands_as_users_start_them(tmp_path, command):
    name, damaged, flags, status = COMMANDS[command]
    folder, output = tmp_path / "files", tmp_path / "output"
    folder.mkdir()
    output.mkdir()
    FORMATS[name].make(str(folder))
    content = bytearray((folder / damaged).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30] = b"\xff\x00" * 15
    (folder / damaged).write_bytes(content[:-7])
    module = f"sparsity_tf.{command.partition(',')[0]}"
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", module, *flags.format(folder, output).split()],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=10 * HANGS,
    )
    # TensorFlow says on standard error what machine it found; a line of its log begins with a letter and a date.
    said = [line for line in done.stderr.splitlines() if not re.match(r"[IWE]\d{4} |\d{4}-|WARNING: All log", line)]
    said = [line for line in said if "To enable the following instructions" not in line]
    errors = [line for line in said if "error: " in line]
    assert (done.returncode, len(errors), said[-1:]) == (status, 1, errors), done.stderr
    assert str(folder) in errors[0] and len(errors[0]) < 3100
    assert not os.listdir(output) or os.listdir(output) == ["run"] and not os.listdir(output / "run")
