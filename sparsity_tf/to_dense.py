"""Sparse model -> plain dense Keras model, the zeros baked in."""

import keras

from sparsity_tf import composite
from sparsity_tf.layers import SparseLayer, flatten_layers, make_plain


def to_dense(model):
    """Converts a model to stock Keras layers that hold the weights of inference, exact zeros included.

    The model itself is left as it is. The result predicts the same, has no class of this package in its config, and
    loads where only Keras is installed. It is not compiled.

    (A subclassed model whose own code creates sparse layers gives a dense model in memory; its config is that code, so
    save its weights rather than the model.)

    Args:
        model: Built Keras model or layer, with or without sparse layers.

    Returns:
        A new model (or layer).

    Raises:
        ValueError: `model` is not a built Keras model or layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: model={model!r} ({type(model).__name__})")
    if not model.built:
        raise ValueError(f"`model` must be built before it is converted. Received: the unbuilt model {model.name!r}")
    dense = _copy(model)
    for layer in flatten_layers(dense):
        if isinstance(layer, SparseLayer):
            make_plain(layer)
    composite.forget_sparse_sublayers(dense)
    return dense


def _copy(model):
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    plain_class = getattr(type(model), "plain_class", type(model))
    advice = (
        f"Model {model.name!r} can't be copied from its own config. Give {plain_class.__name__} a `get_config` and a "
        "`build`, and register it with `keras.saving.register_keras_serializable`."
    )
    try:
        copy = keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        raise ValueError(advice) from error
    if not copy.built:
        raise ValueError(advice)
    copy.set_weights(model.get_weights())
    return copy
