"""A recipe becomes the data, learning rate, optimizer, network and penalty ramp that it states."""

import dataclasses

import keras
import numpy as np
import pytest

from sparsity_tf import datasets, layers
from sparsity_tf.datasets import pipeline
from sparsity_tf.train import build, presets

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def data():
    images = np.zeros((20, 28, 28), np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    return datasets.ImageData(images, labels, images, labels, 10, "blank", "generated")


def rates(recipe, steps, epochs):
    rate = build.learning_rate(recipe, steps)
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
    schedule = build.learning_rate(recipe, 10)
    values = [float(schedule(step)) for step in (0, 19, 20, 39, 40, 100)]
    np.testing.assert_allclose(values, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_rate_never_falls_when_decay_begins_at_the_end():
    recipe = presets.Recipe(learning_rate=1.0, epochs=2, lr_decay_from=1.0)
    assert rates(recipe, 5, [0, 1, 1.8]) == [1, 1, 1]


def test_schedule_survives_its_config():
    schedule = build.HoldThenDecay(0.3, 100, 0.25, "cosine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(copy, build.HoldThenDecay)
    assert [float(copy(s)) for s in (0, 50, 99)] == [float(schedule(s)) for s in (0, 50, 99)]


@pytest.mark.parametrize("arguments", [{"shape": "square"}, {"total_steps": 0}, {"decay_from": 1.1}])
def test_unusable_schedule_is_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        build.HoldThenDecay(**{"learning_rate": 1.0, "total_steps": 10, **arguments})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW), ("sgd", keras.optimizers.SGD)],
)
def test_optimizer_is_the_one_named(name, kind):
    recipe = presets.Recipe(optimizer=name, weight_decay=0.01, momentum=0.7)
    optimizer = build.make_optimizer(recipe, 10)
    assert type(optimizer) is kind and optimizer.weight_decay == 0.01
    if name == "sgd":
        assert optimizer.momentum == 0.7


def test_nesterov_is_the_optimizers():
    assert build.make_optimizer(presets.Recipe(optimizer="sgd", nesterov=True), 10).nesterov is True
    assert build.make_optimizer(presets.Recipe(optimizer="sgd"), 10).nesterov is False


def test_initializer_with_a_standard_deviation(data):
    model = build.make_model(presets.Recipe(kernel_initializer="normal:0.01"), data)
    kernel = keras.ops.convert_to_numpy(model.get_layer("dense_1").kernel)
    assert abs(kernel.std() - 0.01) < 1e-4


def test_initializer_of_torch_is_uniform_within_the_root_of_the_inputs(data):
    model = build.make_model(presets.Recipe(kernel_initializer="torch_default"), data)
    kernel = keras.ops.convert_to_numpy(model.get_layer("dense_1").kernel)
    assert 0.999 / 28 < kernel.max() < 1 / 28 and abs(kernel.std() - 1 / 28 / np.sqrt(3)) < 1e-4


def test_both_penalties_of_the_kernel(data):
    model = build.make_model(presets.Recipe(kernel_l1=0.25, kernel_l2=0.5), data)
    regularizer = model.get_layer("dense_1").kernel_regularizer
    assert (float(regularizer.l1), float(regularizer.l2)) == (0.25, 0.5)


@pytest.fixture
def noise(data):
    images = np.random.default_rng(0).integers(0, 256, data.x_train.shape, dtype=np.uint8)
    return dataclasses.replace(data, x_train=images, x_test=images)


@pytest.mark.parametrize("normalize", ["mean_image", "standardize"])
def test_training_and_test_images_are_normalized_alike(noise, normalize):
    recipe = presets.Recipe(normalize=normalize, batch_size=len(noise.x_train))
    x, y = build.test_arrays(recipe, noise)
    batch, labels = next(iter(build.train_batches(recipe, noise)))
    order = pipeline.epoch_order(len(x), recipe.seed, 0)
    np.testing.assert_allclose(batch, x[order], atol=1e-6)
    np.testing.assert_array_equal(labels, y[order])
    if normalize == "standardize":
        pixels = noise.x_train.astype(float)
        np.testing.assert_allclose(x[..., 0], (pixels - pixels.mean()) / pixels.std(), atol=1e-5)
    else:
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)


def test_images_are_shifted_by_as_many_pixels_as_the_recipe_says(noise):
    recipe = presets.Recipe(augment="shift", shift_pixels=7, batch_size=20, seed=3)
    batch = next(iter(build.train_batches(recipe, noise)))[0]
    images = pipeline.epoch_images(noise, 3, 0, "shift", 7)[0]
    np.testing.assert_allclose(batch, pipeline.normalize(images, pipeline.mean_image(noise.x_train)), atol=1e-6)


def test_first_training_examples_are_used(noise, monkeypatch):
    monkeypatch.setattr(datasets, "mnist", lambda folder: noise)
    few = build.load_data(presets.Recipe(train_examples=12))
    np.testing.assert_array_equal(few.x_train, noise.x_train[:12])
    np.testing.assert_array_equal(few.y_train, noise.y_train[:12])
    assert few.x_test is noise.x_test
    assert build.load_data(presets.Recipe()) is noise
    with pytest.raises(ValueError, match="`train_examples` must be at most 20.*train_examples=21"):
        build.load_data(presets.Recipe(train_examples=21))


@pytest.mark.parametrize("name", ["dnw", "discovering_wirings"])
def test_technique_with_a_sparsity_gets_it(data, name):
    recipe = presets.Recipe(technique=name, final_sparsity=0.5, where="dense_1")
    weights = layers.get_sparse_weights(build.make_model(recipe, data))
    assert [weight.sparsity() for weight in weights] == [0.5]


@pytest.mark.parametrize("name", ["str", "soft_threshold"])
def test_technique_with_a_threshold_regularizer_gets_it(data, name):
    recipe = presets.Recipe(technique=name, threshold_l2=0.25, kernel_l2=0.5)
    model = build.make_model(recipe, data)
    technique = layers.get_sparse_weights(model)[0].technique
    assert float(technique.threshold_regularizer.l2) == 0.25
    assert float(model.get_layer("dense_1").kernel_regularizer.l2) == 0.5


def test_unknown_option_of_a_technique_is_refused(data):
    recipe = presets.Recipe(technique="vd", technique_options={"log_sigma": 1})
    with pytest.raises(ValueError, match="log_sigma"):
        build.make_model(recipe, data)


@pytest.mark.parametrize("name", ["vd", "variational_dropout", "l0"])
def test_penalty_ramp_is_in_epochs(name):
    recipe = presets.Recipe(technique=name, penalty_weight=2.0, penalty_begin_epoch=1.0, penalty_end_epoch=3.0)
    (ramp,) = build.penalty_callbacks(recipe, num_examples=100, steps=10)
    assert [ramp.penalty_weight(step) for step in (0, 10, 20, 30)] == [0, 0, 0.01, 0.02]


@pytest.mark.parametrize("name", ["none", "str", "masked", "dnw"])
def test_technique_without_a_penalty_has_no_ramp(name):
    assert build.penalty_callbacks(presets.Recipe(technique=name), 100, 10) == []


def test_steps_of_one_call_divide_the_epoch():
    for steps, requested, expected in [(240, 0, 20), (40, 0, 20), (7, 3, 1), (30, 16, 15), (3, 0, 3)]:
        recipe = presets.Recipe(steps_per_execution=requested)
        assert build.choose_steps_per_execution(recipe, steps) == expected


def test_jit_compile_is_as_asked(data):
    model = build.make_model(presets.Recipe(), data)
    assert build.choose_jit_compile(presets.Recipe(jit_compile="true"), model) is True
    assert build.choose_jit_compile(presets.Recipe(jit_compile="false"), model) is False


def test_convolutions_are_not_compiled_on_a_cpu(data, monkeypatch):
    import tensorflow as tf

    dense = build.make_model(presets.Recipe(), data)
    conv = build.make_model(presets.Recipe(model="lenet_5_caffe"), data)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert build.choose_jit_compile(presets.Recipe(), dense) is True
    assert build.choose_jit_compile(presets.Recipe(), conv) is False
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert build.choose_jit_compile(presets.Recipe(), conv) is True
