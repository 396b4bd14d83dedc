"""What a technique adds to a weight lies on the devices as the weight does (`keras.distribution`, JAX).

The devices are four virtual ones of a CPU, which must be asked for before JAX starts: the checks run in a process of
their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="only JAX has layouts")

PROGRAM = '''
import keras
import numpy as np

import sparsity_tf
from sparsity_tf import callbacks, layers

devices = keras.distribution.list_devices()
assert len(devices) == 4, devices
mesh = keras.distribution.DeviceMesh((1, 4), ["batch", "model"], devices)
layout_map = keras.distribution.LayoutMap(mesh)
layout_map["(.*/)?hidden/kernel"] = (None, "model")
layout_map["(.*/)?hidden/bias"] = ("model",)
layout_map["named/(kernel|mask|log_sigma2)"] = ("model", None)
keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch"))

X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = X[:, :3].argmax(axis=1)


def plain():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(12, activation="relu", name="hidden")(inputs)
    x = keras.layers.Dense(4, activation="relu", name="named")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def spec(variable):
    """The mesh axis by which each axis of a variable is divided."""
    found = tuple(variable.value.sharding.spec)
    return found + (None,) * (len(variable.shape) - len(found))


def extras(layer):
    return [weight.extra_variable(name) for weight in layer.sparse_weights for name in EXTRAS[layer.technique.name]]


EXTRAS = {
    "masked": ["mask"],
    "variational_dropout": ["log_sigma2"],
    "l0": ["log_alpha"],
    "soft_threshold": ["raw_threshold"],
}

for technique in ("masked", "vd", "l0"):
    model = sparsity_tf.sparsify(plain(), technique)
    for name, expected in (("hidden", (None, "model")), ("named", ("model", None)), ("logits", (None, None))):
        layer = model.get_layer(name)
        [extra] = extras(layer)
        kernel = spec(layer.kernel)
        if technique != "l0" or name != "named":
            assert kernel == spec(extra) == expected, (technique, name, kernel, spec(extra))
    # Each of the four devices holds a quarter.
    [extra] = extras(model.get_layer("hidden"))
    assert [shard.data.shape for shard in extra.value.addressable_shards] == [(8, 3)] * 4

# Layers made in the model itself, and variables of other shapes than the kernel's.
inputs = keras.Input((8,))
direct = layers.STRDense(12, granularity="filter", name="hidden")
keras.Model(inputs, direct(inputs))
assert direct.raw_threshold.shape == (1, 12) and spec(direct.raw_threshold) == (None, "model")
scalar = layers.STRDense(12, name="hidden")
keras.Model(inputs, scalar(inputs))
assert scalar.raw_threshold.shape == () and spec(scalar.raw_threshold) == ()

# A model that Keras builds for its data: its variables get their values after they are made.
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.MaskedDense(12, name="hidden")
        self.logits = keras.layers.Dense(3)

    def call(self, x):
        return self.logits(keras.ops.relu(self.hidden(x)))


late = Subclassed()
late.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
late.fit(X, Y, verbose=0)
assert spec(late.hidden.kernel) == spec(late.hidden.mask) == (None, "model"), spec(late.hidden.mask)

# Algorithms change masks, and files are read, without moving anything; the masks are those of a single device.
model = sparsity_tf.sparsify(plain(), "masked")
model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
pruning = callbacks.MagnitudePruning(0.5, schedule="constant", frequency=1, begin_step=1, end_step=4)
model.fit(X, Y, epochs=6, batch_size=16, verbose=0, callbacks=[pruning])
hidden = model.get_layer("hidden")
assert spec(hidden.mask) == spec(hidden.kernel) == (None, "model")
assert hidden.sparse_weights[0].count() == 48 == np.count_nonzero(keras.ops.convert_to_numpy(hidden.mask))
model.save(FILE)
loaded = keras.saving.load_model(FILE)
assert spec(loaded.get_layer("hidden").mask) == (None, "model")
np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
hidden.sparse_weights[0].assign_mask(np.ones((8, 12), bool))
assert spec(hidden.mask) == spec(hidden.kernel) == (None, "model")
dense = sparsity_tf.to_dense(loaded)
assert spec(dense.get_layer("hidden").kernel) == (None, "model")

# What an optimizer remembers of them lies there, too, and an algorithm that grows weights works.
for technique, slots in (("masked", {"hidden_kernel"}), ("vd", {"hidden_kernel", "hidden_log_sigma2"})):
    model = sparsity_tf.sparsify(plain(), technique)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    growing = [callbacks.RigL(0.75, distribution="uniform", frequency=2, end_step=5)] if technique == "masked" else []
    model.fit(X, Y, epochs=6, batch_size=16, verbose=0, callbacks=growing)
    remembered = [variable for variable in model.optimizer.variables if "/hidden" in variable.path]
    found = {slot.path.split("/")[1].removesuffix("_momentum"): spec(slot) for slot in remembered}
    assert {name for name, divided in found.items() if divided == (None, "model")} == slots, found
    [extra] = extras(model.get_layer("hidden"))
    assert spec(extra) == (None, "model")
    if technique == "masked":
        assert model.get_layer("hidden").sparse_weights[0].count() == 24
print("every layout is right")
'''


def test_masks_and_technique_variables_have_the_layout_of_their_kernel(tmp_path):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    program = f"FILE = {str(tmp_path / 'model.keras')!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every layout is right" in done.stdout
