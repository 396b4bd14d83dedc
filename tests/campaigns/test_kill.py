"""Kills, signals, full disks, folders that can't be written to, two processes at once: the end is that of a quiet run.

    python -m pytest -m slow tests/campaigns/test_kill.py --cases=100 -s

`--cases` is the number of disturbances, dealt out over every technique of the classifier, the translator and the
language model, or over those that `--only` names (`--only=lottery,translator`). Each configuration runs once
undisturbed; then it runs, is disturbed and is resumed, again and again, and once more to its end: every array of
`model.keras` and every column of `metrics.csv` but the seconds must be equal. Half of the SIGKILLs fall at a random
moment, half at the opening, renaming or removing of a file of the run: checkpoints and reports are such moments.
"""

import contextlib
import csv
import io
import itertools
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import tempfile
import time
import zipfile

import h5py
import numpy as np
import pytest

from sparsity_tf import layers
from sparsity_tf.train import run_folder, summary
from sparsity_tf.train import sparsity_settings as algorithms
from tests.campaigns import kills
from tests.train.language_model.test_language_model import SMALL
from tests.train.runs import write_digits
from tests.train.translator.test_translator import write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

DEFAULT_CASES = 120
LONGEST = 300  # seconds that a run may take before it counts as hung
FAULTS = ("kill", "write", "kill", "write", "kill", "write", "term", "int", "full", "two", "nobody")
SMALL_TRANSLATOR = (
    *("--config=tiny_magnitude", "--begin_step=2", "--end_step=6", "--frequency=2", "--vocabulary_size=330"),
    *("--num_layers=1", "--hidden_size=16", "--filter_size=32", "--num_heads=2", "--batch_tokens=160"),
    *("--bucket_growth=2", "--train_steps=12", "--eval_every=4", "--warmup_steps=4", "--steps_per_execution=2"),
    *("--beam_size=1", "--extra_length=4", "--dropout=0.1", "--jit_compile=false", "--keep_best"),
)


def of_classifier(technique):
    """Flags of a short run of a technique: three epochs of eight steps."""
    given = {"final_sparsity": 0.5, "frequency": 2, "rounds": 2}
    if technique == "narang":
        given.update(begin_step=1, end_step=20)
    if technique == "lottery":
        given.update(rewind_step=8)
    taken = algorithms.settings_of(technique)
    more = [f"--{name}={value}" for name, value in given.items() if name in taken]
    if technique in layers.TECHNIQUES and layers.TECHNIQUES[technique].penalized:
        more += ["--penalty_end_epoch=2", "--penalty_weight=0.1"]
    flags = ("--config=lenet300_dense", "--optimizer=sgd", "--learning_rate=0.05", "--batch_size=8", "--keep_best")
    return [*flags, "--epochs=3", "--jit_compile=false", "--steps_per_execution=1", f"--technique={technique}", *more]


# Held-out images choose `best.keras`, and copies of the checkpoints are kept and removed.
VALIDATED = ("--validation_split=0.25", "--validation_stratified", "--save_every=1", "--keep_checkpoint_max=2")
CONFIGURATIONS = {
    **{
        technique: ("classifier", of_classifier(technique))
        for technique in (
            *("none", "vd", "l0", "str", "masked", "dnw", "magnitude", "random", "static", "set", "rigl"),
            *("sparse_momentum", "dsr", "narang", "snip", "grasp", "lottery"),
            *("acdc", "granet", "mest", "srigl", "srste", "topkast", "powerprop", "movement"),
        )
    },
    "validation": ("classifier", (*of_classifier("magnitude"), *VALIDATED)),
    # Two runs one after the other; a second start skips the finished one and continues the other.
    "repeats": ("classifier", (*of_classifier("static"), "--repeats=2", "--epochs=2")),
    "translator": ("translator", SMALL_TRANSLATOR),
    "language_model": ("language_model", ("--config=small_char_rnn_dsr", *SMALL, "--epochs=3")),
}


# Faults that say nothing about a configuration: two starts of `--repeats` at once are an error of the user.
NOT_FOR = {"repeats": ("two",)}


class Runs:
    """Runs of one configuration, each a process of its own; figures are kept in `count`."""

    def __init__(self, program, flags, folder, rng, count):
        self.context = multiprocessing.get_context("forkserver")
        self.program, self.flags, self.folder, self.rng, self.count = program, flags, folder, rng, count
        self.log = folder / "log.txt"

    def start(self, output, *more, fault=None):
        arguments = [*self.flags, f"--output_dir={output}", *more]
        process = self.context.Process(target=kills.run, args=(self.program, arguments, str(self.log), fault))
        process.start()
        return process

    def end(self, process):
        """Waits for a process; its exit status, or minus the signal."""
        process.join(LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"hung: {self.said()}")
        return process.exitcode

    def said(self):
        return self.log.read_text(errors="replace")[-3000:]

    def undisturbed(self):
        """The run that the others are measured by; how long it takes, and how many writes it makes."""
        begin = time.monotonic()
        assert self.end(self.start(self.folder / "quiet")) in (0, 1), self.said()
        self.seconds = time.monotonic() - begin
        self.writes = int(re.findall(r"writes (\d+), exit", self.said())[-1])
        self.largest = max(path.stat().st_size for path in (self.folder / "quiet").rglob("*") if path.is_file())

    def disturb(self, fault):
        """Continues the run, disturbs it, and looks at its end if it came to one."""
        status = self._disturb(fault)
        if status in (0, 1):
            self.compare()
        else:
            self.count["hit"] = self.count.get("hit", 0) + 1

    def _disturb(self, fault):
        output, rng = self.folder / "disturbed", self.rng
        self.count[fault] = self.count.get(fault, 0) + 1
        if fault == "write":
            status = self.end(self.start(output, "--resume", fault=("write", rng.randint(1, self.writes))))
            assert status in (-signal.SIGKILL, 0, 1), self.said()
        elif fault == "full":
            limit, before = int(self.largest * rng.random() ** 2), self.log.stat().st_size
            status = self.end(self.start(output, "--resume", fault=("full", limit)))
            assert status in (0, 1, 2), self.said()
            if status == 2:
                assert b"--resume continues the run" in self.log.read_bytes()[before:], self.said()
        elif fault == "nobody":
            if os.getuid():
                pytest.skip("a folder that can't be written to needs another user")
            output.mkdir(exist_ok=True)
            status = self.end(self.start(output, "--resume", fault=("nobody", None)))
            assert status == 2 and "Permission denied" in self.said(), self.said()
        else:
            process = self.start(output, "--resume")
            process.join(0.9 * self.seconds * rng.random())
            if fault == "two":
                second = self.start(output, "--resume")
                statuses = [self.end(each) for each in (process, second)]
                assert set(statuses) <= {0, 1}, self.said()
                return statuses[0]
            number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[fault]
            if process.exitcode is None:
                # It may end by itself just now.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
            status = self.end(process)
            allowed = {-number, 0, 1, *((130,) if fault == "int" else ())}
            assert status in allowed, f"{status}: {self.said()}"
        return status

    def finish(self):
        assert self.end(self.start(self.folder / "disturbed", "--resume")) in (0, 1), self.said()
        self.compare()

    def compare(self):
        """The run that was disturbed equals the quiet one; the next begins anew."""
        assert_same(self.folder / "quiet", self.folder / "disturbed")
        shutil.rmtree(self.folder / "disturbed")


def assert_same(quiet, disturbed):
    """Every array of both networks, and every figure but the seconds, is equal."""
    repeats = sorted(path.name for path in quiet.glob("seed-*"))
    for name in repeats:
        assert_same(quiet / name, disturbed / name)
    if repeats:
        assert rows(quiet / summary.SUMMARY, "folders") == rows(disturbed / summary.SUMMARY, "folders")
        return
    for file in (run_folder.MODEL, run_folder.BEST):
        ours, others = arrays(quiet / file), arrays(disturbed / file)
        assert ours.keys() == others.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], others[name], err_msg=f"{file}: {name}")
    copies = [sorted(path.name for path in folder.glob(f"{run_folder.KEPT}/*")) for folder in (quiet, disturbed)]
    assert copies[0] == copies[1]
    assert rows(quiet / run_folder.METRICS) == rows(disturbed / run_folder.METRICS)
    if (quiet / run_folder.SPARSITY_BY_STEP).exists():
        assert rows(quiet / run_folder.SPARSITY_BY_STEP) == rows(disturbed / run_folder.SPARSITY_BY_STEP)
    leftovers = [path.name for path in disturbed.rglob("*") if "unfinished" in path.name]
    assert not leftovers, leftovers


def arrays(path):
    """The arrays of a network by their places in its file; none if there is no file, as of a broken network."""
    if not path.exists():
        return {}
    found = {}
    with zipfile.ZipFile(path) as archive, io.BytesIO(archive.read("model.weights.h5")) as data:
        with h5py.File(data) as file:
            file.visititems(lambda name, one: found.update({name: one[()]}) if isinstance(one, h5py.Dataset) else None)
    return found


def rows(path, *ignored):
    left_out = {"seconds", *ignored}
    with open(path, newline="") as file:
        return [{name: value for name, value in row.items() if name not in left_out} for row in csv.DictReader(file)]


@pytest.fixture
def base():
    """A folder that other users may read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="kill-campaign-") as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.fixture
def data(base):
    """Flags that name the data of each program."""
    for name in ("digits", "corpus"):
        (base / name).mkdir()
    write_digits(base / "digits")
    write_corpus(base / "corpus")
    return {
        "classifier": [f"--data_dir={base / 'digits'}"],
        "translator": [f"--data_dir={base / 'corpus'}"],
        "language_model": [],
    }


def test_disturbed_runs_end_as_undisturbed_ones(data, base, cases, seed, request):
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.campaigns.kills"])
    rng, count, begin = random.Random(seed), {}, time.monotonic()
    total = cases(DEFAULT_CASES)
    names = (request.config.getoption("--only", default=None) or ",".join(CONFIGURATIONS)).split(",")
    rng.shuffle(names)
    # Several disturbances a configuration, for which one undisturbed run has to be made.
    used = names[: max(1, min(len(names), total // 3))]
    faults = itertools.cycle(rng.sample(FAULTS, len(FAULTS)))
    shares = [total // len(used) + (index < total % len(used)) for index in range(len(used))]
    failed = {}
    for name, share in zip(used, shares, strict=True):
        program, flags = CONFIGURATIONS[name]
        folder = base / f"runs-{name}"
        folder.mkdir()
        runs = Runs(program, [*flags, *data[program]], folder, rng, count)
        try:
            runs.undisturbed()
            for _ in range(share):
                runs.disturb(next(fault for fault in faults if fault not in NOT_FOR.get(name, ())))
            runs.finish()
        except AssertionError as error:
            failed[name] = f"{sum(count.values())} disturbances in: {error}"
    of_each = ", ".join(f"{fault} {number}" for fault, number in sorted(count.items()) if fault != "hit")
    print(
        f"\nkill campaign: {total} disturbances ({of_each}), {count.get('hit', 0)} hit a run, of {len(used)} "
        f"configurations ({', '.join(used)}); {len(failed)} ended otherwise; seed {seed}, "
        f"{time.monotonic() - begin:.0f} s"
    )
    assert not failed, "\n\n".join(f"{name}: {error}" for name, error in failed.items())
