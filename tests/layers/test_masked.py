"""Masked layers: exact zeros after every step of every optimizer, in every kind of loop."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers import masked
from tests.gradients import gradients, weighted_sum

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6)).astype("float32")
Y = RNG.normal(size=(8, 3)).astype("float32")

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
}


def random_mask(shape, seed):
    return np.random.default_rng(seed).random(shape) < 0.5


def make_model(**options):
    model = keras.Sequential([layers.MaskedDense(5, activation="tanh", **options), layers.MaskedDense(3, **options)])
    model.build((None, 6))
    return model


def assign_random_masks(model, seed):
    for weight in layers.get_sparse_weights(model):
        weight.assign_mask(random_mask(weight.shape, seed))


def check_zeros(model, all_live=False):
    """Masked weights are zero; with `all_live` no other weight is."""
    for weight in layers.get_sparse_weights(model):
        kernel, mask = ops.convert_to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
        assert np.isfinite(kernel).all()
        assert (kernel[~mask] == 0).all()
        assert (kernel[mask] != 0).all() or not all_live
        if keras.backend.backend() != "jax":  # where the variable itself is not kept at zero
            np.testing.assert_array_equal(ops.convert_to_numpy(weight.variable), kernel)


class CheckZeros(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        check_zeros(self.model)
        self.batches += 1


@pytest.mark.parametrize(
    "optimizer,dense_gradient",
    [
        *((optimizer, False) for optimizer in OPTIMIZERS),
        pytest.param("adam", True, marks=pytest.mark.compiled),
        # Moved to `make test-all`: who else reads the gradient does not depend on the optimizer.
        *(pytest.param(optimizer, True, marks=pytest.mark.slow) for optimizer in OPTIMIZERS if optimizer != "adam"),
    ],
)
def test_masked_weights_are_zero_after_every_step(optimizer, dense_gradient):
    model = make_model(dense_gradient=dense_gradient)
    model.compile(OPTIMIZERS[optimizer](), "mse")
    model.train_on_batch(X, Y)  # Momentum of all weights, before there are masks.
    assign_random_masks(model, seed=1)
    check = CheckZeros()
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[check])
    assert check.batches == 4
    model.train_on_batch(X, Y)
    check_zeros(model)

    variables = model.trainable_variables
    for _ in range(2):
        found = gradients(lambda: ops.mean(ops.square(ops.subtract(model(X, training=True), Y))), variables)
        model.optimizer.apply([ops.cast(g, "float32") for g in found], variables)
        check_zeros(model)


@pytest.mark.compiled
def test_a_mask_changed_between_compiled_steps_governs_the_next_step():
    """What the new mask closes is zero, what it opens moves; also from a callback inside `fit`."""
    model = keras.Sequential([layers.MaskedDense(3)])
    model.build((None, 6))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    for seed in range(3):
        assign_random_masks(model, seed)
        model.train_on_batch(X, Y)
        check_zeros(model, all_live=True)

    class ChangeMask(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            assign_random_masks(self.model, seed=10 + batch)

        def on_train_batch_end(self, batch, logs=None):
            check_zeros(self.model, all_live=True)

    model.fit(X, Y, batch_size=2, verbose=0, callbacks=[ChangeMask()])


@pytest.mark.parametrize("dense_gradient", [False, True])
def test_gradient_is_masked_unless_dense(dense_gradient):
    layer = layers.MaskedDense(3, dense_gradient=dense_gradient)
    layer.build((None, 6))
    mask = random_mask((6, 3), 0)
    layer.sparse_weights[0].assign_mask(mask)
    x = keras.Variable(X)
    upstream = RNG.normal(size=(8, 3))
    loss = lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), upstream)  # noqa: E731
    kernel_gradient, bias_gradient, x_gradient = gradients(loss, [layer.kernel, layer.bias, x])
    dense = X.astype("float64").T @ upstream
    np.testing.assert_allclose(kernel_gradient, dense if dense_gradient else dense * mask, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias_gradient, upstream.sum(axis=0), rtol=1e-4)
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64") * mask
    np.testing.assert_allclose(x_gradient, upstream @ kernel.T, rtol=1e-4, atol=1e-5)


def test_mask_is_a_bool_variable_that_is_not_trained():
    layer = layers.MaskedDense(3, mask_initializer=keras.initializers.Identity())
    layer.build((None, 3))
    assert layer.mask.dtype == "bool" and not layer.mask.trainable
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.mask), np.eye(3, dtype=bool))
    # From the start, not from the first step.
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel) != 0, np.eye(3, dtype=bool))
    assert layer.sparse_weights[0].sparsity() == pytest.approx(2 / 3)


@pytest.mark.parametrize("layer_class", [layers.MaskedDense, layers.PowerDense])
def test_an_initial_mask_holds_in_a_model_that_its_first_symbolic_call_builds(layer_class):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            # The mask and the kernel are drawn, so each must be read once it has its final value.
            drawn = keras.initializers.RandomUniform(-1, 1, seed=keras.random.SeedGenerator(1))
            self.part = layer_class(30, mask_initializer=lambda shape, dtype=None: drawn(shape, dtype) > 0)

        def call(self, inputs):
            return self.part(inputs)

    net = Net()
    net(keras.Input((20,)))
    (weight,) = net.part.sparse_weights
    stored, mask = ops.convert_to_numpy(weight.variable), ops.convert_to_numpy(weight.mask())
    assert 200 < mask.sum() < 400
    np.testing.assert_array_equal(stored != 0, mask)


def test_the_users_own_constraint_still_applies():
    layer = layers.MaskedDense(3, kernel_constraint=keras.constraints.UnitNorm(axis=0))
    model = keras.Sequential([layer])
    model.build((None, 6))
    mask = random_mask((6, 3), 3)
    layer.sparse_weights[0].assign_mask(mask)
    model.compile("sgd", "mse")
    for _ in range(2):
        model.train_on_batch(X, Y)
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_array_equal(kernel != 0, mask)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    assert isinstance(layer.kernel_constraint, keras.constraints.UnitNorm)


def test_assign_mask_wants_the_weights_shape():
    model = make_model()
    with pytest.raises(ValueError, match=r"`mask` for .*kernel.* shape \(6, 5\).*\(5, 6\)"):
        model.layers[0].sparse_weights[0].assign_mask(np.ones((5, 6), bool))


def test_assign_mask_takes_numbers_and_tensors():
    weight = make_model().layers[0].sparse_weights[0]
    weight.assign_mask(ops.cast(random_mask((6, 5), 0), "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(weight.mask()), random_mask((6, 5), 0))


def test_a_weight_that_is_not_a_number_stays_visible():
    layer = layers.MaskedDense(3)
    layer.build((None, 3))
    layer.kernel.assign(np.full((3, 3), np.nan))
    layer.sparse_weights[0].assign_mask(np.eye(3))
    np.testing.assert_array_equal(np.isnan(ops.convert_to_numpy(layer.kernel)), np.eye(3, dtype=bool))
    assert layer.sparse_weights[0].count() == 3


def test_unknown_arguments_are_named():
    with pytest.raises(ValueError, match="no_such_initializer"):
        layers.MaskedDense(3, mask_initializer="no_such_initializer")
    with pytest.raises(ValueError, match=r"(?s)`mask_initializer` must be .*ndarray\), which can't be saved"):
        layers.MaskedDense(3, mask_initializer=np.eye(4, 3))


@pytest.mark.parametrize("wrap", [lambda table: table, lambda table: [table]], ids=["array", "list"])
@pytest.mark.parametrize("prefix", ["Masked", "VD", "L0"])
def test_an_embedding_takes_a_given_table(prefix, wrap):
    table = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    layer = getattr(layers, f"{prefix}Embedding")(5, 3, weights=wrap(table))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.embeddings), table)
    assert layer.built and type(layer).from_config(layer.get_config()).built is False


def test_a_given_table_is_cut_by_the_mask():
    layer = layers.MaskedEmbedding(4, 3, weights=np.ones((4, 3)), mask_initializer=keras.initializers.Identity())
    for tensor in (layer.embeddings, layer(np.arange(4))):
        np.testing.assert_array_equal(ops.convert_to_numpy(tensor), np.eye(4, 3))
    with pytest.raises(ValueError, match="sparsity"):
        layers.MaskedDense(3, sparsity=0.5)


def test_a_regularizer_sees_what_lives_and_nothing_else():
    # With dense gradients an optimizer moves masked entries, too, where nothing sets them back at once (JAX).
    model = make_model(kernel_regularizer=keras.regularizers.L2(0.1), dense_gradient=True)
    assign_random_masks(model, 1)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(X, Y, epochs=3, verbose=0)
    for layer in model.layers:
        value = ops.convert_to_numpy(layer.sparse_weights[0].value())
        np.testing.assert_allclose(ops.convert_to_numpy(layer.losses[0]), 0.1 * (value**2).sum(), rtol=1e-5)


def test_a_layer_that_becomes_a_plain_one_gets_its_own_constraint_and_regularizer_back():
    constraint, regularizer = keras.constraints.MaxNorm(2), keras.regularizers.L2(0.1)
    for options in ({}, {"kernel_constraint": constraint, "kernel_regularizer": regularizer}):
        layer = layers.MaskedDense(3, **options)
        layer.build((None, 6))
        [weight] = layer.sparse_weights
        for _ in range(2):
            layer.technique.release(weight)
            assert weight.variable.constraint is options.get("kernel_constraint")
            assert weight.variable.regularizer is options.get("kernel_regularizer")


def test_what_an_algorithm_remembers_is_saved_with_the_layer(tmp_path):
    model = make_model()
    assign_random_masks(model, 4)
    for number, layer in enumerate(model.layers):
        layer.technique.states = {"rigl": np.array([1.0, 2.0 + number]), "drawn": np.array([7.0])}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.layers, loaded.layers, strict=True):
        assert {name: state.tolist() for name, state in theirs.technique.states.items()} == {
            name: state.tolist() for name, state in ours.technique.states.items()
        }
        assert all(state.dtype == np.float64 for state in theirs.technique.states.values())
        np.testing.assert_array_equal(ops.convert_to_numpy(theirs.kernel), ops.convert_to_numpy(ours.kernel))
        np.testing.assert_array_equal(ops.convert_to_numpy(theirs.mask), ops.convert_to_numpy(ours.mask))


def test_weights_outside_the_mask_of_a_file_are_not_loaded():
    layer, store = make_model().layers[0], {}
    layer.sparse_weights[0].assign_mask(random_mask((6, 5), 0))
    layer.save_own_variables(store)
    layer.load_own_variables({**store, "kernel": np.ones((6, 5), "float32")})
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel), random_mask((6, 5), 0))


@pytest.mark.parametrize("dense_gradient", [False, True])
def test_a_mask_in_the_forward_pass_hides_whatever_the_variable_holds(monkeypatch, dense_gradient):
    """The way of JAX, whose optimizers can't read a mask, on every backend."""
    monkeypatch.setattr(masked, "masks_in_forward_pass", lambda: True)
    layer = layers.MaskedDense(3, use_bias=False, dense_gradient=dense_gradient)
    layer.build((None, 6))
    [weight], mask = layer.sparse_weights, random_mask((6, 3), 0)
    weight.assign_mask(mask)
    kernel, upstream = (np.random.default_rng(1).normal(size=(n, 3)).astype("float32") for n in (6, 8))
    layer.kernel.assign(kernel)
    for training in (False, True):
        outputs = ops.convert_to_numpy(layer(X, training=training))
        np.testing.assert_allclose(outputs, X @ (kernel * mask), rtol=1e-4, atol=1e-5)
    [gradient] = gradients(lambda: weighted_sum(layer(X, training=True), upstream), [layer.kernel])
    dense = X.T @ upstream
    np.testing.assert_allclose(gradient, dense if dense_gradient else dense * mask, rtol=1e-4, atol=1e-5)
    # An entry that a new mask opens starts at zero, not at what the variable held there.
    weight.assign_mask(np.ones((6, 3), bool))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel), kernel * mask)


def test_an_algorithm_gets_the_dense_gradient_also_where_training_is_not_passed_on():
    layer = layers.MaskedDense(3, use_bias=False)
    layer.build((None, 6))
    mask = random_mask((6, 3), 0)
    layer.sparse_weights[0].assign_mask(mask)
    upstream = np.ones((8, 3), "float32")
    for users, expected in (({1}, X.T @ upstream), (set(), X.T @ upstream * mask)):
        layer.technique.dense_gradient_users = users
        [gradient] = gradients(lambda: weighted_sum(layer(X, training=False), upstream), [layer.kernel])
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_subclass_may_add_variables_after_those_of_the_technique():
    class WithScale(layers.MaskedDepthwiseConv2D):
        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    layer = WithScale(2)
    layer.build((None, 4, 4, 3))
    assert {variable.name for variable in layer.variables} == {"kernel", "bias", "mask", "scale"}


@pytest.mark.parametrize("structure,bound", [(None, []), ("filter", []), ("channel", ["bias"]), ("head", ["bias"])])
def test_biases_have_masks_under_structures_that_tie_layers(structure, bound):
    layer = layers.MaskedDense(3, structure=structure)
    layer.build((None, 6))
    assert [weight.name for weight in layer.bound_weights] == bound
    without = layers.MaskedDense(3, structure=structure, use_bias=False)
    without.build((None, 6))
    assert without.bound_weights == []


def test_a_masked_batch_normalization_puts_out_nothing_where_gamma_and_beta_are_dead():
    layer, stock = layers.MaskedBatchNormalization(structure="channel"), keras.layers.BatchNormalization()
    for one in (layer, stock):
        one.build(X.shape)
        one.gamma.assign([1.0, 2, 3, 4, 5, 6])
        one.beta.assign([6.0, 5, 4, 3, 2, 1])
    mask = np.array([True, False, True, True, False, True])
    for weight in layer.bound_weights:
        weight.assign_mask(mask)
    assert [(weight.name, weight.filter_axes) for weight in layer.bound_weights] == [("gamma", (0,)), ("beta", (0,))]
    for training in (True, False):
        expected = np.where(mask, ops.convert_to_numpy(stock(X, training=training)), 0)
        np.testing.assert_allclose(ops.convert_to_numpy(layer(X, training=training)), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(layer.gamma, keras.Variable) and layer.sparse_weights == []
