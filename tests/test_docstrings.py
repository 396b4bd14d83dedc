"""The examples of public docstrings run as they are written, and give the output that they show.

An example finds these names: `np`, `keras`, `sparsity_tf`, the public names of its room, `model` (a small compiled
classifier of images), `x` and `y` (256 examples for it), `data` (the two as a tuple). It runs in an empty folder. An
example whose first line ends in `# needs ...` is compiled and not run: the files or the device that it names are not
there.
"""

import copy
import doctest
import functools
import inspect
import re
import textwrap

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import layers
from tests.public_objects import examples_of, public_objects

NEEDS = re.compile(r"# needs .*$", re.MULTILINE)
# They build a network of ImageNet's size, write and run files of other runtimes, or train for seconds.
SLOW = {
    "sparsity_tf.callbacks.PenaltyRamp",
    "sparsity_tf.decoding.Decoder",
    "sparsity_tf.deployment_report",
    "sparsity_tf.deploy.plot_deployment",
    "sparsity_tf.deploy.ExportReport",
    "sparsity_tf.export",
    "sparsity_tf.inspection.count_flops",
    "sparsity_tf.models.mobilenet_v1",
    "sparsity_tf.models.resnet",
    "sparsity_tf.models.wide_resnet",
    *(f"sparsity_tf.models.resnet_{depth}" for depth in (18, 34, 50, 101, 152, 200)),
}
# They train as the examples of `RigL`, `SET`, `MagnitudePruning` and `sensitivity` do, for longer. What they show of
# their own is tested in `tests/callbacks` and `tests/inspection`.
SLOW |= {
    "sparsity_tf.inspection.SensitivityTable",
    *(
        f"sparsity_tf.callbacks.{name}"
        for name in (
            "ACDC",
            "DropAndGrow",
            "DynamicSparseReparameterization",
            "GraNet",
            "IterativePruning",
            "MEST",
            "NetworkSlimming",
            "SRigL",
            "SparseMomentum",
            "SparsityRamp",
        )
    ),
}
# The same for the examples of `PowerPropagation` and `array_batches`: see `tests/layers`, `tests/callbacks`,
# `tests/models` and `tests/datasets`.
SLOW |= {
    "sparsity_tf.datasets.Batches",
    "sparsity_tf.layers.MovementPruning",
    "sparsity_tf.layers.SoftMovementPruning",
    "sparsity_tf.models.Transformer",
}
# The rooms whose examples run on any backend of Keras.
ANY_BACKEND = {"datasets", "decoding", "distributions", "initializers", "masks", "schedules", "study"}


def documented():
    """(name, module, docstring) of every public object, public method and module that has an example."""
    for name, (module, value) in public_objects().items():
        yield name, module, value.__doc__
        if inspect.isclass(value):
            for key, member in vars(value).items():
                member = getattr(member, "__func__", getattr(member, "fget", member))
                if not key.startswith("_") and inspect.isfunction(member):
                    yield f"{name}.{key}", module, member.__doc__


CASES = [(name, module, doc) for name, module, doc in documented() if any(examples_of(doc))]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(256, 8, 8, 1)).astype("float32"), np.arange(256) % 10


@pytest.fixture
def registered():
    """An example finds the techniques of the package alone, and what it defines itself is forgotten after it."""
    saved = [(table, copy.copy(table)) for table in (layers.TECHNIQUES, layers.LAYER_CLASSES)]
    for table, before in saved:
        for key in [key for key, cls in before.items() if not cls.__module__.startswith("sparsity_tf.")]:
            del table[key]
    yield
    for table, before in saved:
        table.clear()
        table.update(before)


def small_classifier():
    """2,500 weights in "conv" (36), "hidden" (2,304) and "logits" (160)."""
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(keras.layers.Flatten(name="flatten")(maps))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(hidden), name="classifier")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def names_for(module, x, y):
    names = dict(np=np, keras=keras, sparsity_tf=sparsity_tf, x=x, y=y, data=(x, y), __name__="example")
    public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
    names.update({key: getattr(module, key) for key in public if module is not sparsity_tf})
    return names


def marks(name):
    slow = [pytest.mark.slow] if name in SLOW else []
    # Keras runs models without compiled steps many times slower on the other backends.
    return slow if name.split(".")[1] in ANY_BACKEND else [*slow, pytest.mark.tensorflow]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name,module,doc", [pytest.param(*case, id=case[0], marks=marks(case[0])) for case in CASES])
def test_the_example_runs(name, module, doc, arrays, registered, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Each example has a model of its own, whose compiled steps would cost most of the time.
    monkeypatch.setattr(keras.Model, "compile", functools.partialmethod(keras.Model.compile, run_eagerly=True))
    blocks, sessions = examples_of(doc)
    names = names_for(module, *arrays)
    if re.search(r"\bmodel\b", doc):
        names["model"] = small_classifier()
    for block in blocks:
        code = compile(block, name, "exec")
        if not NEEDS.search(block.splitlines()[0]):
            exec(code, names)
    if not sessions:
        return
    if NEEDS.search(sessions[0].source.splitlines()[0]):
        compile("".join(example.source for example in sessions), name, "exec")
        return
    test = doctest.DocTest(sessions, names, name, None, 0, None)
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    runner.run(test, out=output.append, clear_globs=False)
    assert not runner.failures, "\n" + textwrap.indent("".join(output), "    ")


def test_few_examples_are_not_run():
    skipped = [name for name, _, doc in CASES if NEEDS.search(doc)]
    assert len(skipped) <= 9, skipped
