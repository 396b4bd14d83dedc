"""Published checkpoints at full size, with random numbers: imported, evaluated, exported; time and memory of each step.

    python -m pytest -m slow tests/campaigns/test_full_size.py -s [-k transformer]

The Transformer of 61 million weights and ResNet-50 with every technique, and the three networks of STR. Every step is a
command in a process of its own, as users start it. What it prints must agree with the numbers that were written. A line
has the seconds of computing (not those of the clock) and the most memory that the process held.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from sparsity_tf.checkpoints.published import published_checkpoints
from tests.campaigns import full_size
from tests.datasets.images import imagenet_writer

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A process's own peak: `getrusage` would count the memory of the process that started it.
MEASURED = """
import json, resource, runpy, sys
report, module = sys.argv[1:3]
sys.argv = sys.argv[2:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    with open("/proc/self/status") as file:
        peak = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open(report, "w") as file:
        json.dump({"seconds": used.ru_utime + used.ru_stime, "memory": peak}, file)
"""
# Published name, or our own where none was published: technique of the file.
TRANSFORMERS = {
    "magnitude_pruning_0.9_0_400000_10000_0.0_0.1": "masked",
    "random_pruning_0.98_0_100000_1000_0.0_0.0": "masked",
    "variational_dropout_0.9_cubic_0_200000_8.89E-08_0.0_0.1_2.5": "vd",
    "l0_regularization_0.9_cubic_200000_100000_0.000002222_0.1_0.1": "l0",
    "transformer_base": None,
}
RESNETS = {
    "standard_threshold_0.9_40000_76000_2000_0.1": "masked",
    "extended_threshold_0.96_7500_36000_1000_0.0": "masked",
    "standard_random_cumulative_0.8_0_40000_8000_0.0": "masked",
    "variational_dropout_0.9_20000_68000_7.80538368534e-08_0.0": "vd",
    "resnet50_l0": "l0",
    "resnet50_baseline": None,
}
UNPUBLISHED = {"transformer_base": 0.0, "resnet50_l0": 0.5, "resnet50_baseline": 0.0}
SENTENCES = ("the cat sat on the mat", "a dog saw the cat", "the dog sat", "a cat")


class Steps:
    """Runs commands and keeps what each took."""

    def __init__(self, folder, written):
        self.folder, self.figures = folder, [f"{os.path.getsize(written.path) / 2**20:,.0f} MiB"]

    def run(self, step, command, *arguments, status=0):
        """Runs `python -m sparsity_tf.tools.COMMAND`; returns its output and what it printed as errors."""
        report = str(self.folder / "report.json")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, report, f"sparsity_tf.tools.{command}", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"},
        )
        assert done.returncode == status, (step, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        with open(report) as file:
            taken = json.load(file)
        self.figures.append(f"{step} {taken['seconds']:.0f} s, {taken['memory'] / 2**30:.1f} GiB")
        return done.stdout, done.stderr


def check_counts(steps, path, written):
    """The sparsity that a file tells without its network is the one that was written."""
    report = json.loads(steps.run("count", "checkpoint_sparsity", path, "--format=json")[0])
    assert (report["size"], report["nonzeros"]) == (written.size, written.nonzeros)


def check_import(steps, written, dense=0):
    """Imports the file; returns the path of the network, a `.keras` file. `dense`: weights that no technique has."""
    output = steps.folder / f"{os.path.splitext(os.path.basename(written.path))[0]}.keras"
    text, _ = steps.run("import", "import_checkpoint", f"--checkpoint={written.path}", f"--output={output}")
    assert f"{written.nonzeros + dense:,} of {written.size + dense:,} weights not zero" in text
    return output


def check_score(steps, name, network, *arguments):
    """Measures a network. Random numbers can't reach the published score; the sparsity must be the published one."""
    if name in UNPUBLISHED:
        steps.run("evaluate", "check_published", f"--checkpoint={network}", "--measure_only", *arguments)
        return
    _, error = steps.run("evaluate", "check_published", f"--checkpoint={network}", *arguments, status=1)
    assert f"failed: {name}: " in error and "different: score by more than 0.2" in error, error
    assert "different: score by more than 0.2, sparsity" not in error, error


def sparsity_of(name):
    [claim] = [one for one in published_checkpoints() if one.name == name] or [None]
    if claim is None:
        return UNPUBLISHED[name]
    return claim.sparsity if claim.target_sparsity is None else claim.target_sparsity


@pytest.fixture
def folder(tmp_path):
    """A folder that goes with its test, because pytest keeps those of three sessions: gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    imagenet_writer.write_records(folder, train=8, test=16)
    return folder


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(name, folder, seed):
    technique, sparsity = TRANSFORMERS[name], sparsity_of(name)
    tensors = full_size.transformer(technique, sparsity, seed)
    assert tensors.size == 61_083_648
    written = full_size.write_tar(folder, name, tensors)
    del tensors
    steps = Steps(folder, written)
    if technique is not None:
        check_counts(steps, written.path, written)
    network = check_import(steps, written, dense=32 * 512)  # the table of target spaces
    full_size.write_vocabulary(folder / "vocabulary")
    (folder / "text").write_text("".join(f"{line}\n" for line in SENTENCES))
    text = folder / "text"
    flags = (f"--vocabulary={folder / 'vocabulary'}", f"--input={text}", f"--references={text}", "--extra_length=5")
    check_score(steps, name, network, *flags)
    if technique is not None:
        steps.run("export", "convert", f"--checkpoint={network}", f"--output={folder / 'dense.keras'}")
    print(f"\nTransformer {name}: {'; '.join(steps.figures)}", flush=True)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_50(name, imagenet, folder, seed):
    technique = RESNETS[name]
    tensors = full_size.resnet_50(technique, sparsity_of(name), seed, extended=name.startswith("extended"))
    assert tensors.size == 25_502_912
    written = full_size.write_tar(folder, name, tensors)
    stem = 0 if not name.startswith("extended") else 9_408
    del tensors
    steps = Steps(folder, written)
    if technique is not None:
        # The dense first layer of the extended recipe is not counted, since no technique made it sparse.
        rest = full_size.Written(written.path, written.size - stem, written.nonzeros - stem)
        check_counts(steps, written.path, rest)
    network = check_import(steps, written)
    check_score(steps, name, network, f"--data_dir={imagenet}")
    steps.run("export", "convert", f"--checkpoint={network}", f"--output={folder / 'a.tflite'}", "--format=litert")
    print(f"\nResNet-50 {name}: {'; '.join(steps.figures)}", flush=True)


@pytest.mark.parametrize("name", ["resnet_18", "resnet_50", "mobilenet_v1"])
def test_str(name, imagenet, folder, seed):
    pytest.importorskip("torch")
    from tests.checkpoints import str_networks

    width = 32 if name == "mobilenet_v1" else 64
    network = str_networks.build(name, width=width, num_classes=1000, seed=seed)
    written = full_size.write_pth(folder, network, name)
    assert written.size == {"resnet_18": 11_678_912, "resnet_50": 25_502_912, "mobilenet_v1": 4_209_088}[name]
    steps = Steps(folder, written)
    check_counts(steps, written.path, written)
    imported = check_import(steps, written)
    same_predictions(network, imported)
    config = "mobilenetv1_str" if name == "mobilenet_v1" else "resnet50_str"
    measure = (f"--config={config}", f"--data_dir={imagenet}", "--format=json")
    [row] = json.loads(steps.run("evaluate", "evaluate", f"--checkpoint={imported}", *measure)[0])
    assert row["num_test"] == 16 and row["sparsity"] == 1 - written.nonzeros / written.size
    steps.run("export", "convert", f"--checkpoint={imported}", f"--output={folder / 'a.tflite'}", "--format=litert")
    print(f"\nSTR {name}: {'; '.join(steps.figures)}", flush=True)


def same_predictions(network, path):
    """The imported network predicts what PyTorch predicts, on images of the published size."""
    import keras
    import numpy as np
    import torch

    import sparsity_tf  # noqa: F401  (registers layers)

    images = np.random.default_rng(0).standard_normal((2, 224, 224, 3), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = keras.ops.convert_to_numpy(keras.saving.load_model(path, compile=False)(images, training=False))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
