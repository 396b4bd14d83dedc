"""Layers that create their own sublayers, remembered as sparse when saved.

A functional model's config lists its layers, so a sparse one among them is saved and loaded as such. The config of
`keras.layers.MultiHeadAttention`, or of a subclassed model, says nothing about the sublayers that it creates: loaded,
they would be plain again. Here such a layer gets a subclass, made on the spot, whose config also lists which sublayers
are sparse and how; loading makes them sparse again before the weights arrive.
"""

import functools

import keras

from sparsity_tf.backend import sublayers, sublayers_below
from sparsity_tf.layers import TECHNIQUES, SparseLayer, after_build, flatten_layers, make_sparse


def remember_sparse_sublayers(layer):
    """Gives every layer below (and including) `layer` whose config hides sparse sublayers a config that lists them."""
    if isinstance(layer, SparseLayer):
        return
    if _config_lists_sublayers(layer):
        for sublayer in sublayers(layer):
            remember_sparse_sublayers(sublayer)
    elif any(isinstance(sublayer, SparseLayer) for sublayer in sublayers_below(layer)):
        _become_composite(layer)


def forget_sparse_sublayers(layer):
    """The inverse, once the sublayers are plain again."""
    for sublayer in flatten_layers(layer):
        if isinstance(sublayer, SparseComposite):
            sublayer.__class__ = type(sublayer).plain_class


@keras.saving.register_keras_serializable("sparsity_tf", "SparseComposite")
class SparseComposite:
    """Mixin of layers whose config lists the sparse ones among the sublayers that they create.

    Its subclasses are made by `sparsify`, one for each plain class, and saved under the one registered name, so that
    they can be loaded in a process where they were never made.
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
        # Models without a `build` of their own are built by a symbolic call.
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
        self._to_restore = ()


def _config_lists_sublayers(layer):
    """True for Keras's own containers: functional and sequential models, wrappers, RNNs of a given cell."""
    if type(layer).__module__.partition(".")[0] != "keras":
        return False
    # `LSTM` and the like are RNNs, too, but make their cell themselves.
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
    """Sublayers are identified by their position: automatic names differ from process to process."""
    return tuple(
        {
            "index": index,
            "name": sublayer.name,
            "kind": sublayer.keras_class.__name__,
            "technique": sublayer.technique.name,
            "options": sublayer.technique.get_config(),
        }
        for index, sublayer in enumerate(sublayers_below(layer))
        if isinstance(sublayer, SparseLayer)
    )
