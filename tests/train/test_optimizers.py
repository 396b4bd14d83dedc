"""A recipe becomes the learning rate and the optimizer that it states."""

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf.train import optimizers
from sparsity_tf.train.classifier import presets

pytestmark = pytest.mark.tensorflow


def rates(recipe, steps, epochs):
    rate = optimizers.learning_rate(recipe, steps)
    return [float(rate(round(epoch * steps))) for epoch in epochs]


def test_linear_rate_is_the_papers_policy():
    recipe = presets.Recipe(learning_rate=0.001, epochs=200, lr_decay_from=0.5)
    # k clip(2 - e / 100, 0, 1)
    expected = [0.001, 0.001, 0.00075, 0.0005, 0.0]
    np.testing.assert_allclose(rates(recipe, 10, [0, 100, 125, 150, 200]), expected, atol=1e-9)


def test_linear_rate_from_the_start_falls_from_the_start():
    recipe = presets.Recipe(learning_rate=1.0, epochs=10, lr_decay_from=0.0)
    np.testing.assert_allclose(rates(recipe, 4, [0, 2.5, 5, 10]), [1, 0.75, 0.5, 0], atol=1e-6)


def test_cosine_rate_is_half_a_wave_after_the_constant_part():
    recipe = presets.Recipe(learning_rate=2.0, epochs=4, lr_schedule="cosine", lr_decay_from=0.5)
    expected = [2, 2, 1 + np.cos(np.pi / 4), 1, 0]
    np.testing.assert_allclose(rates(recipe, 8, [0, 2, 2.5, 3, 4]), expected, atol=1e-6)


def test_piecewise_rate_changes_at_its_boundaries():
    recipe = presets.Recipe(learning_rate=1.0, lr_schedule="piecewise", lr_boundaries=(2, 4), lr_factors=(0.1, 0.01))
    schedule = optimizers.learning_rate(recipe, 10)
    values = [float(schedule(step)) for step in (0, 19, 20, 39, 40, 100)]
    np.testing.assert_allclose(values, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_rate_never_falls_when_decay_begins_at_the_end():
    recipe = presets.Recipe(learning_rate=1.0, epochs=2, lr_decay_from=1.0)
    assert rates(recipe, 5, [0, 1, 1.8]) == [1, 1, 1]


def test_schedule_survives_its_config():
    schedule = optimizers.HoldThenDecay(0.3, 100, 0.25, "cosine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(copy, optimizers.HoldThenDecay)
    assert [float(copy(s)) for s in (0, 50, 99)] == [float(schedule(s)) for s in (0, 50, 99)]


@pytest.mark.parametrize("arguments", [{"shape": "square"}, {"total_steps": 0}, {"decay_from": 1.1}])
def test_unusable_schedule_is_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        optimizers.HoldThenDecay(**{"learning_rate": 1.0, "total_steps": 10, **arguments})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW), ("sgd", keras.optimizers.SGD)],
)
def test_optimizer_is_the_one_named(name, kind):
    recipe = presets.Recipe(optimizer=name, weight_decay=0.01, momentum=0.7)
    optimizer = optimizers.make_optimizer(recipe, 10)
    assert type(optimizer) is kind and optimizer.weight_decay == 0.01
    if name == "sgd":
        assert optimizer.momentum == 0.7


def test_nesterov_is_the_optimizers():
    assert optimizers.make_optimizer(presets.Recipe(optimizer="sgd", nesterov=True), 10).nesterov is True
    assert optimizers.make_optimizer(presets.Recipe(optimizer="sgd"), 10).nesterov is False


def test_warmup_rises_from_zero_to_the_rate():
    # State of Sparsity: base epoch / 5 in the first five epochs.
    recipe = presets.Recipe(
        learning_rate=0.4, lr_warmup_epochs=5.0, lr_schedule="piecewise", lr_boundaries=(30, 60), lr_factors=(0.1, 0.01)
    )
    np.testing.assert_allclose(rates(recipe, 10, [0, 2.5, 5, 29.9, 30, 60]), [0, 0.2, 0.4, 0.4, 0.04, 0.004], rtol=1e-6)


def test_cosine_begins_where_the_warmup_ends():
    # STR, 100 epochs with 5 of warm-up from 0.256: its values at the beginnings of epochs.
    recipe = presets.Recipe(
        learning_rate=0.256, epochs=100, lr_schedule="cosine", lr_decay_from=0.05, lr_warmup_epochs=5.0
    )
    published = {5: 0.256, 6: 0.25593, 30: 0.214692, 52: 0.130116, 75: 0.041308, 98: 0.00028, 99: 0.00007}
    np.testing.assert_allclose(rates(recipe, 100, list(published)), list(published.values()), atol=1e-5)


def test_exponential_rate_is_that_of_efficientnet():
    # STR's efficientnet_lr: 0.97^(epoch / 2.4).
    recipe = presets.Recipe(learning_rate=2.0, lr_schedule="exponential")
    np.testing.assert_allclose(rates(recipe, 10, [0, 2.4, 24]), [2, 2 * 0.97, 2 * 0.97**10], rtol=1e-5)
    recipe = presets.Recipe(learning_rate=2.0, lr_schedule="exponential", lr_decay_rate=0.5, lr_decay_epochs=3.0)
    np.testing.assert_allclose(rates(recipe, 10, [0, 1.5, 3, 6]), [2, 2 * 0.5**0.5, 1, 0.5], rtol=1e-5)


def test_warmup_survives_its_config():
    for inner in (0.3, optimizers.HoldThenDecay(0.3, 100, 0.25, "cosine")):
        schedule = optimizers.WarmUp(inner, 10)
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        assert [float(copy(step)) for step in (0, 5, 50)] == [float(schedule(step)) for step in (0, 5, 50)]


def test_warmup_without_steps_is_refused():
    with pytest.raises(ValueError, match="`warmup_steps`"):
        optimizers.WarmUp(0.1, 0)


def sparse_model(technique="sbp"):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="b")(keras.layers.Dense(2, name="a")(inputs)))
    return sparsity_tf.sparsify(model, technique, where=["a"])


def moved(optimizer):
    """How far the first step of training moves each trainable variable: a dict from path to the largest change."""
    keras.utils.set_random_seed(0)
    model = sparse_model()
    model.compile(optimizer(model), "mse")
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    model.train_on_batch(np.ones((4, 3)), np.full((4, 2), 5.0))
    after = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    return model, {path: float(abs(after[path] - value).max()) for path, value in before.items()}


def test_variables_of_the_technique_can_have_a_rate_of_their_own():
    recipe = presets.Recipe(technique="sbp", technique_rate=10.0, learning_rate=1e-3, lr_schedule="constant")
    adam = optimizers.make_optimizer(recipe, 10)
    model, steps = moved(lambda model: optimizers.with_rate_of_technique(adam, recipe, model))
    # The first step of Adam is as long as the rate. (mu begins at its upper bound and may not move.)
    expected = {"a/kernel": 1e-3, "a/bias": 1e-3, "a/log_sigma": 1e-2, "b/kernel": 1e-3, "b/bias": 1e-3}
    assert {path: steps[path] for path in expected} == pytest.approx(expected, rel=2e-2)
    config = keras.saving.serialize_keras_object(model.optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert moved(lambda model: copy)[1] == steps
    assert copy.paths == ["a/mu", "a/log_sigma"] and copy.factor == 10


def test_one_rate_leaves_the_optimizer_as_it_is():
    adam = optimizers.make_optimizer(presets.Recipe(), 10)
    assert optimizers.with_rate_of_technique(adam, presets.Recipe(), sparse_model()) is adam


def test_a_rate_for_variables_that_are_not_there_is_refused():
    recipe = presets.Recipe(technique="masked", technique_rate=2.0)
    with pytest.raises(ValueError, match="`technique_rate` needs .*technique=masked"):
        optimizers.with_rate_of_technique(keras.optimizers.Adam(), recipe, sparse_model("masked"))


def test_a_path_that_no_variable_has_is_named():
    variables = [keras.Variable([1.0], name="bias")]
    optimizers.AdamOfTwoRates(10.0, ["bias"]).build(variables)
    with pytest.warns(UserWarning, match=r"`factor` has no effect on `paths` that no trained variable has: d/bias$"):
        optimizers.AdamOfTwoRates(10.0, ["bias", "d/bias"]).build(variables)
