"""The one test body that every sparse layer passes, and the list of layers: a new layer is one line in `CASES`.

`run_sparse_layer_test` is Keras's own `run_layer_test` (construction, config round trip, shapes and dtypes, weight
counts, a training step, mixed precision) plus what a sparse layer promises: exact zeros, the protocol, agreement with
the stock layer, `.keras` round trip, compiled equal to eager, dynamic batch size, precision policies.
"""

import dataclasses

import keras
import numpy as np
from keras import ops
from keras.src import testing

from sparsity_tf import layers
from tests.compiling import XLA


@dataclasses.dataclass(frozen=True)
class Kind:
    """A stock layer, how to construct it, and the shape of one example."""

    arguments: dict
    example_shape: tuple
    filter_threshold_shape: tuple = None
    integer_inputs: bool = False
    # Sparse weights, and generators of random numbers that the stock layer has itself.
    sparse_weights: int = 1
    seed_generators: int = 0
    # Kinds of groups that have a variable in variational dropout with group variables.
    groups: int = 0


KINDS = {
    "Dense": Kind({"units": 5, "activation": "relu"}, (7,), (1, 5), groups=1),
    "EinsumDense": Kind(
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"}, (4, 7), (1, 2, 3)
    ),
    "Conv1D": Kind({"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, (9, 3), (1, 1, 4)),
    "Conv2D": Kind({"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (9, 8, 3), (1, 1, 1, 4)),
    "Conv3D": Kind({"filters": 2, "kernel_size": 2, "use_bias": False}, (4, 4, 4, 3), (1, 1, 1, 1, 2)),
    "Conv1DTranspose": Kind({"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (5, 3), (1, 4, 1)),
    "Conv2DTranspose": Kind(
        {"filters": 4, "kernel_size": 3, "strides": 2, "output_padding": 1, "activation": "relu"},
        (4, 5, 3),
        (1, 1, 4, 1),
    ),
    "Conv3DTranspose": Kind({"filters": 2, "kernel_size": 2, "use_bias": False}, (3, 3, 3, 2), (1, 1, 1, 2, 1)),
    "DepthwiseConv1D": Kind({"kernel_size": 3, "depth_multiplier": 2, "padding": "same"}, (6, 3), (1, 3, 2)),
    "DepthwiseConv2D": Kind({"kernel_size": 3, "depth_multiplier": 2, "activation": "relu"}, (6, 6, 3), (1, 1, 3, 2)),
    "SeparableConv1D": Kind({"filters": 4, "kernel_size": 3, "strides": 2}, (7, 3), (1, 3, 1), sparse_weights=2),
    "SeparableConv2D": Kind(
        {"filters": 4, "kernel_size": 3, "depth_multiplier": 2, "activation": "relu", "padding": "same"},
        (5, 6, 3),
        (1, 1, 3, 2),
        sparse_weights=2,
    ),
    "Embedding": Kind({"input_dim": 11, "output_dim": 6, "mask_zero": True}, (5,), integer_inputs=True, groups=1),
    "ReversibleEmbedding": Kind({"input_dim": 11, "output_dim": 6}, (5,), integer_inputs=True),
    "SimpleRNN": Kind({"units": 5}, (4, 3), (1, 5), sparse_weights=2, seed_generators=1, groups=3),
    "LSTM": Kind(
        {"units": 5, "return_sequences": True}, (4, 3), (1, 20), sparse_weights=2, seed_generators=1, groups=3
    ),
    "GRU": Kind({"units": 5, "go_backwards": True}, (4, 3), (1, 15), sparse_weights=2, seed_generators=1, groups=3),
    "ConvLSTM1D": Kind({"filters": 2, "kernel_size": 3}, (3, 6, 2), (1, 1, 8), sparse_weights=2, seed_generators=1),
    "ConvLSTM2D": Kind(
        {"filters": 2, "kernel_size": 2, "padding": "same", "return_sequences": True},
        (3, 4, 4, 2),
        (1, 1, 1, 8),
        sparse_weights=2,
        seed_generators=1,
    ),
    "ConvLSTM3D": Kind(
        {"filters": 2, "kernel_size": 2, "use_bias": False},
        (2, 3, 3, 3, 2),
        (1, 1, 1, 1, 8),
        sparse_weights=2,
        seed_generators=1,
    ),
}
WITHOUT_DEPTHWISE = tuple(kind for kind in KINDS if not kind.startswith("DepthwiseConv"))
WITHOUT_CONV_LSTM = tuple(kind for kind in WITHOUT_DEPTHWISE if not kind.startswith("ConvLSTM"))
FORWARD = ("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D")
WITHOUT_EMBEDDINGS = tuple(kind for kind in KINDS if "Embedding" not in kind)


@dataclasses.dataclass(frozen=True)
class Prefix:
    """What a technique adds to the layers that carry its prefix: variables to each sparse weight, the rest once."""

    kinds: tuple
    trainable: int = 0
    masks: int = 0
    seed_generators: int = 0
    losses: int = 0
    # Variables that it adds to each kind of groups.
    groups: int = 0


PREFIXES = {
    "VD": Prefix(WITHOUT_CONV_LSTM, trainable=1, seed_generators=1, losses=1),
    "L0": Prefix(WITHOUT_DEPTHWISE, trainable=1, seed_generators=1, losses=1),
    "STR": Prefix(WITHOUT_EMBEDDINGS, trainable=1),
    "Masked": Prefix(tuple(KINDS), masks=1),
    "DNW": Prefix(WITHOUT_EMBEDDINGS),
    "GVD": Prefix(
        ("Dense", "Embedding", "SimpleRNN", "LSTM", "GRU"), trainable=1, seed_generators=1, losses=1, groups=2
    ),
    "Hashed": Prefix(FORWARD),
    "SBP": Prefix(FORWARD, trainable=2, seed_generators=1, losses=1),
    "SRSTE": Prefix(FORWARD),
    "Movement": Prefix(FORWARD, trainable=1, masks=1),
    "SoftMovement": Prefix(FORWARD, trainable=1, losses=1),
    "Power": Prefix(FORWARD, masks=1),
    "TopKAST": Prefix(FORWARD),
}

CASES = [(prefix, kind) for prefix, added in PREFIXES.items() for kind in added.kinds]


def example_inputs(kind, batch=2, seed=0):
    """Inputs for a kind: normal numbers, or ids that include 0."""
    rng = np.random.default_rng(seed)
    shape = (batch, *KINDS[kind].example_shape)
    if KINDS[kind].integer_inputs:
        return rng.integers(0, KINDS[kind].arguments["input_dim"], shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def make_layer(prefix, kind, **options):
    """A layer such as VDDense, not built."""
    return getattr(layers, prefix + kind)(**KINDS[kind].arguments, **options)


def make_half_sparse(layer, seed=0):
    """Drives about half of each weight of a built layer to zero, by the technique's own variables."""
    rng = np.random.default_rng(seed)
    for weight in layers.get_sparse_weights(layer):
        chosen = rng.random(weight.shape) < 0.5
        technique = layer.technique.name
        if technique in ("masked", "powerpropagation"):
            weight.assign_mask(~chosen)
        elif technique == "movement":
            weight.extra_variable("scores").assign(np.where(chosen, -1.0, 1.0) * rng.random(weight.shape))
            layer.technique.assign_sparsity(weight, 0.5)
        elif technique == "soft_movement":
            weight.extra_variable("soft_scores").assign(np.where(chosen, -5.0, 5.0))
        elif technique in ("variational_dropout", "group_variational_dropout"):
            weight.extra_variable("log_sigma2").assign(np.where(chosen, 20.0, -20.0))
        elif technique == "l0":
            weight.extra_variable("log_alpha").assign(np.where(chosen, -3.0, rng.normal(size=weight.shape)))
        elif technique == "structured_bayesian":
            # The noise of every second unit has a signal-to-noise ratio of 1/3.
            shape = weight.extra_variable("log_sigma").shape
            every_second = np.arange(int(np.prod(shape))).reshape(shape) % 2 == 0
            weight.extra_variable("log_sigma").assign(np.where(every_second, 3.0, -3.0))
        elif technique == "hashed":
            bank = weight.extra_variable("bank")
            bank.assign(np.where(np.arange(bank.shape[0]) % 2, 0, ops.convert_to_numpy(bank)))
        elif technique == "soft_threshold":
            magnitude = np.abs(ops.convert_to_numpy(weight.variable))
            t = np.median(magnitude)
            weight.extra_variable("raw_threshold").assign(
                np.full(weight.extra_variable("raw_threshold").shape, np.log(t / (1 - t)))
            )


def stock_layer(layer, inputs, **call_arguments):
    """The stock Keras layer with the sparse layer's inference weights and biases."""
    config = layer.get_config()
    for name in layer.technique.option_names():
        config.pop(name)
    plain = layer.keras_class.from_config(config)
    plain(inputs, **call_arguments)
    holder = weight_holder(plain)
    for weight in layers.get_sparse_weights(layer):
        private = getattr(holder, f"_{weight.name}", None)
        (getattr(holder, weight.name) if private is None else private).assign(weight.value())
    if getattr(weight_holder(layer), "bias", None) is not None:
        holder.bias.assign(weight_holder(layer).bias)
    return plain


def weight_holder(layer):
    """The layer that has the weights: of a recurrent layer the cell."""
    return getattr(layer, "cell", layer)


POLICIES = ("mixed_bfloat16", "mixed_float16", "float64")


def run_sparse_layer_test(prefix, kind, directory, compiled=None, policies=POLICIES):
    """Every promise of a sparse layer; see the module's docstring. `directory` is for files.

    A test of one layer costs its compilations. By default everything is compiled. `compiled=True` trains under XLA and
    leaves Keras's own training step out, `compiled=False` the other way round.
    """
    _check_with_keras(prefix, kind, train=compiled is not True)
    inputs = example_inputs(kind)
    layer = make_layer(prefix, kind)
    assert layer.sparse_weights == []
    layer(inputs)
    make_half_sparse(layer)
    bias = getattr(weight_holder(layer), "bias", None)
    if bias is not None:
        bias.assign(np.linspace(-1, 1, int(np.prod(bias.shape))).reshape(bias.shape))
    _check_protocol(layer)
    _check_against_stock_layer(layer, inputs)
    _check_model(layer, kind, directory, XLA and compiled is not False)
    _check_precision(prefix, kind, policies)


def _check_with_keras(prefix, kind, train):
    added = PREFIXES[prefix]
    arguments = KINDS[kind].arguments
    options = {"penalty_weight": 1e-3} if added.losses else {}
    has_bias = "Embedding" not in kind and arguments.get("use_bias", True)
    testing.TestCase().run_layer_test(
        getattr(layers, prefix + kind),
        init_kwargs={**arguments, **options},
        input_data=example_inputs(kind),
        expected_num_trainable_weights=has_bias
        + KINDS[kind].sparse_weights * (1 + added.trainable)
        + KINDS[kind].groups * added.groups,
        expected_num_non_trainable_weights=KINDS[kind].sparse_weights * added.masks + added.losses,
        expected_num_seed_generators=max(KINDS[kind].seed_generators, added.seed_generators),
        expected_num_losses=None,
        supports_masking=None,
        run_training_check=train,
        # Dtypes and finiteness of mixed precision are checked below, with gradients.
        run_mixed_precision_check=not KINDS[kind].integer_inputs,
    )


def _check_protocol(layer):
    weights = layers.get_sparse_weights(layer)
    assert len({weight.path for weight in weights}) == len(weights) >= 1
    for weight in weights:
        value, mask = ops.convert_to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
        assert value.shape == mask.shape == weight.shape
        if layer.technique.name == "hashed":  # The variable is the bank.
            assert tuple(weight.variable.shape) == (weight.stored(),)
        else:
            assert tuple(weight.variable.shape) == weight.shape and weight.stored() == weight.count()
        assert mask.dtype == bool
        assert (value[~mask] == 0).all()
        assert weight.size == value.size
        assert weight.count() == np.count_nonzero(value)
        assert weight.sparsity() == 1 - np.count_nonzero(value) / value.size
        assert 0.2 < weight.sparsity() < 1.0
        assert weight.path == f"{weight_holder(layer).path}/{weight.name}"
    assert [w.path for w in weights] == [w.path for w in weight_holder(layer).sparse_weights]


def _check_against_stock_layer(layer, inputs):
    expected = stock_layer(layer, inputs)(inputs)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(inputs, training=False)), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6
    )


def _check_model(layer, kind, directory, jit_compile):
    """In a functional model with a dynamic batch size: compiled equal to eager, trained, saved and loaded."""
    inputs = keras.Input(KINDS[kind].example_shape, dtype="int32" if KINDS[kind].integer_inputs else None)
    model = keras.Model(inputs, layer(inputs))
    data = example_inputs(kind, batch=3)
    expected = ops.convert_to_numpy(layer(data, training=False))
    model.compile("sgd", "mse", jit_compile=jit_compile, run_eagerly=False)
    for batch in (1, 3):
        np.testing.assert_allclose(model.predict(data[:batch], verbose=0), expected[:batch], rtol=1e-5, atol=1e-5)
    # Without XLA the compiled step is Keras's own, above.
    model.run_eagerly = not jit_compile
    model.train_on_batch(data, expected + 1)
    for weight in layers.get_sparse_weights(layer):
        value, mask = ops.convert_to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
        assert np.isfinite(value).all()
        assert (value[~mask] == 0).all()

    path = str(directory / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    for ours, theirs in zip(layers.get_sparse_weights(model), layers.get_sparse_weights(loaded), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours.value()), ops.convert_to_numpy(theirs.value()))
    predictions = [ops.convert_to_numpy(each(data, training=False)) for each in (model, loaded)]
    np.testing.assert_array_equal(*predictions)
    # The loaded model goes on training exactly as this one: noise counters and optimizer included. Compiling both again
    # would cost more than all the rest.
    for each in (model, loaded):
        each.run_eagerly, each.train_function = True, None
        each.train_on_batch(data, expected + 1)
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def _check_precision(prefix, kind, policies):
    for policy in policies:
        # Keras promotes float64 to float32 but on TensorFlow.
        if policy == "float64" and keras.backend.backend() != "tensorflow":
            continue
        layer = make_layer(prefix, kind, dtype=policy)
        outputs = layer(example_inputs(kind), training=True)
        assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
        assert np.isfinite(ops.convert_to_numpy(ops.cast(outputs, "float32"))).all()
        for weight in layers.get_sparse_weights(layer):
            value_dtype = keras.backend.standardize_dtype(weight.value().dtype)
            assert value_dtype == ("float64" if policy == "float64" else "float32")
