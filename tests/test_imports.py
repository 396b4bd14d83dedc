"""`import sparsity_tf` imports the backend that Keras runs on, and no other; and no other package need be installed."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

from sparsity_tf.extras import BACKENDS, EXTRAS
from tests import fresh_process

IMPORTS = """
import sys, keras

before = set(sys.modules)
import sparsity_tf
import sparsity_tf.callbacks, sparsity_tf.decoding, sparsity_tf.inspection, sparsity_tf.initializers, sparsity_tf.models
import sparsity_tf.checkpoints, sparsity_tf.schedules

print(sorted({"tensorflow", "jax", "torch"} & (set(sys.modules) - before)))
"""

WITHOUT = """
import sys

# An import of it fails.
sys.modules.update(dict.fromkeys(OTHERS))
import keras, sparsity_tf

model = sparsity_tf.sparsify(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), "masked")
model.compile("sgd", "mse")
pruning = sparsity_tf.callbacks.MagnitudePruning(0.5, begin_step=0, end_step=2, frequency=1)
x = keras.random.normal((16, 8), seed=0)
model.fit(x, x[:, :4], batch_size=4, verbose=0, callbacks=[pruning])
for name in sparsity_tf.__all__:
    getattr(sparsity_tf, name)
print(model.sparsify_report)
print(sparsity_tf.inspection.sparsity_table(model), sparsity_tf.inspection.count_flops(model))
print(sparsity_tf.inspection.sparsity_table(sparsity_tf.to_dense(model)).sparsity)
"""


def run(code, backend):
    """Runs code in a process of its own: the last line of its output."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == keras.config.backend():
        finished = fresh_process.run(code)
    else:
        environment = {**os.environ, "KERAS_BACKEND": backend}
        finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout.splitlines()[-1]


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_no_backend_is_imported_that_keras_has_not(backend):
    assert run(IMPORTS, backend) == "[]"


# (SciPy, of which JAX is made, takes a `torch` of None for the package.)
@pytest.mark.parametrize(
    "backend,others",
    [
        ("torch", ["tensorflow", "jax"]),
        pytest.param("jax", ["tensorflow"], marks=pytest.mark.slow),
        ("tensorflow", ["jax"]),
    ],
)
def test_neither_other_backends_nor_extras_need_be_there(backend, others):
    missing = [*others, *(package for package in EXTRAS if package not in BACKENDS)]
    assert float(run(WITHOUT.replace("OTHERS", repr(missing)), backend)) == 0.5


# As if packages were not there. (What finds None in `sys.modules`, such as SciPy, may take it for a package.)
NOT_INSTALLED = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {packages!r} else find(name, *where)
"""


@pytest.mark.parametrize(
    "backend,message",
    [
        (None, 'pip install "sparsity-tf[tensorflow]" (or "sparsity-tf[jax]" or "sparsity-tf[torch]", and set '),
        ("jax", 'pip install "sparsity-tf[jax]"'),
    ],
)
def test_without_a_backend_one_sentence_says_what_to_install(tmp_path, backend, message):
    code = NOT_INSTALLED.format(packages=BACKENDS) + "import sparsity_tf"
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path), **({"KERAS_BACKEND": backend} if backend else {})}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = finished.stderr.splitlines()[-1]
    sentence = f"Keras is set to a backend that needs {backend or 'tensorflow'}, which is not installed: {message}"
    assert finished.returncode == 1 and last.startswith(f"sparsity_tf.extras.MissingPackageError: {sentence}")
    assert "No module named" not in finished.stderr and "import of" not in finished.stderr
