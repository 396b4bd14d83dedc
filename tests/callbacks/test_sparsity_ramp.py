"""SparsityRamp: the published densities, exact counts while training runs, and what it refuses."""

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks, layers, masks, schedules, sparsify
from sparsity_tf.layers import get_sparse_weights

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 12)).astype("float32"), RNG.normal(size=(32, 5)).astype("float32")


def make_model(technique="movement", **options):
    parts = [keras.layers.Dense(8, "tanh", name="first"), keras.layers.Dense(5, name="second")]
    model = sparsify(keras.Sequential([keras.Input((12,)), *parts]), technique, **options)
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return model


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([weight.count() for weight in get_sparse_weights(self.model)])


def test_the_published_densities():
    """1,000 steps, of which the first 100 and the last 200 have a constant density, from 1 to 0.15."""
    ramp = callbacks.SparsityRamp(0.85, begin_step=100, end_step=800)
    found = [1 - ramp.sparsity_at(step) for step in (0, 100, 101, 450, 800, 1000)]
    assert found == pytest.approx([1, 1, 0.996362, 0.25625, 0.15, 0.15], abs=1e-6)


@pytest.mark.parametrize("frequency", [1, 3])
def test_counts_follow_the_schedule(frequency):
    model, counts = make_model(), Counts()
    ramp = callbacks.SparsityRamp(0.8, begin_step=2, end_step=7, frequency=frequency)
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[counts, ramp]).history
    for step, seen in enumerate(counts.seen):
        at = step if step >= 7 else step // frequency * frequency
        sparsity = schedules.Cubic(0.0, 0.8, 2, 7)(at)
        assert seen == [masks.number_to_keep(sparsity, size) for size in (96, 40)], step
    assert [weight.count() for weight in get_sparse_weights(model)] == [19, 8]
    assert history["scheduled_sparsity"][-1] == 0.8


def test_a_ramp_that_ends_with_training_ends_exactly():
    model = make_model()
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callbacks.SparsityRamp(0.8, end_step=8)])
    assert [weight.count() for weight in get_sparse_weights(model)] == [19, 8]


def test_by_default_it_ends_after_half_of_training():
    model, ramp = make_model(), callbacks.SparsityRamp(0.8)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[ramp])
    assert ramp.last_step == 4


def test_a_stopped_run_continues_exactly(tmp_path):
    def run(model, *epochs):
        ramp = callbacks.SparsityRamp(0.8, begin_step=1, end_step=10)
        model.fit(
            X, Y, batch_size=8, epochs=epochs[1], initial_epoch=epochs[0], shuffle=False, verbose=0, callbacks=[ramp]
        )

    keras.utils.set_random_seed(3)
    whole = make_model()
    whole.save(tmp_path / "start.keras")
    stopped = keras.saving.load_model(tmp_path / "start.keras")
    for model in (whole, stopped):
        model.run_eagerly = True
    run(whole, 0, 3)
    with pytest.warns(UserWarning, match="SparsityRamp ended at a sparsity of .*, below 0.8"):
        run(stopped, 0, 1)
    stopped.save(tmp_path / "stopped.keras")
    continued = keras.saving.load_model(tmp_path / "stopped.keras")
    continued.run_eagerly = True
    run(continued, 1, 3)
    for one, other in zip(whole.weights, continued.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


def test_a_loop_of_ones_own():
    model, ramp = make_model(), callbacks.SparsityRamp(0.8, end_step=3)
    for step in range(4):
        assert ramp.update(model) == pytest.approx(schedules.Cubic(0.0, 0.8, 0, 3)(step))
        model.train_on_batch(X[:8], Y[:8])
    with pytest.raises(ValueError, match="`end_step` must be given"):
        callbacks.SparsityRamp(0.8).update(model)


def test_a_run_that_is_too_short_says_so():
    with pytest.warns(UserWarning, match=r"SparsityRamp ended at a sparsity of 0.0\d+, below 0.8: .*`end_step` 900"):
        callback = callbacks.SparsityRamp(0.8, end_step=900)
        make_model().fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[callback])


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(
        ValueError, match="SparsityRamp needs a built model with layers whose sparsity follows a schedule"
    ):
        make_model("masked").fit(X, Y, verbose=0, callbacks=[callbacks.SparsityRamp(0.8, end_step=4)])
    assert layers.MovementPruning.name == "movement"


@pytest.mark.parametrize(
    "options,message",
    [
        ({"final_sparsity": 1.0}, "`final_sparsity` must be .*final_sparsity=1.0"),
        ({"initial_sparsity": 0.9}, "`initial_sparsity` must not exceed `final_sparsity`.*=0.9, final_sparsity=0.8"),
        ({"begin_step": 5, "end_step": 5}, "`begin_step` must be smaller than `end_step`.*begin_step=5, end_step=5"),
        ({"begin_step": -1}, "`begin_step` .*begin_step=-1"),
        ({"frequency": 0}, "`frequency` .*frequency=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.SparsityRamp(**{"final_sparsity": 0.8, **options})
