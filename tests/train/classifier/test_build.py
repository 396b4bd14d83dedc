"""A recipe becomes the batches, learning rate, optimizer, network and penalty ramp that it states."""

import dataclasses
import re
import types
import zipfile

import keras
import numpy as np
import pytest

from sparsity_tf import datasets, layers, models
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.train import sparsity_settings as algorithms
from sparsity_tf.train import task as shared_task
from sparsity_tf.train import technique, trainer
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier import task as classifier_task
from sparsity_tf.train.classifier.task import ClassifierTask

pytestmark = pytest.mark.tensorflow

TASK = ClassifierTask()


@pytest.fixture(scope="module")
def batches():
    images = np.zeros((20, 28, 28), np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    data = datasets.ImageData(images, labels, images, labels, 10, "blank", "generated")
    return datasets.array_batches(data, 10)


def test_initializer_with_a_standard_deviation(batches):
    model = TASK.make_model(presets.Recipe(kernel_initializer="normal:0.01"), batches)
    kernel = keras.ops.convert_to_numpy(model.get_layer("dense_1").kernel)
    assert abs(kernel.std() - 0.01) < 1e-4


def test_initializer_of_torch_is_uniform_within_the_root_of_the_inputs(batches):
    model = TASK.make_model(presets.Recipe(kernel_initializer="torch_default"), batches)
    kernel = keras.ops.convert_to_numpy(model.get_layer("dense_1").kernel)
    assert 0.999 / 28 < kernel.max() < 1 / 28 and abs(kernel.std() - 1 / 28 / np.sqrt(3)) < 1e-4


@pytest.mark.parametrize(("name", "signs"), [("signed_constant", [-1, 1]), ("unsigned_constant", [1])])
def test_constant_initializers_of_str(batches, name, signs):
    recipe = presets.Recipe(kernel_initializer=name, technique="dnw", final_sparsity=0.75, scale_fan=True)
    kernel = keras.ops.convert_to_numpy(TASK.make_model(recipe, batches).get_layer("dense_1").kernel)
    assert sorted(set(np.sign(kernel).ravel())) == signs
    np.testing.assert_allclose(np.abs(kernel), np.sqrt(2 / (784 * 0.25)), rtol=1e-6)


def test_scaled_fan_divides_the_variance_by_the_density(batches):
    settings = {"technique": "dnw", "final_sparsity": 0.75, "kernel_initializer": "he_uniform"}
    largest = [
        np.abs(TASK.make_model(presets.Recipe(scale_fan=scaled, **settings), batches).get_layer("dense_1").kernel).max()
        for scaled in (False, True)
    ]
    assert largest[0] == pytest.approx(np.sqrt(6 / 784), rel=1e-3) and largest[1] / largest[0] == pytest.approx(
        2, rel=1e-3
    )


def test_both_penalties_of_the_kernel(batches):
    model = TASK.make_model(presets.Recipe(kernel_l1=0.25, kernel_l2=0.5), batches)
    regularizer = model.get_layer("dense_1").kernel_regularizer
    assert (float(regularizer.l1), float(regularizer.l2)) == (0.25, 0.5)


def test_group_lasso_of_the_kernels(batches):
    settings = {"technique": "magnitude", "structure": "channel", "final_sparsity": 0.5, "other_l2": 0.25}
    model = TASK.make_model(presets.Recipe(group_lasso=0.125, **settings), batches)
    for name in ("dense_1", "dense_2", "dense_3"):
        kernel = model.get_layer(name).kernel
        norms = np.linalg.norm(keras.ops.convert_to_numpy(kernel), axis=0)
        assert float(kernel.regularizer(kernel)) == pytest.approx(0.125 * norms.sum(), rel=1e-5)
        assert model.get_layer(name).bias.regularizer.l2 == 0.25


@pytest.mark.parametrize("name", ["dnw", "discovering_wirings"])
def test_technique_with_a_sparsity_gets_it(batches, name):
    recipe = presets.Recipe(technique=name, final_sparsity=0.5, where="dense_1")
    weights = layers.get_sparse_weights(TASK.make_model(recipe, batches))
    assert [weight.sparsity() for weight in weights] == [0.5]


def test_discovered_wirings_take_a_distribution(batches):
    recipe = presets.Recipe(technique="dnw", final_sparsity=0.5, distribution="dense_1=0.9,dense_[23]=0.25")
    weights = layers.get_sparse_weights(TASK.make_model(recipe, batches))
    assert [weight.sparsity() for weight in weights] == pytest.approx([0.9, 0.25, 0.25])


@pytest.mark.parametrize("name", ["str", "soft_threshold"])
def test_technique_with_a_threshold_regularizer_gets_it(batches, name):
    recipe = presets.Recipe(technique=name, threshold_l2=0.25, kernel_l2=0.5)
    model = TASK.make_model(recipe, batches)
    technique = layers.get_sparse_weights(model)[0].technique
    assert float(technique.threshold_regularizer.l2) == 0.25
    assert float(model.get_layer("dense_1").kernel_regularizer.l2) == 0.5


@pytest.mark.parametrize("factors", [{"conv_1": 30.0}, {"dense_1": 2.0, "dense_.*": 3.0}, {"(": 1.0}])
def test_penalty_factors_that_do_not_fit_the_network_are_refused_by_the_name_of_the_flag(batches, factors):
    """When the network is made, before a folder is claimed and data are read."""
    with pytest.raises(ValueError, match="^`penalty_factors` must "):
        TASK.make_model(presets.Recipe(technique="vd", penalty_factors=factors), batches)


def test_unknown_option_of_a_technique_is_refused(batches):
    recipe = presets.Recipe(technique="vd", technique_options={"log_sigma": 1})
    with pytest.raises(ValueError, match="log_sigma"):
        TASK.make_model(recipe, batches)


@pytest.mark.parametrize("name", ["vd", "variational_dropout", "l0"])
def test_penalty_ramp_is_in_epochs(name):
    recipe = presets.Recipe(technique=name, penalty_weight=2.0, penalty_begin_epoch=1.0, penalty_end_epoch=3.0)
    (ramp,) = technique.penalty_callbacks(recipe, num_examples=100, steps=10)
    assert [ramp.penalty_weight(step) for step in (0, 10, 20, 30)] == [0, 0, 0.01, 0.02]


def test_sbpa_counts_the_divergence_of_costly_layers_more():
    recipe = dataclasses.replace(presets.PRESETS["vgg_like_sbpa"], model_options={"width": 0.02})
    model = models.vgg_like(width=0.02, technique="sbp")
    (ramp,) = technique.penalty_callbacks(recipe, num_examples=50_000, steps=500)
    model.compile("sgd", "mse")
    assert ramp.update(model) == 1 / 50_000
    found = {
        layer.name: round(float(keras.ops.convert_to_numpy(layer.penalty_weight)) * 50_000, 4)
        for layer in model.layers
        if hasattr(layer, "penalty_weight")
    }
    costly = {"stem": 10.0, "stage1_conv2": 10.0, "stage2_conv1": 5.0, "stage2_conv2": 5.0}
    assert len(found) == 15 and found == {**dict.fromkeys(found, 1.0), **costly}


@pytest.mark.parametrize("name", ["none", "str", "masked", "dnw"])
def test_technique_without_a_penalty_has_no_ramp(name):
    assert technique.penalty_callbacks(presets.Recipe(technique=name), 100, 10) == []


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        ({"technique": "none"}, 0),
        ({"technique": "str"}, 0),
        ({"technique": "rigl", "final_sparsity": 0.5, "end_step": 30}, 0),
        ({"technique": "vd", "penalty_begin_epoch": 1.0, "penalty_end_epoch": 3.5}, 35),
        ({"technique": "vd", "penalty_end_epoch": 3.5, "penalty_schedule": "none"}, 0),
        ({"technique": "gmp", "final_sparsity": 0.5, "end_step": 30}, 30),
        ({"technique": "random", "final_sparsity": 0.5}, 25),
        ({"technique": "narang"}, 25),
        # Three rounds of 50 steps: the last ticket begins after two.
        ({"technique": "lottery", "final_sparsity": 0.5, "rounds": 2}, 100),
    ],
)
def test_models_are_final_when_the_schedule_has_ended(settings, step):
    recipe = presets.Recipe(epochs=5, **settings)
    algorithm = algorithms.make(recipe, 10, None)
    assert technique.settled_from(recipe, algorithm, 10) == step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"technique": "none"}, None),
        ({"technique": "lottery", "final_sparsity": 0.5, "rounds": 2, "keep_best": True}, None),
        ({"technique": "gmp", "final_sparsity": 0.5, "end_step": 50, "keep_best": True}, None),
        ({"technique": "gmp", "final_sparsity": 0.5, "end_step": 51}, "sparsity of 0.5 is reached only at end_step=51"),
        ({"technique": "gmp", "final_sparsity": 0.5, "end_step": 51, "keep_best": True}, "; no best.keras is kept"),
        ({"technique": "narang", "end_step": 51}, "the final sparsity is reached only at"),
        ({"technique": "rigl", "final_sparsity": 0.5, "end_step": 60}, None),
        ({"technique": "rigl", "final_sparsity": 0.5, "begin_step": 50, "end_step": 60}, "masks never change"),
        ({"technique": "vd", "penalty_begin_epoch": 2.0, "penalty_end_epoch": 5.0}, None),
        (
            {"technique": "vd", "penalty_begin_epoch": 2.0, "penalty_end_epoch": 6.0},
            "not reach its full weight, .* until step 60",
        ),
        ({"technique": "vd", "penalty_begin_epoch": 5.0, "penalty_end_epoch": 6.0}, "penalty stays 0, .* at step 50"),
        ({"technique": "vd", "penalty_end_epoch": 6.0, "penalty_schedule": "none"}, None),
    ],
)
def test_what_a_run_is_too_short_for_is_known(settings, message):
    recipe = presets.Recipe(epochs=5, **settings)
    found = technique.shortfall(recipe, algorithms.make(recipe, 10, None), 10)
    assert (found is None) == (message is None)
    assert message is None or re.match(rf"the run ends after 50 steps \(epochs=5\): .*{message}", found)


def test_pruning_that_never_begins_is_refused(batches):
    recipe = presets.Recipe(technique="gmp", final_sparsity=0.5, begin_step=10, end_step=20, epochs=5, batch_size=10)
    with pytest.raises(ValueError, match="`begin_step` must come before the end of the run.*epochs=5 makes 10 steps"):
        trainer.rehearse(TASK, recipe, batches)


@pytest.mark.parametrize(
    ("model", "options"),
    [("mnist_mlp", {"hidden": 5}), ("vgg_like", {"width": "a"}), ("cifar_resnet", {"seed": "x", "depth": 8})],
)
def test_option_of_the_wrong_type_is_named(batches, model, options):
    option = next(iter(options))
    with pytest.raises(ValueError, match=f"`{option}` must be .*Received: {option}="):
        TASK.make_model(presets.Recipe(model=model, model_options=options), batches)


def test_steps_of_one_call_divide_the_epoch():
    for steps, requested, expected in [(240, 0, 20), (40, 0, 20), (7, 3, 1), (30, 16, 15), (3, 0, 3)]:
        recipe = presets.Recipe(steps_per_execution=requested)
        assert TASK.choose_steps_per_execution(recipe, steps) == expected


def test_where_there_is_no_xla_a_step_is_a_call_and_nothing_is_compiled(batches, monkeypatch):
    dense = TASK.make_model(presets.Recipe(), batches)
    for module in (classifier_task, shared_task):
        monkeypatch.setattr(module, "has_xla", lambda: False)
        monkeypatch.setattr(module, "always_compiles", lambda: False)
    assert TASK.choose_jit_compile(presets.Recipe(), dense) is False
    assert TASK.choose_steps_per_execution(presets.Recipe(), 240) == 1
    # A number that the user gives is not changed in silence.
    assert TASK.choose_steps_per_execution(presets.Recipe(steps_per_execution=2), 240) == 2


def test_jit_compile_is_as_asked(batches):
    model = TASK.make_model(presets.Recipe(), batches)
    assert TASK.choose_jit_compile(presets.Recipe(jit_compile="true"), model) is True
    assert TASK.choose_jit_compile(presets.Recipe(jit_compile="false"), model) is False


def test_convolutions_are_not_compiled_on_a_cpu(batches, monkeypatch):
    import tensorflow as tf

    dense = TASK.make_model(presets.Recipe(), batches)
    conv = TASK.make_model(presets.Recipe(model="lenet_5_caffe"), batches)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert TASK.choose_jit_compile(presets.Recipe(), dense) is True
    assert TASK.choose_jit_compile(presets.Recipe(), conv) is False
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert TASK.choose_jit_compile(presets.Recipe(), conv) is True


def test_network_has_the_options_of_the_recipe(batches):
    recipe = presets.Recipe(model="mnist_mlp", model_options={"hidden": [20]}, kernel_initializer="default")
    assert TASK.make_model(recipe, batches).layers[-1].output.shape == (None, 10)
    with pytest.raises(ValueError, match="`model_options` of lenet_300_100 may hold nothing. Received: depth"):
        TASK.make_model(presets.Recipe(model_options={"depth": 3}), batches)
    with pytest.raises(ValueError, match="`model_options` of wide_resnet must hold depth, width"):
        TASK.make_model(presets.Recipe(model="wide_resnet"), batches)


def test_biases_and_batch_normalisation_have_a_penalty_of_their_own(batches, tmp_path):
    recipe = presets.Recipe(model="mnist_mlp", kernel_l2=1.0, other_l2=0.25)
    model = TASK.make_model(recipe, batches)
    trainer.compile_model(TASK, recipe, model, batches)
    model.save(tmp_path / "model.keras")
    for net in (model, keras.saving.load_model(tmp_path / "model.keras")):
        others = [v for v in net.trainable_variables if v.name in ("gamma", "beta", "bias")]
        assert others and all(float(variable.regularizer.l2) == 0.25 for variable in others)


def test_training_begins_with_the_weights_of_a_saved_model(batches, tmp_path):
    keras.utils.set_random_seed(1)
    dense = TASK.make_model(presets.Recipe(), batches)
    dense.save(tmp_path / "initial.keras")
    keras.utils.set_random_seed(2)
    recipe = presets.Recipe(technique="masked", load_weights=str(tmp_path / "initial.keras"))
    model = TASK.make_model(recipe, batches)
    for name in ("dense_1", "dense_3"):
        np.testing.assert_array_equal(model.get_layer(name).kernel, dense.get_layer(name).kernel)


@pytest.mark.parametrize("technique", ["vd", "l0", "str", "dnw", "masked", "sbp"])
def test_another_technique_begins_with_the_weights_of_inference(batches, tmp_path, technique):
    """Training on from a sparse network begins with what it predicts, not with the variables behind it."""
    keras.utils.set_random_seed(1)
    sparse = TASK.make_model(presets.Recipe(technique=technique), batches)
    for weight in get_sparse_weights(sparse):
        options = {"vd": ("log_sigma2", -2.0), "l0": ("log_alpha", -0.5), "str": ("raw_threshold", -4.0)}
        # The ratio of some units is above 1, that of others below.
        options["sbp"] = ("log_sigma", None)
        if technique in options:
            name, value = options[technique]
            variable = weight.extra_variable(name)
            spread = np.resize(np.linspace(-1.0, 3.0, 7), variable.shape)
            variable.assign(spread if value is None else keras.ops.full(variable.shape, value))
    sparse.save(tmp_path / "sparse.keras")
    images = np.random.default_rng(0).normal(size=(4, *batches.image_shape)).astype("float32")
    dense = TASK.make_model(presets.Recipe(load_weights=str(tmp_path / "sparse.keras")), batches)
    np.testing.assert_allclose(dense(images), sparse(images, training=False), atol=1e-5)
    own = get_sparse_weights(sparse)
    assert [np.count_nonzero(dense.get_layer(weight.layer.name).kernel) for weight in own] == [w.count() for w in own]
    # The same technique goes on with its own variables.
    recipe = presets.Recipe(technique=technique, load_weights=str(tmp_path / "sparse.keras"))
    for weight, saved in zip(get_sparse_weights(TASK.make_model(recipe, batches)), own, strict=True):
        np.testing.assert_array_equal(weight.variable, saved.variable)


@pytest.mark.parametrize(
    ("model", "head"), [("lenet_300_100", ["dense_3"]), ("mnist_mlp", ["classifier", "classifier_bn"])]
)
def test_network_of_other_classes_gives_all_but_its_head(batches, tmp_path, model, head):
    recipe = presets.Recipe(model=model, technique="str", technique_options={"threshold_initializer": -4.0})
    few = types.SimpleNamespace(image_shape=batches.image_shape, num_classes=7)
    source = TASK.make_model(recipe, few)
    source.get_layer(head[0]).raw_threshold.assign(-1.0)
    source.save(tmp_path / "few.keras")
    path = str(tmp_path / "few.keras")
    with pytest.warns(
        UserWarning, match=f"7 classes and the model has 10: {', '.join(head)} keep their initial values"
    ):
        net = TASK.make_model(dataclasses.replace(recipe, load_weights=path), batches)
    for layer in net.layers:
        for ours, theirs in zip(layer.variables, source.get_layer(layer.name).variables, strict=True):
            if layer.name in head:
                assert ours.shape != theirs.shape or ours.name in ("bias", "gamma", "beta", "raw_threshold")
            else:
                np.testing.assert_array_equal(ours, theirs)
    # The threshold of the head stays as it is, too.
    assert float(net.get_layer(head[0]).raw_threshold) == -4.0


def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(batches, tmp_path):
    TASK.make_model(presets.Recipe(model="mnist_mlp"), batches).save(tmp_path / "other.keras")
    with pytest.raises(
        ValueError, match="`load_weights` must be a file with all weights of the model: it has no 'dense_1/kernel'"
    ):
        TASK.make_model(presets.Recipe(load_weights=str(tmp_path / "other.keras")), batches)
    (tmp_path / "cut.keras").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cut.keras can't be loaded: it is damaged or truncated"):
        TASK.make_model(presets.Recipe(load_weights=str(tmp_path / "cut.keras")), batches)
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (80 << 20))
    with pytest.raises(ValueError, match="bomb.keras can't be loaded: .* would unpack to 83,886,080"):
        TASK.make_model(presets.Recipe(load_weights=str(tmp_path / "bomb.keras")), batches)
    with pytest.raises(FileNotFoundError, match="`load_weights` does not exist"):
        TASK.make_model(presets.Recipe(load_weights="/nowhere.keras"), batches)


def test_the_second_stage_of_sparse_vd_begins_with_the_weights_and_statistics_of_the_first(tmp_path):
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), (np.arange(20) % 10).astype(np.uint8)
    batches = datasets.array_batches(datasets.ImageData(images, labels, images, labels, 10, "blank", "made"), 10)
    first = presets.PRESETS["vgg_like_dropout_dense"]
    first = dataclasses.replace(first, model_options={**first.model_options, "width": 0.05})
    trained = TASK.make_model(first, batches)
    for variable in trained.weights:
        if variable.dtype == "float32":
            variable.assign(np.random.default_rng(len(variable.path)).uniform(0.1, 0.2, variable.shape))
    trained.save(tmp_path / "model.keras")
    second = presets.PRESETS["vgg_like_pretrained_vd"]
    options = {**second.model_options, "width": 0.05}
    second = dataclasses.replace(second, model_options=options, load_weights=str(tmp_path / "model.keras"))
    model = TASK.make_model(second, batches)
    values = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}
    before = {v.path: keras.ops.convert_to_numpy(v) for v in trained.weights if "dropout" not in v.path}
    assert len(before) > 80 and set(before) < set(values)
    for path, value in before.items():
        np.testing.assert_array_equal(values[path], value)
    assert {float(value.max()) for path, value in values.items() if path.endswith("log_sigma2")} == {-15.0}
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    assert np.isfinite(keras.ops.convert_to_numpy(model(x))).all()
