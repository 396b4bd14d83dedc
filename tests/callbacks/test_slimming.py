"""NetworkSlimming: the published gradient, the cut by gamma, and what `shrink` makes of it."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, shrink
from sparsity_tf.layers import flatten_layers
from tests.callbacks import tied_models
from tests.gradients import gradients

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 4, 4, 3)).astype("float32"), RNG.normal(size=(48, 3)).astype("float32")


def two_norms():
    """Two convolutions with batch normalisation, six and four channels."""
    layers = keras.layers
    parts = [
        layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv1"),
        layers.BatchNormalization(name="bn1"),
        layers.ReLU(),
        layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv2"),
        layers.BatchNormalization(name="bn2"),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, name="last"),
    ]
    return keras.Sequential([keras.Input((4, 4, 3)), *parts])


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    return model


def gammas(model):
    return [layer.gamma for layer in flatten_layers(model) if getattr(layer, "gamma", None) is not None]


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def test_the_published_gradient():
    """grad(gamma) += s sign(gamma)."""
    model, algorithm = compiled(two_norms()), callbacks.NetworkSlimming(0.5, end_step=5, factor=0.25)
    algorithm.prepare(model)
    gammas(model)[0].assign([1.0, -2.0, 0.5, 0.0, -0.1, 3.0])
    found = gradients(lambda: sum(model.losses), gammas(model))
    np.testing.assert_allclose(found[0], 0.25 * np.array([1, -1, 1, 0, -1, 1]))
    np.testing.assert_allclose(found[1], 0.25)
    algorithm.detach()
    assert not model.losses


@pytest.mark.parametrize(
    "scope,expected", [("global", [[0, 1, 0, 1, 1, 1], [0, 0, 1, 0]]), ("layer", [[0, 0, 0, 1, 1, 1], [0, 1, 1, 0]])]
)
def test_the_channels_of_the_smallest_gammas_are_cut(scope, expected):
    """Exactly floor((1 - s) n) live, and one in each layer. (The authors' program may cut a whole layer.)"""
    model = compiled(two_norms())
    algorithm = callbacks.NetworkSlimming(0.5, end_step=5, scope=scope)
    algorithm.prepare(model)
    gammas(model)[0].assign([0.1, -0.6, 0.5, 0.7, -0.8, 0.9])
    gammas(model)[1].assign([0.01, -0.3, 0.4, 0.2])
    assert algorithm.due(3, 4) is None and algorithm.due(4, 5) == 5 and algorithm.due(5, 90) is None
    algorithm.change_masks(5)
    assert [(to_numpy(gamma) != 0).astype(int).tolist() for gamma in gammas(model)] == expected
    algorithm.detach()


def test_training_cuts_once_and_shrink_removes_the_channels():
    model, seen = compiled(two_norms()), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs["sparsity"], len(self.model.losses)))

    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callbacks.NetworkSlimming(0.5), Watch()])
    # The default is a cut after half of training. Then the gammas are trained without the penalty.
    assert seen == [(0.0, 2)] * 5 + [(0.5, 0)] * 7
    small = shrink(model)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-4, atol=1e-5)


def test_the_penalty_makes_gammas_small():
    found = []
    for factor in (0.0, 1.0):
        model = compiled(two_norms(), 0.01)
        slimming = callbacks.NetworkSlimming(0.5, end_step=50, factor=factor)
        with pytest.warns(UserWarning, match="NetworkSlimming will not change the masks: .*end_step=50"):
            model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[slimming])
        assert not model.losses
        found.append(sum(abs(to_numpy(gamma)).sum() for gamma in gammas(model)))
    assert found[1] < found[0] - 0.5


def test_a_continued_run_has_no_penalty_after_the_cut(tmp_path):
    model = compiled(two_norms())
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[callbacks.NetworkSlimming(0.5, end_step=4)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    before = [to_numpy(gamma) != 0 for gamma in gammas(loaded)]
    again = callbacks.NetworkSlimming(0.5, end_step=4)
    loaded.fit(X, Y, batch_size=8, epochs=2, initial_epoch=1, verbose=0, callbacks=[again])
    assert again.sparsity == 0.5 and not loaded.losses
    assert all((a == (to_numpy(b) != 0)).all() for a, b in zip(before, gammas(loaded), strict=True))


def test_the_users_own_regularizer_stays():
    model = two_norms()
    layer = model.get_layer("bn1")
    layer.gamma.regularizer = keras.regularizers.L2(0.5)
    algorithm = callbacks.NetworkSlimming(0.5, end_step=5, factor=0.25)
    algorithm.prepare(compiled(model))
    assert float(to_numpy(sum(model.losses))) == pytest.approx(0.5 * 6 + 0.25 * 10)
    algorithm.detach()
    assert float(to_numpy(sum(model.losses))) == pytest.approx(0.5 * 6)


@pytest.mark.parametrize("make", [tied_models.mlp, tied_models.vgg])
def test_channels_without_a_gamma_are_refused(make):
    with pytest.raises(ValueError, match="NetworkSlimming needs batch normalisation with a gamma .*/channel"):
        callbacks.NetworkSlimming(0.5, end_step=5).prepare(compiled(make()))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"final_sparsity": 1.0}, "final_sparsity=1.0"),
        ({"factor": -1.0}, "`factor` must be .*factor=-1.0"),
        ({"scope": "model"}, "`scope` must be one of"),
        ({"end_step": 0}, "end_step=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.NetworkSlimming(**{"final_sparsity": 0.5, **options})
