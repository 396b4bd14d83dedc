"""Training steps of convolutional networks, in images a second: techniques, XLA on and off, and PyTorch.

The networks are WRN-28-2 at batch 128 (32x32) and ResNet-50 at batch 32 (224x224), each dense, masked (90 % zeros),
STR, L0 and variational dropout. They train with SGD with momentum through Keras's own `train_function`, on one batch
that is already on the device. All arms run interleaved, round after round, so that a change in the machine's speed
affects them alike. A ratio is the median over rounds of the ratio within a round. The last lines say which setting of
`jit_compile` is faster.

    python benchmarks/convnets.py [--nets=wrn-28-2,resnet-50] [--techniques=dense,masked,vd,str,l0] \
        [--xla=on|off|both] [--rounds=5] [--steps=2] [--torch=PYTHON]

With `--torch=PYTHON` the same networks also train in PyTorch. PYTHON is the interpreter of a virtual environment with
PyTorch (`python -m venv torch_venv; torch_venv/bin/pip install torch==2.13.0 numpy`). There the networks are eager,
dense and with `torch.nn.utils.prune`, in PyTorch's own layout (NCHW) and in channels-last. They run in a process of
their own that takes its turns in the same rounds. Goals: 1.3 times the speed of PyTorch's dense network and 1.5 times
the speed of its masked network, each in its better layout; masked / dense at least 0.98. A short run with two arms:

    python benchmarks/convnets.py --nets=wrn-28-2 --techniques=dense,masked --xla=off --rounds=3 --steps=1

On a GPU, on JAX (which always compiles with XLA): `KERAS_BACKEND=jax python benchmarks/convnets.py --xla=on`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json
import pathlib
import statistics
import subprocess

import keras
import numpy as np
from _training import TrainingSteps
from absl import app, flags
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import models

_NETS = {"wrn-28-2": (128, 32, 10), "resnet-50": (32, 224, 1000)}
_TECHNIQUES = {
    "dense": None,
    "masked": {},
    "vd": {"penalty_weight": 1e-6},
    "str": {},
    "l0": {"penalty_weight": 1e-6},
}
_TORCH = [(kind, layout) for kind in ("dense", "masked") for layout in ("nchw", "channels_last")]
_LIVE = 0.1
_GOAL_MASKED, _GOALS_TORCH = 0.98, {"dense": 1.3, "masked": 1.5}

FLAGS = flags.FLAGS
flags.DEFINE_list("nets", list(_NETS), "Which networks.")
flags.DEFINE_list("techniques", list(_TECHNIQUES), "Which arms; dense is what the others are compared with.")
flags.DEFINE_enum("xla", "both", ["on", "off", "both"], "Compile the step with XLA.")
flags.DEFINE_integer("rounds", 5, "Rounds; every arm runs once in each.", lower_bound=1)
flags.DEFINE_integer("steps", 2, "Training steps of an arm in a round.", lower_bound=1)
flags.DEFINE_integer("batch", None, "Images in a batch; default 128 (WRN-28-2) and 32 (ResNet-50).", lower_bound=1)
flags.DEFINE_integer("image_size", None, "Height and width; default 32 and 224.", lower_bound=32)
flags.DEFINE_string("torch", None, "Python interpreter with PyTorch.")
flags.register_validator("nets", lambda names: set(names) <= set(_NETS), f"must be some of {list(_NETS)}")
flags.register_validator(
    "techniques", lambda names: set(names) <= set(_TECHNIQUES), f"must be some of {list(_TECHNIQUES)}"
)


def build(net, size):
    """The dense network for images of the given size."""
    keras.utils.set_random_seed(0)
    if net == "wrn-28-2":
        return models.wide_resnet(28, 2, (size, size, 3))
    return models.resnet_50((size, size, 3))


class KerasArm:
    """Training steps of one network with one technique."""

    def __init__(self, net, technique, jit_compile, batch, size):
        model = build(net, size)
        options = _TECHNIQUES[technique]
        if options is not None:
            sparsity_tf.sparsify(model, technique, **options)
        if technique == "masked":
            rng = np.random.default_rng(1)
            for weight in sparsity_tf.get_sparse_weights(model):
                weight.assign_mask(rng.random(weight.shape) < _LIVE)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=jit_compile)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch, size, size, 3)).astype("float32")
        y = rng.integers(0, model.output_shape[-1], batch).astype("int32")
        self.training, self.seconds = TrainingSteps(model, x, y), []
        self.compile_seconds = self.training.run(1)

    def run(self, steps):
        self.seconds.append(self.training.run(steps) / steps)


class Torch:
    """The sub-process that runs `_torch_convnets.py`."""

    def __init__(self, python, net, batch, size):
        script = pathlib.Path(__file__).with_name("_torch_convnets.py")
        command = [python, str(script), f"--net={net}", f"--batch={batch}", f"--size={size}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        about = self._answer()
        self.version, self.parameters = about["version"], about["parameters"]

    def run(self, arm, steps):
        self._process.stdin.write(json.dumps({"arm": arm, "steps": steps}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the PyTorch process ended with status {self._process.wait()}; its error is above")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


class TorchArm:
    """Training steps of one network in the PyTorch process."""

    def __init__(self, process, kind, layout):
        self._process, self._arm, self.seconds = process, (kind, layout), []
        self.compile_seconds = None

    def run(self, steps):
        self.seconds.append(self._process.run(self._arm, steps))


def ratios(arm, others):
    """Quartiles over rounds of the speed of `arm` relative to `others`. One round gives the same number three times."""
    values = [b / a for a, b in zip(arm.seconds, others.seconds, strict=True)]
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def text_of(quartiles):
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def measure(net):
    """Runs all arms of one network in turn and prints the tables; returns {jit_compile: dense arm}."""
    batch, size, _ = _NETS[net]
    batch, size = FLAGS.batch or batch, FLAGS.image_size or size
    settings = {"on": (True,), "off": (False,), "both": (False, True)}[FLAGS.xla]
    arms = {}
    for jit_compile in settings:
        for technique in FLAGS.techniques:
            arms[technique, jit_compile] = KerasArm(net, technique, jit_compile, batch, size)
            print(f"built {net} {technique}, XLA {'on' if jit_compile else 'off'}", flush=True)
    torch = Torch(FLAGS.torch, net, batch, size) if FLAGS.torch else None
    if torch:
        ours = sum(int(np.prod(variable.shape)) for variable in build(net, size).trainable_variables)
        if torch.parameters != ours:
            raise RuntimeError(f"not the same network: {torch.parameters} parameters in PyTorch, {ours} here")
        for arm in _TORCH:
            arms[arm] = TorchArm(torch, *arm)
    for arm in arms.values():
        arm.run(1)  # not timed, because the first steps after compilation still allocate memory
        arm.seconds.clear()
    for done in range(1, FLAGS.rounds + 1):
        for arm in arms.values():
            arm.run(FLAGS.steps)
        print(f"round {done} of {FLAGS.rounds}", flush=True)
    print(
        f"\n{net}, batch {batch}, {size}x{size}: {FLAGS.rounds} rounds of {FLAGS.steps} steps, {os.cpu_count()} cores"
    )
    rows = [_row(key, arm, arms, batch, torch) for key, arm in arms.items()]
    headers = ["arm", "XLA", "images/s", "seconds to the first step's end", "speed / dense (quartiles)"]
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)
    best = _report_best(net, arms, settings)
    if torch:
        _report_torch(arms, best, torch.version)
        torch.close()


def _row(key, arm, arms, batch, torch):
    name, setting = key
    ours = isinstance(arm, KerasArm)
    dense = arms.get(("dense", setting))
    return [
        name if ours else f"PyTorch {torch.version} {name}, {setting}",
        ("on" if setting else "off") if ours else "",
        f"{batch / statistics.median(arm.seconds):.1f}",
        f"{arm.compile_seconds:.0f}" if ours else "",
        text_of(ratios(arm, dense)) if dense else "",
    ]


def _report_best(net, arms, settings):
    """Prints which setting of XLA is faster for each technique; returns {technique: its faster arm}."""
    best = {}
    for technique in FLAGS.techniques:
        both = {setting: arms[technique, setting] for setting in settings}
        setting = min(both, key=lambda setting: statistics.median(both[setting].seconds))
        best[technique] = both[setting]
        if len(both) > 1:
            faster = text_of(ratios(both[setting], both[not setting]))
            print(f"{net} {technique}: faster with jit_compile={setting}, {faster} times the other setting")
    if {"dense", "masked"} <= set(best):
        for setting in settings:
            ratio = text_of(ratios(arms["masked", setting], arms["dense", setting]))
            print(f"masked / dense, jit_compile={setting}: {ratio} (goal {_GOAL_MASKED})")
    return best


def _report_torch(arms, best, version):
    for kind, goal in _GOALS_TORCH.items():
        if kind in best:
            theirs = min(
                (arms[arm] for arm in _TORCH if arm[0] == kind), key=lambda arm: statistics.median(arm.seconds)
            )
            print(f"{kind} here / {kind} in PyTorch {version}, each at its best: ", end="")
            print(f"{text_of(ratios(best[kind], theirs))} (goal {goal})", flush=True)
    for arm in _TORCH:
        if arm[0] in best:
            print(f"  against {arm[1]}: {arm[0]} {text_of(ratios(best[arm[0]], arms[arm]))}", flush=True)


def main(_):
    for net in FLAGS.nets:
        measure(net)


if __name__ == "__main__":
    app.run(main)
