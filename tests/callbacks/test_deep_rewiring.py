"""Deep rewiring: drift, noise and rewiring of single updates, and what they keep."""

import math

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import schedules
from sparsity_tf.callbacks import DeepRewiring, deep_rewiring
from tests.callbacks.bags import make_bag, masks_of, set_slots, values_of

VALUES = np.array([[0.5, -0.5, 0.03, -0.03], [0.0, 0.0, 0.0, 0.0]])


def prepared(values=VALUES, optimizer=None, **options):
    """A bag of one weight, whose masks are full where the values are not zero, and a prepared algorithm."""
    model = make_bag([values], optimizer=optimizer)
    algorithm = DeepRewiring(0.5, end_step=100, **{"l1": 0.0, "temperature": 0.0, **options})
    algorithm.prepare(model)
    return model, algorithm


def test_the_default_temperature_gives_the_noise_of_the_authors_program():
    rate, deviation = 0.05, 1e-5
    temperature = DeepRewiring().temperature_at(0)
    assert temperature == pytest.approx(rate * deviation**2 / 2)
    assert math.sqrt(2 * rate * temperature) == pytest.approx(rate * deviation)


def test_a_weight_that_changes_its_sign_is_dropped_and_another_grows_from_zero():
    model, algorithm = prepared()
    moved = VALUES.copy()
    moved[0] = [-0.1, -0.9, 0.2, 0.4]  # The first and the last have crossed zero.
    algorithm.weights[0].variable.assign(moved)
    algorithm.change_masks(1)
    (mask,), (value,) = masks_of(model), values_of(model)
    assert mask.sum() == 4 and mask[0, 1] and mask[0, 2]
    np.testing.assert_allclose(sorted(value[mask]), [-0.9, 0, 0, 0.2], rtol=1e-6)
    assert algorithm.dropped == algorithm.grown == {"part0/kernel": 2}


def test_live_weights_drift_towards_zero():
    """In a step by eta * l1 = 0.1 * 0.5; what does not reach that far is dropped."""
    model, algorithm = prepared(l1=0.5)
    algorithm.change_masks(1)
    (mask,), (value,) = masks_of(model), values_of(model)
    np.testing.assert_allclose(value[0, :2], [0.45, -0.45], rtol=1e-6)
    assert mask.sum() == 4 and np.count_nonzero(value) == 2


def test_the_drift_has_the_learning_rate_of_the_step_before_it():
    """A schedule of Keras has moved on by one when the callback acts."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.2, 0.1, 0.0])
    model, algorithm = prepared(l1=0.5, optimizer=keras.optimizers.SGD(schedule))
    for drift in (0.1, 0.05, 0.0):
        optimizer, before = model.optimizer, values_of(model)[0][0, 0]
        optimizer.apply([keras.ops.zeros(variable.shape) for variable in model.trainable_variables])
        algorithm.change_masks(int(keras.ops.convert_to_numpy(optimizer.iterations)))
        assert before - values_of(model)[0][0, 0] == pytest.approx(drift, abs=1e-6)


def test_a_weight_at_zero_stays_without_drift_and_goes_with_it():
    for l1, stay in ((0.0, True), (1e-3, False)):
        model, algorithm = prepared(l1=l1)
        algorithm.weights[0].variable.assign(np.zeros((2, 4)))
        algorithm.change_masks(1)
        # A weight that is dropped may grow again at once, and counts as dropped all the same.
        assert algorithm.dropped["part0/kernel"] == (0 if stay else 4)


def test_noise_has_the_deviation_of_the_paper_and_reaches_live_weights_only():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((200, 200)) < 0.5, 1.0, 0.0)
    model, algorithm = prepared(values, temperature=schedules.Piecewise((2,), (2e-3, 0.0)))
    algorithm.change_masks(1)
    (mask,), (value,) = masks_of(model), values_of(model)
    assert (value[~mask] == 0).all() and algorithm.dropped["part0/kernel"] == 0
    noise = value[mask] - 1
    assert noise.std() == pytest.approx(math.sqrt(2 * 0.1 * 2e-3), rel=0.02)
    assert abs(noise.mean()) < 4 * noise.std() / math.sqrt(noise.size)
    algorithm.change_masks(2)  # The temperature is zero now.
    np.testing.assert_array_equal(values_of(model)[0], value)


def test_a_position_keeps_its_sign_and_a_weight_its_count():
    rng = np.random.default_rng(1)
    model = make_bag([rng.normal(size=(20, 15)), rng.normal(size=(15, 4))])
    algorithm = DeepRewiring(0.8, l1=0.02, temperature=0.05, end_step=100, seed=3)
    algorithm.prepare(model)
    counts, signs, lived = algorithm.active_counts(), [np.zeros((20, 15)), np.zeros((15, 4))], 0
    for step in range(1, 60):
        for weight in algorithm.weights:
            weight.variable.assign_add(np.where(weight.mask(), rng.normal(size=weight.shape) * 0.1, 0))
        algorithm.change_masks(step)
        assert algorithm.active_counts() == counts == [60, 12]
        for sign, value in zip(signs, values_of(model), strict=True):
            assert (sign * value >= 0).all()
            sign[value != 0] = np.sign(value[value != 0])
        lived += sum(algorithm.dropped.values())
    assert lived > 200 and all((sign != 0).mean() > 0.5 for sign in signs)


def test_grown_weights_start_with_empty_slots():
    model, algorithm = prepared(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), l1=1.0)
    set_slots(model, "momentums", [np.ones((2, 4))])
    algorithm.change_masks(1)
    momentum = keras.ops.convert_to_numpy(model.optimizer.momentums[0])
    (value,), (mask,) = values_of(model), masks_of(model)
    assert (momentum[mask & (value == 0)] == 0).all() and (momentum[mask & (value != 0)] == 1).all()
    assert (mask & (value == 0)).sum() == 2


def test_the_signs_of_two_weights_of_a_layer_are_saved_apart(tmp_path):
    def make():
        layer = sparsity_tf.layers.MaskedLSTM(3)
        model = keras.Sequential([keras.Input((4, 5)), layer])
        model.compile("sgd", "mse")
        return model

    model, path = make(), str(tmp_path / "a.weights.h5")
    algorithm = DeepRewiring(0.5, end_step=9)
    algorithm.prepare(model)
    model.save_weights(path)
    restored, again = make(), DeepRewiring(0.5, end_step=9, seed=7)
    restored.load_weights(path)
    again.prepare(restored)
    for one, other in zip(algorithm._signs.values(), again._signs.values(), strict=True):
        assert one.size in (60, 36) and {-1, 1} == set(one.ravel().tolist())
        np.testing.assert_array_equal(one, other)


def test_weights_that_stay_dense_are_left_alone():
    model = make_bag([np.full((3, 4), 1e-4), np.full((4, 2), 0.5)])
    algorithm = DeepRewiring(0.5, l1=1.0, temperature=1.0, end_step=9, dense="first")
    algorithm.prepare(model)
    algorithm.change_masks(1)
    np.testing.assert_array_equal(values_of(model)[0], np.full((3, 4), np.float32(1e-4)))


def soft(values, masks=None, seed=0, **options):
    model = make_bag([values], masks)
    algorithm = DeepRewiring(0.8, end_step=10_000, soft=True, seed=seed, **options)
    algorithm.prepare(model)
    return model, algorithm


def test_the_lowest_theta_of_soft_deep_r_is_that_of_the_authors_program():
    """Density 0.005, rate 0.05, noise and L1 coefficient 1e-5: T = 2.5e-12, beta = l1 / T = 4e6."""
    algorithm = DeepRewiring(0.995, l1=1e-5, temperature=2.5e-12, soft=True)
    assert algorithm.lowest_theta(0.995, 0) == pytest.approx(-4.975e-5)
    assert algorithm.lowest_theta(0.0, 0) == 0


def test_dormant_thetas_walk_between_their_bound_and_zero_and_live_beyond():
    values = np.zeros((40, 50))
    values[:10] = 0.5
    model, algorithm = soft(values, l1=0.1, temperature=0.01)
    deviation, lowest = math.sqrt(2 * 0.1 * 0.01), -0.8 / 0.2 * 0.01 / 0.1
    (weight,) = algorithm.weights
    state = f"{deep_rewiring._DORMANT}kernel"
    algorithm.change_masks(1)
    (mask,), (value,) = masks_of(model), values_of(model)
    theta, dormant = weight.technique.states[state].reshape(mask.shape), ~mask
    assert mask[:10].all() and (theta[mask] == 0).all()  # 0.5 is eleven deviations from 0
    assert theta[dormant].min() == pytest.approx(lowest) and (theta[dormant] < 0).all()
    # Of thetas that are uniform on [lowest, 0), deviation / sqrt(2 pi) / -lowest cross 0 in a step.
    grown = mask[10:].sum()
    assert grown == algorithm.grown["part0/kernel"]
    assert grown == pytest.approx(1500 * deviation / math.sqrt(2 * math.pi) / -lowest, rel=0.35)
    # An entry begins to live where it has walked to, with the sign of its position.
    began = value[10:][mask[10:]]
    assert (began != 0).mean() > 0.99 and 0.3 < (began > 0).mean() < 0.7 and np.abs(began).max() < 4 * deviation
    before = theta.copy()
    algorithm.change_masks(2)
    stays = dormant & ~masks_of(model)[0]
    steps = (weight.technique.states[state].reshape(mask.shape) - before)[stays]
    assert 0 < np.abs(steps).max() < 5 * deviation and steps.std() == pytest.approx(deviation, rel=0.3)


def test_without_a_gradient_the_share_of_live_entries_comes_to_the_prior():
    """Of 2,000 entries, half live at first. The prior has 20 %, whose mean theta is T / l1 = 0.1."""
    values = np.zeros((40, 50))
    values[:20] = 0.3
    model, algorithm = soft(values, l1=0.1, temperature=0.01)
    shares, means = [], []
    for step in range(1, 500):
        algorithm.change_masks(step)
        if step >= 300 and step % 20 == 0:
            (value,), (mask,) = values_of(model), masks_of(model)
            shares.append(mask.mean())
            means.append(np.abs(value[mask]).mean())
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
    assert np.mean(means) == pytest.approx(0.1, abs=0.02)


def test_a_live_entry_of_soft_deep_r_that_falls_below_zero_sleeps_from_there_on():
    model, algorithm = soft([[0.5, -0.5, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], l1=1e-3, temperature=1e-9)
    algorithm.weights[0].variable.assign([[0.5, 0.2, -1e-9] + [0.0] * 7])
    algorithm.change_masks(1)
    states = algorithm.weights[0].technique.states[f"{deep_rewiring._DORMANT}kernel"]
    assert masks_of(model)[0][0, :3].tolist() == [True, False, False]
    # Of the second entry, 0.2 on the wrong side, the bound is left: -4e-6. The rate is 0.1, so the drift is 1e-4.
    assert states[:3] == pytest.approx([0, -4e-6, -4e-6])


def test_dormant_thetas_are_saved_and_a_stopped_run_continues_exactly(tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), sparsity_tf.layers.MaskedDense(20)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    def go(model, steps):
        algorithm = DeepRewiring(0.8, l1=0.1, temperature=0.01, end_step=9, soft=True)
        algorithm.prepare(model)
        for _ in range(steps):
            model.train_on_batch(np.ones((2, 6)), np.ones((2, 20)))
            algorithm.update(model)
        algorithm.detach()
        return model

    whole = go(make(), 6)
    go(make(), 3).save(tmp_path / "model.keras")
    resumed = go(keras.saving.load_model(tmp_path / "model.keras"), 3)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    states = [model.layers[0].technique.states[f"{deep_rewiring._DORMANT}kernel"] for model in (whole, resumed)]
    np.testing.assert_array_equal(*states)
    assert (states[0] < 0).sum() > 40


def test_entries_that_something_else_has_pruned_sleep_as_deeply_as_at_the_beginning():
    """They have no theta of their own yet. At theta = 0 half of them would live after one step."""
    values = np.full((40, 50), 0.5)
    values[0, 0] = 0
    model, algorithm = soft(values, l1=0.1, temperature=0.01)
    algorithm.change_masks(1)
    algorithm.finish()
    mask = np.zeros((40, 50), bool)
    mask[:10] = True
    algorithm.weights[0].assign_mask(mask)
    again = DeepRewiring(0.8, l1=0.1, temperature=0.01, end_step=10_000, soft=True)
    again.prepare(model)
    again.change_masks(2)
    theta = again.weights[0].technique.states[f"{deep_rewiring._DORMANT}kernel"].reshape(mask.shape)
    dormant = ~masks_of(model)[0]
    # The thetas are uniform on [-0.4, 0), and a step has the deviation 0.045.
    assert 1300 < dormant[10:].sum() < 1500 and theta[dormant].mean() == pytest.approx(-0.2, abs=0.02)


def test_the_temperature_of_soft_deep_r_must_stay_above_zero():
    _, algorithm = soft(VALUES, temperature=schedules.Piecewise((2,), (1e-6, 0.0)))
    with pytest.raises(ValueError, match="`temperature` must be a finite number above 0.*0.0"):
        algorithm.change_masks(2)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"soft": 1}, "`soft` must be"),
        ({"soft": True, "l1": 0.0}, "`l1` must be a finite number above 0.*l1=0.0"),
        ({"soft": True, "temperature": 0.0}, "`temperature` must be a finite number above 0.*temperature=0.0"),
        ({"l1": -1e-5}, "`l1` must be a finite number at least 0.*l1=-1e-05"),
        ({"temperature": -1.0}, "`temperature` must be a finite number at least 0.*temperature=-1.0"),
        ({"temperature": "hot"}, "`temperature` must be .*temperature='hot'"),
        ({"temperature": lambda: 1.0}, r"`temperature` must be a function of \(step\)"),
        ({"structure": "4x1"}, "`structure` must be None: DeepRewiring moves single weights"),
        ({"sparsity": 1.0}, r"`sparsity` must be a number in \[0, 1\).*sparsity=1.0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DeepRewiring(**options)


def test_a_schedule_below_zero_is_refused_when_training_begins():
    model = make_bag([VALUES])
    algorithm = DeepRewiring(0.5, temperature=lambda step: -1.0, end_step=5)
    with pytest.raises(ValueError, match="`temperature` must be a finite number at least 0.*-1.0"):
        algorithm.prepare(model)
