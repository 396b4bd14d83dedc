"""Saves and loads layers that create their own sublayers, so that the sparse sublayers stay sparse.

A functional model's config lists its layers, so a sparse layer in it is saved and loaded as a sparse layer. The config
of `keras.layers.MultiHeadAttention`, or of a subclassed model, says nothing about the sublayers that it creates: after
loading they would be plain. This module gives such a layer a new subclass whose config also lists which sublayers are
sparse, with their techniques. Loading makes these sublayers sparse again before it reads the weights.
"""

import functools

import keras

from sparsity_tf.backend import sublayers, sublayers_below
from sparsity_tf.layers import TECHNIQUES, SparseLayer, after_build, flatten_layers, make_sparse


def remember_sparse_sublayers(layer):
    """Makes `layer`, and all layers below it, list their sparse sublayers in the config if it omits them."""
    if isinstance(layer, SparseLayer):
        return
    if _config_lists_sublayers(layer):
        for sublayer in sublayers(layer):
            remember_sparse_sublayers(sublayer)
    elif any(isinstance(sublayer, SparseLayer) for sublayer in sublayers_below(layer)):
        _become_composite(layer)


def forget_sparse_sublayers(layer):
    """Undoes `remember_sparse_sublayers` once the sublayers are plain again."""
    for sublayer in flatten_layers(layer):
        if isinstance(sublayer, SparseComposite):
            sublayer.__class__ = type(sublayer).plain_class


@keras.saving.register_keras_serializable("sparsity_tf", "SparseComposite")
class SparseComposite:
    """Mixin for layers whose config lists the sparse sublayers that they create.

    `sparsify` makes its subclasses, one for each plain class. All are saved under the same registered name, so a
    process that has not made them can load them.
    """

    plain_class = None

    def get_config(self):
        sparse_class = type(self)
        self.__class__ = sparse_class.plain_class
        try:
            plain = keras.saving.serialize_keras_object(self)
        finally:
            self.__class__ = sparse_class
        names = {key: plain[key] for key in ("module", "class_name", "registered_name")}
        return {**plain["config"], "plain_class": names, "sparse_sublayers": _describe_sparse_sublayers(self)}

    def build_from_config(self, config):
        super().build_from_config(config)
        # Keras builds a model without a `build` method by a symbolic call, so the sublayers exist only now.
        self._restore_sparse_sublayers()

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        names, description = config.pop("plain_class"), config.pop("sparse_sublayers")
        layer = keras.saving.deserialize_keras_object({**names, "config": config})
        _become_composite(layer)
        # A tuple: Keras would track the contents of a list.
        layer._to_restore = tuple(description)
        after_build(layer, layer._restore_sparse_sublayers)
        return layer

    def _restore_sparse_sublayers(self):
        below = sublayers_below(self)
        for entry in getattr(self, "_to_restore", ()):
            index, kind = entry["index"], entry["kind"]
            sublayer = below[index] if index < len(below) else None
            if isinstance(sublayer, SparseLayer):
                continue
            if type(sublayer).__name__ != kind:
                raise ValueError(
                    f"Layer {self.name!r} was saved with a sparse {kind} as sublayer number {index}. Found: "
                    f"{type(sublayer).__name__}. Has the code of {type(self).plain_class.__name__} changed?"
                )
            make_sparse(sublayer, TECHNIQUES[entry["technique"]].from_config(entry["options"]))
            if entry.get("lora_rank"):
                sublayer.enable_lora(entry["lora_rank"], lora_alpha=entry["lora_alpha"])
        self._to_restore = ()


def _config_lists_sublayers(layer):
    """Whether a layer is a Keras container: a functional or sequential model, a wrapper, an RNN of a given cell."""
    if type(layer).__module__.partition(".")[0] != "keras":
        return False
    # `LSTM` and similar layers are RNNs, too, but create their cell themselves.
    containers = (keras.Model, keras.layers.Wrapper, keras.layers.StackedRNNCells)
    return isinstance(layer, containers) or type(layer) is keras.layers.RNN


def _become_composite(layer):
    plain_class = type(layer).plain_class if isinstance(layer, SparseComposite) else type(layer)
    layer.__class__ = _composite_class(plain_class)


@functools.cache
def _composite_class(plain_class):
    cls = type(f"Sparse{plain_class.__name__}", (SparseComposite, plain_class), {"plain_class": plain_class})
    cls.__doc__ = f"`{plain_class.__name__}` with sparse sublayers."
    return keras.saving.register_keras_serializable("sparsity_tf", "SparseComposite")(cls)


def _describe_sparse_sublayers(layer):
    """Describes the sparse sublayers by their position, because automatic names differ from process to process."""
    return tuple(
        {
            "index": index,
            "name": sublayer.name,
            "kind": sublayer.keras_class.__name__,
            "technique": sublayer.technique.name,
            "options": sublayer.technique.get_config(),
            **_describe_adapter(sublayer),
        }
        for index, sublayer in enumerate(sublayers_below(layer))
        if isinstance(sublayer, SparseLayer)
    )


def _describe_adapter(layer):
    """The rank and scale of a LoRA adapter. A file without adapters holds no such entries."""
    if not getattr(layer, "lora_enabled", False):
        return {}
    return {"lora_rank": layer.lora_rank, "lora_alpha": layer.lora_alpha}
