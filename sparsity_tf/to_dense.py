"""Converts a sparse model to a plain dense Keras model whose weights hold the zeros."""

import contextlib
import inspect
import tempfile

import keras

from sparsity_tf.backend import own_variables
from sparsity_tf.checks import check_built
from sparsity_tf.inspection.tracing import call_symbolically
from sparsity_tf.layers import SparseLayer, composite, flatten_layers, lora, make_plain


def to_dense(model: keras.layers.Layer) -> keras.layers.Layer:
    """Converts a model to stock Keras layers that hold the weights of inference, exact zeros included.

    The model itself stays as it is. The result makes the same predictions, is not compiled, and can be exported at
    once. Its config has no sparse layer, so it loads where only Keras is installed. There are exceptions, because Keras
    lacks these layers: `FastGRNN` (from `STRFastGRNN`), `SparseActivation`, `SparseBatchNormalization` and the layers
    of the Transformer stay layers of this package.

    (If the code of a subclassed model itself creates sparse layers, the result is a dense model in memory only. Its
    file would run the same code, so save its weights rather than the model.)

    Args:
        model: Built Keras model or layer, with or without sparse layers. If it is a subclassed model, the whole model
            must have been passed to `sparsify`, with `where` for a part.

    Returns:
        A new model (or layer).

    Raises:
        ValueError: `model` is not a built Keras model or layer, or Keras can't make a copy of it from its config.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.9)
    dense = sparsity_tf.to_dense(model)
    dense.save("dense.keras")
    ```
    """
    check_built("model", model)
    dense = _copy(model)
    for layer in flatten_layers(dense):
        if isinstance(layer, SparseLayer):
            make_plain(layer)
    composite.forget_sparse_sublayers(dense)
    if isinstance(dense, keras.Model):
        # Keras exports a model to ONNX only after a call. If the model's code needs real data, the user must call it.
        with contextlib.suppress(Exception):
            call_symbolically(dense)
    return dense


def _copy(model):
    try:
        with _named_lambdas(model) as functions:
            config = keras.saving.serialize_keras_object(model)
            config.pop("compile_config", None)
            copy = keras.saving.deserialize_keras_object(config, custom_objects=functions)
    except Exception as error:  # The model's own code runs here and may raise anything.
        # Keras's message repeats the whole config, once for each layer around the layer that failed.
        cause = str(error).rpartition("Exception encountered: ")[2].partition("Full object config")[0].strip()
        raise ValueError(_refusal(model, cause)) from error
    if not copy.built:
        raise ValueError(_refusal(model, "the copy is not built."))
    _copy_state(model, copy)
    return copy


@contextlib.contextmanager
def _named_lambdas(model):
    """Gives the lambdas of layers temporary names, by which the copy finds them.

    Otherwise Keras would write the bytecode of a lambda into the config and refuse to read it back. Even if it were
    read, the code would not find the global names that it uses.
    """
    layers = flatten_layers(model)
    holders = [*layers, *(layer.technique for layer in layers if isinstance(layer, SparseLayer))]
    values = [value for holder in holders for value in vars(holder).values()]
    functions = {f"lambda_{id(f)}": f for f in values if inspect.isfunction(f) and f.__name__ == "<lambda>"}
    try:
        for name, function in functions.items():
            function.__name__ = name
        yield functions
    finally:
        for function in functions.values():
            function.__name__ = "<lambda>"


def _refusal(model, cause):
    plain_class = getattr(type(model), "plain_class", type(model))
    text = f"Model {model.name!r} can't be copied from its own config: {cause}"
    if plain_class.__module__.partition(".")[0] == "keras":
        return text
    return (
        f"{text} Give {plain_class.__name__} a `get_config` and a `build`, and register it with "
        "`keras.saving.register_keras_serializable`."
    )


def _copy_state(model, copy):
    """Copies a model's weights to its copy, and everything else that Keras would save: vocabularies, statistics."""
    layers, copies = flatten_layers(model), flatten_layers(copy)
    for one, other in zip(layers, copies, strict=False):
        if isinstance(one, SparseLayer) and type(other) is one.keras_class:
            raise ValueError(
                f"The config of model {model.name!r} does not say that layer {one.path!r} is sparse. Was `sparsify` "
                "called on a part of the model? Call it on the whole model, and select the part with `where`."
            )
    for one, other in zip(layers, copies, strict=False):
        # The config of an attention does not say that its projections have adapters.
        if type(one) is type(other):
            lora.enable_as(other, one)
    if [_shapes(layer) for layer in layers] != [_shapes(layer) for layer in copies]:
        raise ValueError(_refusal(model, "the copy has other variables than the model."))
    for one, other in zip(layers, copies, strict=True):
        state = {}
        one.save_own_variables(state)
        # Pass arrays, as a file would give.
        other.load_own_variables({name: keras.ops.convert_to_numpy(value) for name, value in state.items()})
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)
    # This also copies the factors of LoRA, which Keras's files hold merged into the kernel.
    copy.set_weights(model.get_weights())


def _shapes(layer):
    return [tuple(variable.shape) for variable in own_variables(layer)]
