"""`sparsify`: which layers of which models, the report, and what stays as it was."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.layers import (
    MaskedConv2D,
    MaskedDense,
    MaskedEinsumDense,
    SparseDense,
    Technique,
    VariationalDropout,
    VDDense,
    get_sparse_weights,
)
from tests import fresh_process


def functional_model():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def images(batch=4):
    return np.random.default_rng(0).normal(size=(batch, 8, 8, 3)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A composite layer that creates its sublayers itself and doesn't mention them in its config."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.dense = layers.Dense(units, name="dense")

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.dense.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=False):
        return self.dense(self.attention(inputs, inputs, training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A subclassed model; its config is its constructor's arguments."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(units, name="block")
        self.head = keras.Sequential([layers.Flatten(), layers.Dense(3, name="logits")], name="head")

    def call(self, inputs, training=False):
        return self.head(self.block(inputs, training=training))


def sequences(batch=4):
    return np.random.default_rng(0).normal(size=(batch, 5, 4)).astype("float32")


def test_the_three_lines_of_the_readme():
    model = functional_model()
    assert sparsity_tf.sparsify(model, "masked") is model
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(images(), np.zeros(4), verbose=0)


def test_full_masks_keep_the_order_of_a_recurrent_kernel_in_memory():
    """The orthogonal initializer makes transposed kernels, and on torch the last bit of a product depends on that."""
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.SimpleRNN(4, seed=0)])
    inputs = np.random.default_rng(0).normal(size=(4, 3, 4)).astype("float32")
    before = model.predict(inputs, verbose=0)
    sparsity_tf.sparsify(model, "masked")
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), before)


def test_full_masks_predict_bit_for_bit_the_same():
    model = functional_model()
    before = model.predict(images(), verbose=0)
    names = [layer.name for layer in model.layers]
    weights = [weight.numpy() for weight in model.trainable_weights]
    sparsity_tf.sparsify(model, "masked")
    np.testing.assert_array_equal(model.predict(images(), verbose=0), before)
    assert [layer.name for layer in model.layers] == names
    for old, new in zip(weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_every_layer_that_can_be_is_sparse_and_the_rest_is_reported():
    model = sparsity_tf.sparsify(functional_model(), "vd")
    report = model.sparsify_report
    assert [entry.path for entry in report.changed] == ["stem", "hidden", "logits"]
    assert [entry.kind for entry in report.changed] == ["VDConv2D", "VDDense", "VDDense"]
    assert [entry.weights for entry in report.changed] == [3 * 3 * 3 * 4, 64 * 6, 18]
    assert {entry.path: entry.reason for entry in report.skipped} == {
        "norm": "no sparse form (BatchNormalization)",
        "depthwise": "no sparse form (DepthwiseConv2D with technique 'variational_dropout')",
    }
    text = str(report)
    assert "3 layers made sparse, 510 weights" in text
    assert "skipped, no sparse form (DepthwiseConv2D with technique 'variational_dropout'): depthwise" in text
    # The form of Keras's own report of `quantize`.
    [(path, reason), _] = report.skipped
    assert report.skipped_by_reason(report.SKIP_NO_SUPPORT) == ["norm", "depthwise"]
    assert (path, reason) == ("norm", "no sparse form (BatchNormalization)")
    again = sparsity_tf.sparsify(model, "masked", where="depthwise").sparsify_report
    assert again.skipped_by_reason(again.SKIP_ALREADY_SPARSE) == ["stem", "hidden", "logits"]
    assert again.skipped_by_reason(again.SKIP_FILTERED) == []


@pytest.mark.parametrize("filters", ["hid|log", ["^hidden", "gits$"], lambda layer: layer.name in ("hidden", "logits")])
def test_filters_mean_what_they_mean_in_keras(filters):
    report = sparsity_tf.sparsify(functional_model(), "masked", filters=filters).sparsify_report
    assert [path for path, *_ in report.changed] == ["hidden", "logits"]
    assert "stem" in report.skipped_by_reason(report.SKIP_FILTERED)


def test_filters_and_where_exclude_each_other_and_bad_filters_are_named():
    with pytest.raises(ValueError, match="`where` and `filters` exclude each other"):
        sparsity_tf.sparsify(functional_model(), "masked", where="stem", filters="stem")
    for bad in (3, "", [], "(", [None]):
        with pytest.raises(ValueError, match="`filters`"):
            sparsity_tf.sparsify(functional_model(), "masked", filters=bad)


@pytest.mark.parametrize(
    "where,expected",
    [
        ("hidden", ["hidden"]),
        (["stem", "logits"], ["stem", "logits"]),
        (".*i.*", ["depthwise", "hidden", "logits"]),
        (re.compile(".*I.*", re.IGNORECASE), ["depthwise", "hidden", "logits"]),
        (["stem", re.compile("hid+en")], ["stem", "hidden"]),
        (lambda layer: isinstance(layer, layers.Dense), ["hidden", "logits"]),
        (lambda layer: layer.name != "stem", ["depthwise", "hidden", "logits"]),
    ],
)
def test_where_selects_by_name_regular_expression_or_predicate(where, expected):
    model = sparsity_tf.sparsify(functional_model(), "masked", where=where)
    assert [entry.path for entry in model.sparsify_report.changed] == expected


def test_a_predicate_is_asked_about_layers_that_can_be_made_sparse_only():
    # Neither the model nor its normalisation has filters or units.
    inner = keras.Sequential(
        [layers.Dense(8, name="wide"), layers.BatchNormalization(), layers.Dense(3, name="narrow")]
    )
    model = keras.Sequential([layers.Input((4,)), inner])
    sparsity_tf.sparsify(model, "masked", where=lambda layer: layer.units > 4)
    assert [entry.kind for entry in model.sparsify_report.changed] == ["MaskedDense"]
    assert [weight.shape for weight in get_sparse_weights(model)] == [(4, 8)]


def test_a_name_is_not_a_prefix():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2, name="ab")])
    sparsity_tf.sparsify(model, "masked", where="a")
    assert [layer.name for layer in model.layers if isinstance(layer, MaskedDense)] == ["a"]


def test_a_second_call_adds_another_technique_to_other_layers():
    model = sparsity_tf.sparsify(functional_model(), "masked", where="stem")
    sparsity_tf.sparsify(model, "str", where=["hidden", "logits"])
    assert [w.technique.name for w in get_sparse_weights(model)] == ["masked", "soft_threshold", "soft_threshold"]
    with pytest.raises(ValueError, match=r"names the layer 'stem'.*already sparse \(masked\)"):
        sparsity_tf.sparsify(model, "vd", where="stem")


def test_a_configured_technique():
    technique = VariationalDropout(log_alpha_threshold=1.5, penalty_weight=0.25)
    model = sparsity_tf.sparsify(functional_model(), technique, where="hidden")
    layer = model.get_layer("hidden")
    assert isinstance(layer, VDDense)
    assert layer.technique.log_alpha_threshold == 1.5
    assert float(layer.penalty_weight) == 0.25


def test_multi_head_attention_and_nested_models():
    inner = keras.Sequential([keras.Input((5, 4)), layers.Dense(4, name="inner_dense")], name="inner")
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = layers.TimeDistributed(layers.Dense(4, name="wrapped"), name="wrapper")(x)
    model = keras.Model(inputs, inner(x))
    before = model.predict(sequences(), verbose=0)
    sparsity_tf.sparsify(model, "masked")
    changed = {entry.path.rpartition("/")[2] for entry in model.sparsify_report.changed}
    assert changed == {"query", "key", "value", "attention_output", "wrapped", "inner_dense"}
    np.testing.assert_array_equal(model.predict(sequences(), verbose=0), before)


def wrapped():
    x = keras.Input((4, 6, 2))
    y = layers.TimeDistributed(layers.SeparableConv1D(3, 2, name="each"), name="steps")(x)
    y = layers.Bidirectional(layers.ConvLSTM1D(2, 3, name="memory"), name="both")(y)
    y = layers.SpectralNormalization(layers.Conv1DTranspose(2, 2, name="bounded"), name="norm")(y)
    return keras.Model(x, layers.Dense(1, name="last")(layers.Flatten()(y)))


def test_wrappers_are_looked_through():
    model = wrapped()
    data = np.random.default_rng(0).normal(size=(4, 4, 6, 2)).astype("float32")
    before = model.predict(data, verbose=0)
    report = sparsity_tf.sparsify(model, "masked").sparsify_report
    names = [entry.path.rpartition("/")[2] for entry in report.changed]
    assert names == ["each", "forward_memory", "backward_memory", "bounded", "last"] and report.skipped == ()
    np.testing.assert_array_equal(model.predict(data, verbose=0), before)
    # The kernel under the normalization is counted once.
    assert sparsity_tf.inspection.sparsity_table(model).size == sum(entry.weights for entry in report.changed)


def test_the_norm_of_a_masked_kernel_is_that_of_its_live_entries():
    model = keras.Sequential([keras.Input((6,)), layers.SpectralNormalization(layers.Dense(5, name="inside"))])
    sparsity_tf.sparsify(model, "masked")
    [weight] = get_sparse_weights(model)
    mask = np.random.default_rng(0).random((6, 5)) < 0.5
    weight.assign_mask(mask)
    for _ in range(60):
        model(np.ones((2, 6), "float32"), training=True)
    kernel = ops.convert_to_numpy(weight.value())
    assert np.linalg.norm(kernel, 2) == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(kernel != 0, mask)


@pytest.mark.parametrize("technique", ["vd", "l0", "str", "dnw"])
def test_a_technique_that_changes_the_kernel_does_not_fit_under_spectral_normalization(technique):
    model = keras.Sequential(
        [keras.Input((6,)), layers.SpectralNormalization(layers.Dense(5, name="inside")), layers.Dense(1, name="last")]
    )
    report = sparsity_tf.sparsify(model, technique).sparsify_report
    assert [entry.path.rpartition("/")[2] for entry in report.changed] == ["last"]
    assert [entry.path.rpartition("/")[2] for entry in report.skipped] == ["inside"]
    assert "SpectralNormalization around it divides the dense kernel by its norm" in report.skipped[0].reason


def test_a_path_expression_selects_sublayers():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs))
    with pytest.raises(ValueError, match=r"select its sublayers with 'attention/\.\*'"):
        sparsity_tf.sparsify(model, "masked", where="attention")
    sparsity_tf.sparsify(model, "masked", where="attention/(query|key)")
    assert {entry.path for entry in model.sparsify_report.changed} == {"attention/query", "attention/key"}


# Three techniques moved to `make test-all`: `tests/layers/test_all_layers.py` trains, saves and loads every technique.
@pytest.mark.parametrize(
    "technique", ["masked", "vd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("l0", "str", "dnw"))]
)
def test_subclassed_model_is_sparsified_trained_saved_and_loaded(technique, tmp_path):
    model = Subclassed()
    model(sequences())
    sparsity_tf.sparsify(model, technique)
    assert len(model.sparsify_report.changed) == 6
    assert isinstance(model, Subclassed)
    model.compile("adam", "mse")
    model.fit(sequences(), np.zeros((4, 3)), verbose=0)
    expected = model.predict(sequences(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(sequences(), verbose=0), expected)
    assert [w.layer.name for w in get_sparse_weights(loaded)] == [w.layer.name for w in get_sparse_weights(model)]


def test_weights_saved_alone_load_into_a_model_prepared_alike(tmp_path):
    model, other = (sparsity_tf.sparsify(functional_model(), "l0") for _ in range(2))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.predict(images(), verbose=0), other.predict(images(), verbose=0))


def test_weights_of_another_technique_are_refused(tmp_path):
    model = sparsity_tf.sparsify(functional_model(), "l0")
    model.save_weights(tmp_path / "model.weights.h5")
    other = sparsity_tf.sparsify(functional_model(), "vd")
    with pytest.raises(ValueError, match="no variables for layer .stem.*from the dense model"):
        other.load_weights(tmp_path / "model.weights.h5")


def test_layers_that_are_not_built_become_sparse_when_they_are():
    model = keras.Sequential([layers.Dense(4, name="one"), layers.Dense(2, name="two")])
    sparsity_tf.sparsify(model, "vd")
    assert get_sparse_weights(model) == []
    model(np.zeros((1, 3), "float32"))
    assert [w.shape for w in get_sparse_weights(model)] == [(3, 4), (4, 2)]
    assert {v.name for v in model.layers[0].trainable_variables} == {"kernel", "bias", "log_sigma2"}


def test_a_shared_layer_is_one_layer():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    sparsity_tf.sparsify(model, "masked")
    assert len(get_sparse_weights(model)) == len(model.sparsify_report.changed) == 1


def test_new_variables_are_named_after_their_layer():
    model = sparsity_tf.sparsify(functional_model(), "vd")
    assert model.get_layer("hidden").log_sigma2.path == "hidden/log_sigma2"


def test_frozen_layers_stay_frozen():
    model = functional_model()
    model.get_layer("hidden").trainable = False
    sparsity_tf.sparsify(model, "vd")
    assert model.get_layer("hidden").trainable_variables == []


def test_a_trained_model_must_be_compiled_again():
    model = functional_model()
    model.compile("adam", "mse")
    model.fit(images(), np.zeros((4, 3)), verbose=0)
    sparsity_tf.sparsify(model, "vd")
    assert "compile it again" in str(model.sparsify_report)
    with pytest.raises(ValueError, match="compile"):
        model.fit(images(), np.zeros((4, 3)), verbose=0)
    model.compile("adam", "mse")
    model.fit(images(), np.zeros((4, 3)), verbose=0)


def test_a_subclass_of_a_stock_layer_is_skipped_with_the_reason():
    class Twice(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    model = keras.Sequential([keras.Input((3,)), Twice(2, name="twice"), layers.Dense(2)])
    sparsity_tf.sparsify(model, "masked")
    (entry,) = model.sparsify_report.skipped
    assert entry.path.endswith("twice")
    assert "a subclass of Dense may compute something else" in entry.reason


def test_a_layer_of_ones_own_that_stays_dense_is_warned_of():
    class Twice(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    def model():
        return keras.Sequential([keras.Input((4,)), Twice(name="twice"), keras.layers.Dense(2, name="out")])

    with pytest.warns(UserWarning, match="leaves .*twice dense, 32 weights: Twice has no sparse form"):
        sparsity_tf.sparsify(model(), "masked")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsity_tf.sparsify(model(), "masked", where="out")


def test_lora_and_quantized_layers_are_skipped():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4), layers.Dense(4)])
    model.layers[0].enable_lora(2)
    model.layers[1].quantize("int8")
    sparsity_tf.sparsify(model, "masked")
    assert [entry.reason for entry in model.sparsify_report.skipped] == ["LoRA is enabled", "quantized (int8)"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("magic",), r"`technique` must be one of .*'vd'.*Received: technique='magic'"),
        (("vd", "nothing.*"), r"match no layer: \['nothing\.\*'\].*stem"),
        (("vd", ["hidden", "absent"]), r"match no layer: \['absent'\]"),
        (("vd", "depthwise"), r"names the layer 'depthwise'.*no sparse form \(DepthwiseConv2D"),
        (("vd", "norm"), r"names the layer 'norm'.*no sparse form"),
        (("vd", "("), r"`where` must hold names or regular expressions.*the entry '\('"),
        (("vd", [3]), r"`where` must hold names or regular expressions.*the entry 3"),
        (("vd", []), r"`where` must be .*a list of at least one of them.*Received: where=\[\]"),
        (("vd", re.compile("nothing.*")), r"match no layer: \[re.compile\('nothing\.\*'\)\]"),
        (("vd", lambda layer: False), r"no layer that technique 'variational_dropout' can make sparse"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(arguments, message):
    model = functional_model()
    with pytest.raises(ValueError, match=message):
        sparsity_tf.sparsify(model, *arguments)
    assert get_sparse_weights(model) == []
    assert not hasattr(model, "sparsify_report")


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"has the options .*'penalty_weight'.*Received: \['penalty'\]"):
        sparsity_tf.sparsify(functional_model(), "vd", penalty=1.0)
    with pytest.raises(ValueError, match="to the technique itself if it is an object"):
        sparsity_tf.sparsify(functional_model(), VariationalDropout(), penalty_weight=1.0)
    with pytest.raises(ValueError, match="must be a Keras model"):
        sparsity_tf.sparsify("model.keras", "vd")


def test_a_model_without_anything_to_sparsify():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="no layer that technique 'masked' can make sparse.*BatchNormalization"):
        sparsity_tf.sparsify(model, "masked")


def test_kinds_of_the_masked_layers():
    model = sparsity_tf.sparsify(functional_model(), "masked")
    assert isinstance(model.get_layer("stem"), MaskedConv2D)
    assert issubclass(MaskedEinsumDense, layers.EinsumDense)


def test_a_model_with_attention_loads_in_a_fresh_process(tmp_path):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs))
    sparsity_tf.sparsify(model, "vd", log_sigma2_initializer=-3.0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=sequences(), y=model.predict(sequences(), verbose=0))
    code = (
        "import keras, numpy as np, sparsity_tf\n"
        f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r})\n"
        f"data = np.load({str(tmp_path / 'data.npz')!r})\n"
        "np.testing.assert_allclose(model.predict(data['x'], verbose=0), data['y'], rtol=1e-5, atol=1e-6)\n"
        "assert len(sparsity_tf.get_sparse_weights(model)) == 4\n"
    )
    finished = fresh_process.run(code)
    assert finished.returncode == 0, finished.stderr


def test_a_model_sparsified_before_it_is_built_is_saved_and_loaded(tmp_path):
    model = sparsity_tf.sparsify(Subclassed(), "masked")
    assert "not built, so its sublayers are not known" in str(model.sparsify_report)
    expected = model.predict(sequences(), verbose=0)
    assert {w.layer.name for w in get_sparse_weights(model)} == {"dense", "logits"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(sequences(), verbose=0), expected)


def test_layers_given_one_seed_draw_different_noise_and_own_their_options():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    sparsity_tf.sparsify(model, "vd", seed=3)
    first, second = (layer.technique for layer in model.layers)
    assert first is not second and first.seed != second.seed


@pytest.mark.compiled
def test_functions_of_nested_models_are_traced_again():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, inner(inputs))
    data = np.ones((2, 4), "float32")
    before = inner.predict(data, verbose=0)
    sparsity_tf.sparsify(outer, "dnw", sparsity=0.9)
    after = inner.predict(data, verbose=0)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, outer.predict(data, verbose=0))


def test_sparse_layers_refuse_lora():
    model = sparsity_tf.sparsify(functional_model(), "str")
    with pytest.raises(ValueError, match="does not take LoRA adapters.*to_dense"):
        model.get_layer("hidden").enable_lora(2)
    with pytest.raises(ValueError, match="lora_rank=2"):
        VDDense(3, lora_rank=2)


class _HardThreshold(Technique):
    """The example of `Technique`'s docstring."""

    name = "hard_threshold_of_a_test"

    def __init__(self, cutoff=0.01):
        self.cutoff = cutoff

    def value(self, weight, select=None):
        w = weight.tensor(select)
        return ops.where(ops.abs(w) > self.cutoff, w, 0)


@keras.saving.register_keras_serializable("tests")
class _HardThresholdDense(SparseDense):
    technique_class = _HardThreshold


def test_a_users_own_technique(tmp_path):
    model = sparsity_tf.sparsify(functional_model(), "hard_threshold_of_a_test", cutoff=0.1)
    assert [entry.kind for entry in model.sparsify_report.changed] == ["_HardThresholdDense"] * 2
    for weight in get_sparse_weights(model):
        kernel = ops.convert_to_numpy(weight.variable)
        np.testing.assert_array_equal(ops.convert_to_numpy(weight.value()), np.where(abs(kernel) > 0.1, kernel, 0))
    model.compile("sgd", "mse")
    model.train_on_batch(images(), np.zeros((4, 3)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), model.predict(images(), verbose=0))
    assert loaded.get_layer("hidden").technique.cutoff == 0.1


def test_a_subclass_of_a_public_layer_does_not_take_its_place():
    class MyVDDense(VDDense):
        pass

    model = sparsity_tf.sparsify(functional_model(), "vd", where="hidden")
    assert type(model.get_layer("hidden")) is VDDense
    assert MyVDDense(3).technique.name == "variational_dropout"


def test_a_technique_that_is_defined_again_takes_the_place_of_the_old_one():
    for zero in (1.0, 0.0):  # A notebook's cell, run twice.

        class Scaled(Technique):
            name = "scaled"

            def value(self, weight, select=None):
                return weight.tensor(select) * zero  # noqa: B023

        class ScaledDense(SparseDense):
            technique_class = Scaled

        model = sparsity_tf.sparsify(functional_model(), "scaled")
        assert type(model.get_layer("hidden")) is ScaledDense
        assert [weight.sparsity() for weight in get_sparse_weights(model)] == [1 - zero] * 2


def test_a_technique_of_a_taken_name_is_refused_for_layers_that_exist_too():
    class Impostor(Technique):
        name = "masked"

    with pytest.raises(ValueError, match="a technique 'masked' already"):
        type("ImpostorDense", (SparseDense,), {"technique_class": Impostor})
    assert type(sparsity_tf.sparsify(functional_model(), "masked").get_layer("hidden")) is MaskedDense


def test_a_technique_of_a_taken_name_or_with_impossible_options_is_refused():
    class Impostor(Technique):
        name = "masked"

    class Clash(Technique):
        name = "clash"

        def __init__(self, value=1):
            pass

    for technique, message in ((Impostor, "a technique 'masked' already"), (Clash, r"needs itself: \['value'\]")):
        with pytest.raises(ValueError, match=message):
            type(
                "Broken",
                (SparseDense,),
                {"technique_class": technique, "keras_class": type(technique.__name__, (), {})},
            )


@keras.saving.register_keras_serializable("tests")
class _Cell(layers.Layer):
    """A recurrent cell of the user's own, made of a Dense layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 3
        self.dense = layers.Dense(3, activation="tanh")

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + 3))
        super().build(input_shape)

    def call(self, inputs, states, training=False):
        output = self.dense(ops.concatenate([inputs, states[0]], -1))
        return output, [output]


@pytest.mark.parametrize("technique", ["masked", "str", "dnw"])
def test_a_dense_layer_in_a_recurrent_loop_trains(technique):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.RNN(_Cell())(inputs))
    sparsity_tf.sparsify(model, technique)
    (weight,) = get_sparse_weights(model)
    if technique == "masked":
        weight.assign_mask(np.random.default_rng(0).random(weight.shape) < 0.5)
    model.compile("adam", "mse")
    model.train_on_batch(sequences(), np.zeros((4, 3)))
    value, mask = ops.convert_to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
    assert np.isfinite(value).all() and (value[~mask] == 0).all()


@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str"])
def test_a_model_is_unchanged_if_an_initializer_fails(technique):
    class Failing(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            # That of the technique's last variable.
            if tuple(shape) in ((6, 3), ()):
                raise RuntimeError("no such shape")
            return np.zeros(shape)

    option = {"masked": "mask", "vd": "log_sigma2", "l0": "log_alpha", "str": "threshold"}[technique]
    options = {"threshold_regularizer": keras.regularizers.L2(0.1)} if technique == "str" else {}
    model = functional_model()
    expected, before = model.predict(images(), verbose=0), [v.path for v in model.variables]
    with pytest.raises(RuntimeError, match="no such shape"):
        sparsity_tf.sparsify(model, technique, **options, **{f"{option}_initializer": Failing()})
    assert get_sparse_weights(model) == [] and {type(layer).__name__ for layer in model.layers} >= {"Dense", "Conv2D"}
    assert [v.path for v in model.variables] == before
    assert [v.constraint for v in model.trainable_variables] == [None] * len(model.trainable_variables)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), expected)
    sparsity_tf.to_dense(sparsity_tf.sparsify(model, technique))


def test_layers_that_are_not_built_are_unchanged_if_an_initializer_fails():
    class Failing(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            raise RuntimeError("always")

    model = keras.Sequential([layers.Dense(4), layers.LSTM(3)])
    built = layers.Dense(2)
    built.build((None, 3))
    model.add(built)
    with pytest.raises(RuntimeError, match="always"):
        sparsity_tf.sparsify(model, "vd", log_sigma2_initializer=Failing())
    model(np.zeros((1, 2, 3), "float32"))
    assert [type(layer) for layer in model.layers] == [layers.Dense, layers.LSTM, layers.Dense]
    assert len(model.variables) == 7 + 1  # The generator of the LSTM's dropout.


def test_a_users_own_initializer_need_not_be_registered():
    class Checkerboard(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return np.indices(shape).sum(axis=0) % 2

    model = sparsity_tf.sparsify(
        functional_model(), "masked", where=["hidden", "logits"], mask_initializer=Checkerboard()
    )
    assert [weight.sparsity() for weight in get_sparse_weights(model)] == [0.5, 0.5]


def test_predicate_may_return_a_match_but_no_array():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="one"), layers.Dense(3, name="two")])
    sparsity_tf.sparsify(model, "masked", where=lambda layer: re.match("o", layer.name))
    assert [weight.layer.name for weight in sparsity_tf.get_sparse_weights(model)] == ["one"]
    with pytest.raises(ValueError, match=r"`where` must return true or false .* of shape \(2,\).* layer '.*two'"):
        sparsity_tf.sparsify(model, "masked", where=lambda layer: np.array([True, False]))
