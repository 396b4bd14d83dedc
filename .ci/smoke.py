"""Uses an installed sparsity_tf: prunes a small network while it trains, saves, loads, and makes it dense and smaller.

    KERAS_BACKEND=jax python smoke.py

It needs one backend of Keras and no extra besides. Run it from a folder that holds no `sparsity_tf`.
"""

import pathlib
import sys
import tempfile

import keras
import numpy as np

import sparsity_tf

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
y = (x.mean((1, 2, 3)) > 0).astype("int32")
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu", name="hidden"),
        keras.layers.Dense(2, name="logits"),
    ]
)
model = sparsity_tf.sparsify(model, "masked", structure="channel")
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
pruning = sparsity_tf.callbacks.MagnitudePruning(final_sparsity=0.5, begin_step=0, end_step=6, frequency=1)
model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[pruning])
expected = model.predict(x, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)
dense = sparsity_tf.to_dense(model)
np.testing.assert_allclose(dense.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)
small = sparsity_tf.shrink(model)
np.testing.assert_allclose(small.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
assert small.count_params() < dense.count_params()

print(
    f"sparsity_tf {sparsity_tf.__version__}, Keras {keras.__version__} on {keras.backend.backend()}, "
    f"Python {sys.version.split()[0]}: {dense.count_params()} weights, {small.count_params()} after shrink"
)
