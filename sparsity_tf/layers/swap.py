"""Turns a plain Keras layer into a sparse one and back, in place: the object, its name and its weights stay.

The layer gets the sparse class of its kind, and the technique's variables are added to it, as Keras's own `enable_lora`
adds its adapters.
"""

import contextlib
import functools
from collections.abc import Callable

import keras

from sparsity_tf.backend import delete_attribute, refresh_call_signature, set_autocast, stored_variable, unlocked
from sparsity_tf.checks import check_callable, check_instance, check_layer
from sparsity_tf.layers.sparse_layer import LAYER_CLASSES, SparseLayer
from sparsity_tf.layers.technique import Technique


def make_sparse(layer: keras.layers.Layer, technique: Technique) -> None:
    """Makes one layer sparse: now if it is built, otherwise as soon as it is built.

    Args:
        layer: Layer of a stock Keras class that has a sparse form for the technique.
        technique: Configured `Technique`.

    Example:

    ```python
    layer = keras.layers.Dense(10)
    make_sparse(layer, Masked())
    ```
    """
    check_layer("layer", layer)
    check_instance("technique", technique, Technique)
    if (technique.name, type(layer)) not in LAYER_CLASSES:
        raise ValueError(f"`layer` must have a sparse form for technique {technique.name!r}. Received: layer={layer!r}")
    layer.__class__ = LAYER_CLASSES[technique.name, type(layer)]
    layer.technique = technique
    refresh_call_signature(layer)
    for part in layer.sparse_parts:
        make_sparse(part, technique)
    after_build(layer, lambda: _add_variables(layer))


def after_build(layer: keras.layers.Layer, function: Callable[[], None]) -> None:
    """Calls a function as soon as a layer is built: now, or after its `build`.

    Example:

    ```python
    layer = keras.layers.Dense(10)
    after_build(layer, lambda: print("built:", layer.kernel.shape))
    layer.build((None, 20))
    ```
    """
    check_layer("layer", layer)
    check_callable("function", function)
    if layer.built:
        function()
        return
    # This `build` builds the plain layer: Keras put it on the instance when the layer was created.
    build_plain_layer = layer.build

    # `wraps` keeps the signature. Keras reads it to find the names of the shapes that it passes.
    @functools.wraps(build_plain_layer)
    def build(*args, **kwargs):
        build_plain_layer(*args, **kwargs)
        function()

    build.without_function = build_plain_layer
    layer.build = build


def make_plain(layer: keras.layers.Layer) -> None:
    """Turns one built sparse layer into the stock Keras layer. Its weights get their values at inference.

    Example:

    ```python
    layer = MaskedDense(10)
    layer.build((None, 20))
    make_plain(layer)
    ```
    """
    check_instance("layer", layer, SparseLayer)
    values = [(weight.name, weight.value()) for weight in layer.sparse_weights + layer.bound_weights]
    _remove_technique(layer)
    for name, value in values:
        stored_variable(layer, name).assign(value)


def unmake_sparse(layer: keras.layers.Layer) -> None:
    """Turns a layer that `make_sparse` changed, in part or in whole, back into the stock Keras layer.

    Its weights keep their values. A layer that `make_sparse` did not change is left as it is.

    Example:

    ```python
    layer = keras.layers.Dense(10)
    make_sparse(layer, Masked())
    unmake_sparse(layer)
    ```
    """
    check_layer("layer", layer)
    if not isinstance(layer, SparseLayer):
        return
    for part in layer.sparse_parts:
        unmake_sparse(part)
    _remove_technique(layer)


def _remove_technique(layer):
    layer.build = getattr(layer.build, "without_function", layer.build)
    for weight in layer.sparse_weights + layer.bound_weights:
        with _names_around(layer):
            layer.technique.release(weight)
        set_autocast(weight.variable, True)
    for name in layer.technique_variables:
        delete_attribute(layer, name)
    for name in ("technique_variables", "_trained_in"):
        layer.__dict__.pop(name, None)
    if layer.technique.stochastic:
        layer.remove_seed_generator()
    del layer.technique
    layer.__class__ = layer.keras_class
    refresh_call_signature(layer)


def _add_variables(layer):
    with unlocked(layer), _names_around(layer):
        layer.build_technique()


@contextlib.contextmanager
def _names_around(layer):
    """A context in which the layer's new variables get names after its place in the model, as those that it has."""
    with contextlib.ExitStack() as scopes:
        # `add_weight` itself opens the scope of the layer.
        for name in layer.path.split("/")[:-1]:
            scopes.enter_context(keras.name_scope(name))
        yield
