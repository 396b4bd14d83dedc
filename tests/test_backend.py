"""`sparsity_tf.backend`: private names of Keras must exist, and each function does what it says, on any backend."""

import ast
import functools
import importlib
import inspect
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import backend

pytestmark = pytest.mark.compiled

BACKEND = keras.config.backend()
KERAS_VERSION = tuple(map(int, keras.__version__.split(".")[:2]))
FOLDER = Path(backend.__file__).parent
to_numpy = ops.convert_to_numpy


def dense(**options):
    layer = keras.layers.Dense(3, **options)
    layer.build((None, 4))
    return layer


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs))


def compiled_model(optimizer="sgd"):
    model = functional()
    model.compile(optimizer, "mse")
    return model


def optimizer_of(cls, **options):
    """A built optimizer and the kernel and bias that it trains."""
    layer, optimizer = dense(), cls(**options)
    optimizer.build(layer.trainable_variables)
    return optimizer, layer.trainable_variables


def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")


def trained_model():
    model = compiled_model()
    model.train_on_batch(*batch())
    return model


# Private names of Keras.

LAYER_ON_TENSORFLOW = ["_trackable_children"] if BACKEND == "tensorflow" else []
MODEL_ON_TENSORFLOW = ["_maybe_symbolic_build"] if BACKEND == "tensorflow" else []
MODEL_ON_JAX = ["_get_jax_state", "_jax_state", "_jax_state_synced"] if BACKEND == "jax" else []
# Before Keras 3.15 only JAX's variables have layouts.
LAYOUT = ["_layout"] if BACKEND == "jax" or KERAS_VERSION >= (3, 15) else []
# What it is (a function that makes it) -> the private names of it that `backend/` uses.
PRIVATE = {
    "layer": (
        dense,
        """_call_context_args _call_has_context_arg _call_has_training_arg _call_signature _check_quantize_args
        _clear_losses _flatten_layers _get_call_context _get_own_losses _inbound_nodes _kernel _layers
        _maybe_reset_call_context _non_trainable_variables _outbound_nodes _tracker _trainable_variables
        _untrack_variable""".split()
        + LAYER_ON_TENSORFLOW,
    ),
    "embedding": (lambda: built(keras.layers.Embedding(5, 2), (None,)), ["_embeddings"]),
    "one-dimensional convolution": (lambda: keras.layers.Conv1D(2, 3), ["_compute_causal_padding"]),
    "batch normalisation": (
        lambda: built(keras.layers.BatchNormalization(), (None, 4)),
        ["_moments", "_reduction_axes"],
    ),
    "variable": (lambda: dense().bias, ["_autocast", "_deferred_initialize", "_value", *LAYOUT]),
    "symbolic tensor": (lambda: functional().output, ["_keras_history"]),
    "output of an embedding with masks": (
        lambda: keras.layers.Embedding(5, 2, mask_zero=True)(np.array([[1, 0]])),
        ["_keras_mask"],
    ),
    "functional model": (functional, ["_nodes_by_depth"]),
    "sequential model": (lambda: keras.Sequential([keras.Input((4,)), dense()]), ["_functional"]),
    "compiled model": (compiled_model, ["_symbolic_build", *MODEL_ON_TENSORFLOW]),
    "trained model": (trained_model, MODEL_ON_JAX),
    "optimizer": (
        lambda: optimizer_of(keras.optimizers.SGD)[0],
        """_backend_update_step _get_variable_index _iterations _learning_rate _trainable_variables
        _untrack_variable _use_weight_decay _variables""".split(),
    ),
    "Adam": (lambda: optimizer_of(keras.optimizers.Adam)[0], ["_momentums", "_velocities"]),
    "Adamax": (lambda: optimizer_of(keras.optimizers.Adamax)[0], ["_m"]),
    "Ftrl": (lambda: optimizer_of(keras.optimizers.Ftrl)[0], ["_accumulators"]),
    "optimizer with averages": (
        lambda: optimizer_of(keras.optimizers.SGD, use_ema=True)[0],
        ["_model_variables_moving_average"],
    ),
    "callback": (keras.callbacks.Callback, ["_model"]),
    # Public names of private modules and objects, and names that Keras does not document.
    "module keras.src.backend": (lambda: importlib.import_module("keras.src.backend"), ["get_stateless_scope"]),
    "module keras.src.models.functional": (
        lambda: importlib.import_module("keras.src.models.functional"),
        ["Functional"],
    ),
    "module keras.src.layers.rnn.conv_lstm": (
        lambda: importlib.import_module("keras.src.layers.rnn.conv_lstm"),
        ["ConvLSTMCell"],
    ),
    "tracker": (lambda: dense()._tracker, ["lock", "unlock", "untrack"]),
    "context of a call": (lambda: context_of_call(), ["entry_layer"]),
    "node": (
        lambda: functional().get_layer("dense")._inbound_nodes[0],
        ["arguments", "input_tensors", "is_input", "operation", "outputs"],
    ),
    "undocumented of an optimizer": (
        lambda: optimizer_of(keras.optimizers.SGD, momentum=0.9)[0],
        ["add_variable_from_reference", "assign", "momentums", "update_step"],
    ),
    "undocumented of a layer": (dense, ["call_signature_parameters"]),
    "undocumented of a model": (
        compiled_model,
        ["_compile_config", "make_train_function", "train_function", *(["jax_state_sync"] if BACKEND == "jax" else [])],
    ),
}
# Named in `backend/`, but on other backends, or releases of Keras, only.
ELSEWHERE = {
    "_is_excluded_from_weight_decay",
    "_layout",
    "_trackable_children",
    "_maybe_symbolic_build",
    "_get_jax_state",
    "_jax_state",
    "_jax_state_synced",
}


def context_of_call():
    layer = dense()
    context = layer._get_call_context()
    layer._maybe_reset_call_context()
    return context


def built(layer, shape):
    layer.build(shape)
    return layer


def test_every_private_name_of_keras_exists():
    missing = []
    for what, (make, names) in PRIVATE.items():
        thing = make()
        missing += [f"{what}: {name}" for name in names if not hasattr(thing, name)]
    assert missing == []


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def test_every_private_name_in_the_sources_is_listed():
    named, own = set(), set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                named.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
                named.add(node.value)
            elif isinstance(node, ast.FunctionDef):
                own.add(node.name)
    overridden = {"_get_own_losses", "_clear_losses", "_check_quantize_args", "_trackable_children", "_moments"}
    listed = {name for _, names in PRIVATE.values() for name in names if is_private(name)}
    # Of `stored_variable`, which puts an underscore before the name of a weight.
    by_weight = {"_kernel", "_embeddings"}
    assert named - (own - overridden) | by_weight == listed | ELSEWHERE


# Names of the package's own that Keras's classes have, too.


def classes_of_package():
    """The package's classes with a Keras class among their bases."""
    found = set()
    for path in sorted(Path(sparsity_tf.__file__).parent.rglob("*.py")):
        parts = path.relative_to(Path(sparsity_tf.__file__).parent.parent).with_suffix("").parts
        if parts[1] in ("backend", "tools") or parts[-1] in ("__main__", "tensorflow_files", "imagenet_crops"):
            continue
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        found.update(cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)
    return sorted((cls for cls in found if keras_bases(cls)), key=str)


def keras_bases(cls):
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "keras"]


@functools.cache
def private_names_of(cls):
    """The private methods that a class defines, and the private attributes of `self` that its source names."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # a class that was made by a function
        return {name for name in vars(cls) if is_private(name)}
    names = {node.name for node in ast.walk(source) if isinstance(node, ast.FunctionDef)}
    names |= {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    return {name for name in names if is_private(name)}


def test_no_class_of_the_package_shares_a_private_name_with_its_keras_base():
    """Neither on purpose, which `backend/` is for, nor by chance: Keras would call or overwrite it."""
    shared, classes = {}, classes_of_package()
    for cls in classes:
        of_keras = set().union(*(private_names_of(base) for base in keras_bases(cls)))
        if private_names_of(cls) & of_keras:
            shared[cls.__name__] = private_names_of(cls) & of_keras
    assert len(classes) > 80
    assert shared == {}


# Tensors.


def test_a_tensor_of_a_variable_keeps_its_content():
    variable = keras.Variable(np.array([1.0, 2.0]))
    tensor = backend.tensor_of(variable)
    before = np.array(backend.as_array(tensor))
    variable.assign([3.0, 4.0])
    np.testing.assert_array_equal(backend.as_array(tensor), before)
    np.testing.assert_array_equal(before, [1, 2])
    assert not backend.is_on_accelerator(tensor) or BACKEND == "numpy"


def test_the_name_of_the_backend():
    assert backend.backend_name() == BACKEND


def test_plain_tensors_are_no_variables():
    tensors = backend.plain_tensors([keras.Variable([1.0]), ops.ones(2)])
    assert BACKEND != "tensorflow" or not any(isinstance(tensor, keras.Variable) for tensor in tensors)
    np.testing.assert_array_equal(to_numpy(tensors[0]), [1])


@pytest.mark.parametrize("foldable", [False, True])
def test_zero_outside_a_mask(foldable):
    tensor = ops.convert_to_tensor([1.0, -2.0, np.nan, np.inf])
    found = backend.zero_outside(ops.convert_to_tensor([True, False, False, False]), tensor, foldable)
    assert to_numpy(found).tobytes() == np.array([1, 0, 0, 0], "float32").tobytes()


def test_float_bits():
    x = np.array([0.0, 1.0, -1.0, np.inf], "float32")
    np.testing.assert_array_equal(to_numpy(backend.float_bits(ops.convert_to_tensor(x))), x.view("int32"))


def test_sums_are_taken_in_a_dtype_that_the_backend_has():
    assert keras.backend.standardize_dtype(ops.cast(1, backend.sum_dtype()).dtype) == backend.sum_dtype()


def test_no_gradients():
    variable = keras.Variable([1.0])
    with backend.no_gradients():
        assert not getattr(ops.multiply(variable, 2.0), "requires_grad", False)


def test_seeds_of_draws_differ_from_draw_to_draw_and_between_neighbouring_generators():
    draws = []
    for seed in (1, 2):
        generator = keras.random.SeedGenerator(seed)
        draws += [to_numpy(keras.random.uniform((4,), seed=backend.seed_of_draw(generator))) for _ in range(3)]
    assert len({draw.tobytes() for draw in draws}) == 6


@pytest.mark.xla
@pytest.mark.parametrize("make", [backend.compiled, backend.compiled_part, backend.compiled_inference])
def test_a_compiled_function_computes_the_same(make):
    traced = []

    def function(x, y):
        traced.append(x)
        return x * y + 1

    call = make(function)
    for size in (2, 2, 3):
        x = np.arange(size, dtype="float32")
        np.testing.assert_array_equal(to_numpy(call(ops.convert_to_tensor(x), ops.convert_to_tensor(x))), x * x + 1)
    compiles = BACKEND == "tensorflow" or (BACKEND == "jax" and make is not backend.compiled_part)
    assert len(traced) == (2 if compiles else 3)


@pytest.mark.xla
@pytest.mark.tensorflow
def test_variables_written_in_place():
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    assert backend.can_write_in_place(variables)

    def write(*tensors):
        for variable, tensor in zip(variables, tensors, strict=True):
            backend.write_in_place(variable, tensor + 1)

    tensors = [backend.constant(np.array([5, 6], "float32")), backend.constant(np.array([7], "float32"))]
    backend.compiled_write(write, tensors)(*tensors)
    np.testing.assert_array_equal(to_numpy(variables[0]), [6, 7])
    np.testing.assert_array_equal(to_numpy(variables[1]), [8])


@pytest.mark.tensorflow
def test_variables_of_a_strategy_are_not_written_in_place():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert not backend.can_write_in_place([keras.Variable([1.0])])


def test_only_tensorflow_writes_in_place_and_hashes_noise():
    on_tensorflow = BACKEND == "tensorflow"
    assert backend.can_write_in_place([]) == backend.noise_is_hashed() == on_tensorflow
    assert backend.fit_builds_models() == backend.has_strategies() == backend.uses_tf_data() == on_tensorflow
    assert backend.masks_in_forward_pass() == (BACKEND == "jax")
    assert on_tensorflow or backend.always_compiles() == (BACKEND == "jax")
    assert backend.has_xla() == (BACKEND != "torch")


# Layers.


class Hooked(backend.LayerHooks, keras.layers.Dense):
    """Notes which of its hooks Keras calls."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = []

    def _own_losses(self, losses):
        return [ops.sum(self.kernel), *losses]

    def _forget_own_losses(self):
        self.heard.append("forget")

    def _check_quantization(self, mode):
        raise ValueError(f"not {mode}")

    def _check_export(self):
        raise ValueError("no export")


def test_keras_calls_the_hooks_of_a_layer(tmp_path):
    layer = Hooked(3, kernel_initializer="ones", bias_regularizer="l2")
    layer(np.ones((1, 4), "float32"))
    own, *others = (float(to_numpy(loss)) for loss in layer.losses)
    assert own == 12 and others == [0]
    layer(np.ones((1, 4), "float32"))
    assert "forget" in layer.heard
    with pytest.raises(ValueError, match="not int8"):
        layer.quantize("int8")
    if BACKEND == "tensorflow":
        model = keras.Sequential([keras.Input((4,)), layer])
        with pytest.raises(ValueError, match="no export"):
            model.export(tmp_path / "model", verbose=False)


def test_the_hook_of_an_export_is_not_called_by_other_work(tmp_path):
    layer = Hooked(3)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    model.fit(*batch(), verbose=0)
    model.predict(batch()[0], verbose=0)
    model.save(tmp_path / "model.keras")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
        tf.function(model)(batch()[0])


def test_hooks_that_are_not_defined_change_nothing():
    class Plain(backend.LayerHooks, keras.layers.Dense):
        pass

    layer = Plain(3, bias_regularizer="l2")
    layer(np.ones((1, 4), "float32"))
    assert [float(to_numpy(loss)) for loss in layer.losses] == [0]
    layer.quantize("int8", type_check=False)
    assert layer.quantization_mode == "int8"


def test_a_batch_normalisation_that_computes_its_moments_itself():
    class Own(backend.MomentsHook, keras.layers.BatchNormalization):
        def _own_moments(self, inputs, mask):
            mean, variance = super()._own_moments(inputs, mask)
            return mean + 1, variance

    layer = Own(momentum=0.0)
    layer(np.zeros((6, 5, 4), "float32"), training=True)
    assert backend.axes_of_moments(layer) == [0, 1]
    np.testing.assert_array_equal(to_numpy(layer.moving_mean), np.ones(4))


def test_variables_and_sublayers_of_a_layer():
    layer = dense()
    assert backend.own_variables(layer) == [layer._kernel, layer.bias]
    backend.own_variables(layer).clear()
    layer.trainable = False
    assert backend.own_trainable_variables(layer) == [layer._kernel, layer.bias]
    normalisation = built(keras.layers.BatchNormalization(), (None, 4))
    assert [v.name for v in backend.own_variables(normalisation)] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [v.name for v in backend.own_trainable_variables(normalisation)] == ["gamma", "beta"]
    assert backend.own_variables(functional()) == []
    wrapper = keras.layers.TimeDistributed(layer)
    model = keras.Sequential([keras.Input((2, 4)), wrapper])
    assert backend.sublayers(wrapper) == backend.sublayers_below(wrapper) == [layer]
    assert {wrapper, layer} <= set(backend.sublayers_below(model)) and model not in backend.sublayers_below(model)


def test_a_variable_of_a_wrapped_layer_belongs_to_that_layer():
    layer = keras.layers.Dense(3)
    wrapper = keras.layers.SpectralNormalization(layer)
    wrapper.build((None, 4))
    assert [variable.name for variable in backend.own_variables(wrapper)] == ["vector_u"]
    assert backend.own_trainable_variables(wrapper) == []
    assert backend.own_variables(layer) == [layer.kernel, layer.bias]


def test_the_cell_of_a_recurrent_convolution():
    assert type(keras.layers.ConvLSTM2D(2, 3).cell) is backend.ConvLSTMCell


def test_without_a_distribution_a_variable_keeps_its_place():
    layer = dense()
    before = to_numpy(layer.bias)
    backend.follow_layout(layer.bias, layer.kernel)
    np.testing.assert_array_equal(to_numpy(layer.bias), before)


def test_the_variable_behind_a_weight():
    layer = dense()
    kernel = backend.stored_variable(layer, "kernel")
    assert isinstance(kernel, keras.Variable) and backend.stored_variable(layer, "bias") is layer.bias
    layer.enable_lora(1)
    assert backend.stored_variable(layer, "kernel") is kernel
    assert layer.kernel is not kernel  # with LoRA's factors added


def test_the_initial_value_of_a_variable_changes_whenever_keras_initializes_it():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.part = keras.layers.Dense(3, kernel_initializer="ones")

        def call(self, inputs):
            if not self.part.built:
                self.part.build((None, 4))
                backend.change_initial_value(self.part.kernel, lambda tensor: 2 * tensor)
            return self.part(inputs)

    for call in (lambda net: net(keras.Input((4,))), lambda net: net(np.ones((2, 4)))):
        net = Net()
        call(net)
        np.testing.assert_array_equal(to_numpy(net.part.kernel), 2)
        backend.change_initial_value(net.part.kernel, lambda tensor: 3 * tensor)
        np.testing.assert_array_equal(to_numpy(net.part.kernel), 6)


def test_variables_read_in_their_own_dtype():
    layer = built(keras.layers.Dense(3, dtype="mixed_float16"), (None, 4))

    def dtype_in_call():
        with keras.src.backend.common.variables.AutocastScope("float16"):
            return keras.backend.standardize_dtype(layer.bias.value.dtype)

    assert dtype_in_call() == "float16"
    backend.set_autocast(layer.bias, False)
    assert dtype_in_call() == "float32"
    backend.set_autocast(layer.bias, True)
    assert dtype_in_call() == "float16"


def test_a_built_layer_takes_and_loses_variables():
    layer = dense()
    with pytest.raises(ValueError):
        layer.extra = layer.add_weight(name="extra", shape=())
    with backend.unlocked(layer):
        layer.extra = layer.add_weight(name="extra", shape=())
        layer.generator = keras.random.SeedGenerator(1)
    with pytest.raises(ValueError):
        layer.other = layer.add_weight(name="other", shape=())
    assert any(variable is layer.generator.state for variable in layer.variables)
    backend.untrack(layer, layer.generator)
    assert not any(variable is layer.generator.state for variable in layer.variables)
    backend.delete_attribute(layer, "extra")
    assert not hasattr(layer, "extra") and [v.name for v in layer.weights] == ["kernel", "bias"]


def test_the_signature_of_a_layer_whose_class_changes():
    class Noisy(keras.layers.Dense):
        def call(self, inputs, training=False):
            return super().call(inputs) + (1.0 if training else 0.0)

    layer, x = dense(), np.zeros((1, 4), "float32")
    layer.__class__ = Noisy
    backend.refresh_call_signature(layer)
    model = keras.Sequential([keras.Input((4,)), layer])
    np.testing.assert_array_equal(to_numpy(model(x, training=True)), np.ones((1, 3)))
    np.testing.assert_array_equal(to_numpy(model(x, training=False)), np.zeros((1, 3)))


def test_what_a_layer_learns_of_the_call_that_runs():
    class Curious(keras.layers.Layer):
        def call(self, inputs):
            heard.append((backend.model_of_call(self), backend.is_training_call(self), backend.forward_pass()))
            return inputs

    heard = []
    model = keras.Sequential([keras.Input((4,)), Curious(), Curious()])
    heard.clear()
    for training in (True, False):
        model(np.zeros((1, 4), "float32"), training=training)
    assert [entry[:2] for entry in heard] == [(model, True)] * 2 + [(model, False)] * 2
    heard.clear()
    for _ in range(2):
        with keras.StatelessScope():
            model(np.zeros((1, 4), "float32"))
    passes = [entry[2] for entry in heard]
    assert passes[0] is passes[1] and passes[2] is passes[3] and passes[0] is not passes[2]
    assert backend.forward_pass() is backend.forward_pass()


def test_masks_that_the_next_layer_reads():
    class Marked(keras.layers.Layer):
        def call(self, inputs):
            outputs = inputs * 1.0
            backend.set_mask(outputs, ops.not_equal(inputs[:, :, 0], 0))
            return outputs

    class Reader(keras.layers.Layer):
        def call(self, inputs, mask=None):
            heard.append(to_numpy(mask))
            return inputs

        def compute_mask(self, inputs, mask=None):
            return mask

    heard = []
    Reader()(Marked()(np.array([[[1.0], [0.0]]], "float32")))
    np.testing.assert_array_equal(heard[0], [[True, False]])


def test_causal_padding():
    layer = built(keras.layers.Conv1D(2, 3, dilation_rate=2, padding="causal"), (None, 5, 4))
    assert [list(pair) for pair in backend.causal_padding(layer)] == [[0, 0], [4, 0], [0, 0]]


# Graphs of calls.


def test_models_that_run_by_their_graph():
    class Subclass(keras.Model):
        def call(self, x):
            return x

    class Changed(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs) + 1

    sequential, model = keras.Sequential([keras.Input((4,)), dense()]), functional()
    assert backend.runs_by_graph(model) and backend.runs_by_graph(sequential)
    for other in (Subclass(), keras.Sequential([dense()]), Changed([keras.Input((4,)), dense()]), dense()):
        assert not backend.runs_by_graph(other)
    assert backend.functional_inside(model) is model
    assert backend.runs_by_graph(backend.functional_inside(sequential))
    assert backend.functional_inside(sequential) is not sequential


def test_the_calls_of_a_functional_model():
    inputs = keras.Input((4,), name="inputs")
    first, second = keras.layers.Dense(4, name="first"), keras.layers.Dense(3, name="second")
    hidden = first(first(inputs))
    outputs = ops.relu(second(hidden))
    model = keras.Model(inputs, outputs)
    names = [node.operation.name for node in backend.calls_of(model)]
    assert names[:4] == ["inputs", "first", "first", "second"] and len(names) == 5
    assert backend.maker_of(hidden) == (first, 1)
    [read] = backend.tensors_read(first, 0)
    assert read is inputs
    [read] = backend.tensors_read(second, 0)
    assert read is hidden
    operation, number = backend.maker_of(inputs)
    assert backend.tensors_read(operation, number) == []
    assert backend.is_keras_operation(backend.maker_of(outputs)[0]) and not backend.is_keras_operation(first)
    backend.forget_calls(second)
    with pytest.raises(IndexError):
        backend.tensors_read(second, 0)


# Optimizers.


def test_the_optimizer_that_updates_weights():
    inner = keras.optimizers.SGD()
    assert backend.inner_optimizer(keras.optimizers.LossScaleOptimizer(inner)) is inner
    assert backend.inner_optimizer(inner) is inner


def test_numbers_of_variables_and_of_calls():
    optimizer, (kernel, bias) = optimizer_of(keras.optimizers.SGD, gradient_accumulation_steps=2)
    assert [backend.variable_index(optimizer, variable) for variable in (kernel, bias)] == [0, 1]
    for calls in (1, 2, 3):
        optimizer.apply([ops.ones((4, 3)), ops.ones((3,))])
        assert int(to_numpy(backend.call_counter(optimizer))) == calls
    assert int(to_numpy(optimizer.iterations)) == 1


def test_whether_a_variable_decays():
    optimizer, (kernel, bias) = optimizer_of(keras.optimizers.AdamW, weight_decay=0.1)
    assert backend.decays(optimizer, kernel) is True
    plain, variables = optimizer_of(keras.optimizers.SGD)
    assert backend.decays(plain, variables[0]) is False
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[bias])
    optimizer.build([kernel, bias])
    assert (backend.decays(optimizer, kernel), backend.decays(optimizer, bias)) == (True, False)


def test_every_optimizer_of_keras_calls_the_method_of_the_update():
    for name in ("SGD", "Adam", "RMSprop", "Ftrl"):
        optimizer, variables = optimizer_of(getattr(keras.optimizers, name))
        method, batched = backend.optimizer_update(optimizer)
        update, heard = getattr(optimizer, method), []

        def watched(gradients, variables, learning_rate, update=update, heard=heard):
            heard.append(gradients)
            return update(gradients, variables, learning_rate)

        vars(optimizer)[method] = watched
        optimizer.apply([ops.ones((4, 3)), ops.ones((3,))])
        assert len(heard) == (1 if batched else 2)
        assert batched == (BACKEND == "torch")


@pytest.mark.parametrize("steps,wrap", [(1, False), (2, False), (1, True)])
def test_the_learning_rate_of_the_last_update(steps, wrap):
    """The rate that the update received, also of a schedule, with accumulation and in a loss-scaled optimizer."""
    if wrap and BACKEND == "jax":
        pytest.skip("outside of a compiled step Keras's LossScaleOptimizer leaks a tracer on JAX")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2, 3, 4], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    inner = keras.optimizers.SGD(schedule, gradient_accumulation_steps=steps if steps > 1 else None)
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if wrap else inner
    optimizer.build([variable])
    assert backend.last_learning_rate(optimizer) == pytest.approx(0.6)
    before, rates = 0.0, []
    for _ in range(4):
        # A loss-scaled optimizer divides gradients by its scale.
        optimizer.apply([optimizer.scale_loss(ops.ones(2))])
        now = float(to_numpy(variable)[0])
        if now != before:
            rates.append(before - now)
            assert backend.last_learning_rate(optimizer) == pytest.approx(before - now, rel=1e-5)
        before = now
    assert len(rates) == 4 // steps and len({round(rate, 6) for rate in rates}) == len(rates)
    assert backend.last_learning_rate(keras.optimizers.SGD(0.25)) == 0.25


SLOTS = {
    "SGD": ({"momentum": 0.9}, {"momentum"}, 1),
    "Adam": ({}, {"momentum", "variance"}, 2),
    "Adamax": ({}, {"momentum"}, 2),
    "Lion": ({}, {"momentum"}, 1),
    "RMSprop": ({"momentum": 0.9}, {"momentum", "variance"}, 2),
    "Ftrl": ({}, set(), 2),
    "Nadam": ({"use_ema": True}, {"momentum", "variance", "average"}, 3),
}


@pytest.mark.parametrize("name", SLOTS)
def test_slots_of_optimizers(name):
    options, kinds, count = SLOTS[name]
    optimizer, (kernel, bias) = optimizer_of(getattr(keras.optimizers, name), **options)
    for kind in ("momentum", "variance", "average"):
        slots = backend.slots_of_kind(optimizer, kind)
        assert (slots is not None) == (kind in kinds)
        assert slots is None or [tuple(slot.shape) for slot in slots] == [(4, 3), (3,)]
    initial = 0.1 if name == "Ftrl" else 0.0
    found = backend.slots_of(optimizer, kernel)
    assert len(found) == count and all(tuple(slot.shape) == (4, 3) for slot, _ in found)
    for slot, number in found:
        if not any(slot is average for average in backend.slots_of_kind(optimizer, "average") or []):
            np.testing.assert_array_equal(to_numpy(slot), np.full((4, 3), number, "float32"))
    assert max(number for _, number in found) == initial
    triples = backend.all_slots(optimizer)
    assert len(triples) == 2 * count
    assert {id(variable) for _, variable, _ in triples} == {id(kernel), id(bias)}
    assert sum(number is None for _, _, number in triples) == (2 if "average" in kinds else 0)


def test_slots_of_gradients_are_written_where_wanted_and_stay_out_of_files():
    optimizer, (kernel, bias) = optimizer_of(keras.optimizers.SGD, momentum=0.9)
    own = list(optimizer.variables)
    slot = backend.add_slot(optimizer, kernel, "gradient")
    assert tuple(slot.shape) == (4, 3) and not to_numpy(slot).any()
    for wanted in (False, True):
        backend.assign_if(ops.convert_to_tensor(wanted), optimizer, slot, ops.ones((4, 3)))
        np.testing.assert_array_equal(to_numpy(slot), np.full((4, 3), wanted, "float32"))
    methods = backend.saving_without(optimizer, lambda: [slot])
    assert set(methods) == ({"save_own_variables", "load_own_variables"} if BACKEND == "jax" else set())
    store = {}
    methods.get("save_own_variables", optimizer.save_own_variables)(store)
    assert len(store) == len(own)
    backend.remove_slots(optimizer, [slot])
    assert [id(variable) for variable in optimizer.variables] == [id(variable) for variable in own]


def test_derivatives_of_a_loss():
    """L = sum(a w^2) + b: gradient 2 a w, Hessian 2 a, so H g = 4 a^2 w; nothing of what L does not depend on."""
    a, w = np.array([1.0, 2.0, 3.0], "float32"), np.array([1.0, -1.0, 0.5], "float32")
    variable, unused = keras.Variable(w), keras.Variable(w)

    def loss():
        return ops.sum(ops.multiply(a, ops.square(ops.convert_to_tensor(variable)))) + 1.0

    for hessian, expected in ((False, 2 * a * w), (True, 4 * a * a * w)):
        found, other = backend.loss_derivatives(loss, [variable, unused], 4.0, hessian)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32 and (other is None or not other.any())


# `fit`.


def test_changes_between_two_steps_of_training():
    model, (x, y) = compiled_model(keras.optimizers.SGD(0.0)), batch()
    make, changed = model.make_train_function, []

    def with_change(force=False):
        make(force)
        step = model.train_function

        def changing_step(*args):
            return backend.between_steps(model, step(*args), change)

        model.train_function = changing_step

    def change():
        bias = model.get_layer("dense").bias
        changed.append(to_numpy(bias)[0])
        bias.assign(bias + 1)

    model.make_train_function = with_change
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    assert changed == list(range(2 * 4))  # 8 examples in batches of 2
    np.testing.assert_array_equal(to_numpy(model.get_layer("dense").bias), np.full(3, 8))


@pytest.mark.skipif(BACKEND != "jax", reason="needs KERAS_BACKEND=jax")
def test_the_state_of_a_model_on_jax_goes_round():
    model = trained_model()
    before = [np.array(to_numpy(variable)) for variable in model.variables]
    state = backend.take_jax_state(model)
    backend.put_jax_state(model, state)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


def test_a_model_built_for_its_data():
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "mse", metrics=["mae"])
    backend.build_for_data(model, batch())
    assert model.built and model.optimizer.built
    backend.build_in_fit_no_more(model)
    model.fit(*batch(), verbose=0)


def test_variables_are_made_in_the_scope_of_a_strategy():
    with backend.strategy_scope(compiled_model()):
        keras.Variable([1.0])


def test_a_callback_without_its_model():
    callback, model = keras.callbacks.Callback(), functional()
    callback.set_model(model)
    assert model not in backend.without_model(callback).values()
    assert callback.model is model


def test_a_question_for_the_model_outside_of_a_call_begins_no_call():
    layer = keras.layers.Dense(2)
    assert backend.model_of_call(layer) is layer

    class Listener(keras.layers.Layer):
        def call(self, inputs):
            heard.append(backend.model_of_call(self))
            return inputs

    heard, listener = [], Listener()
    model = keras.Sequential([keras.Input((3,)), listener])
    heard.clear()
    model(np.ones((2, 3), "float32"))
    listener(np.ones((2, 3), "float32"))
    assert heard == [model, listener]


@pytest.mark.not_on_torch("Keras takes one step a call there")
def test_a_batch_is_predicted_although_steps_share_calls():
    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    model.compile("sgd", "mse", steps_per_execution=3)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float32")
    for value in (1.0, 2.0):
        model.layers[-1].kernel.assign(np.full((6, 4), value))
        expected = value * x.sum((1, 2))[:, None].repeat(4, 1)
        np.testing.assert_allclose(backend.predict_on_batch(model, x), expected, rtol=1e-4, atol=1e-5)
    assert model.steps_per_execution == 3
    # The model's own functions are those for three steps.
    np.testing.assert_allclose(model.predict(x, batch_size=1, verbose=0), expected, rtol=1e-4, atol=1e-5)
    model.fit(x, np.zeros((5, 4)), batch_size=1, verbose=0)
    backend.drop_functions(model)
    assert model.predict_function is None and not [name for name in vars(model) if "one_step" in name]


@pytest.mark.not_on_torch("Keras takes one step a call there")
def test_a_batch_is_predicted_by_the_model_as_it_was_compiled_last():
    """A function made before would take the kernel that was trainable for the one that is."""
    model = keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(3, use_bias=False) for _ in range(2))])
    first, second = model.layers
    x, rng = np.eye(3, dtype="float32"), np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(rng.normal(size=(3, 3)))
    expected = keras.ops.convert_to_numpy(keras.ops.matmul(first.kernel, second.kernel))
    for frozen, trained in ((first, second), (second, first)):
        frozen.trainable, trained.trainable = False, True
        model.compile("sgd", "mse", steps_per_execution=3)
        np.testing.assert_allclose(backend.predict_on_batch(model, x), expected, rtol=1e-4, atol=1e-5)
