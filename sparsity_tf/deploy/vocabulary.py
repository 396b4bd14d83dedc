"""Removes dead words: `shrink_vocabulary` takes the rows of zeros out of an embedding.

A word is dead if its row of the table is all zeros, as variational dropout with group variables leaves it. All dead
words get one common id, so the table keeps one row of zeros. `shrink` can't do this: it must not change the meaning of
a model's inputs, and here the ids of the words change.
"""

import keras
import numpy as np
from keras import layers, ops

from sparsity_tf.backend import functional_inside
from sparsity_tf.checks import check_model, check_string
from sparsity_tf.deploy.graph import read_graph
from sparsity_tf.deploy.liveness import Plan
from sparsity_tf.deploy.rebuild import rebuild
from sparsity_tf.deploy.rules.rule import OpaqueRule, Rebuilt, Rule, weight_value
from sparsity_tf.deploy.shrink_report import ShrinkReport
from sparsity_tf.deploy.verify import largest_difference, tolerance
from sparsity_tf.to_dense import to_dense


def shrink_vocabulary(model: keras.Model, layer: str | None = None) -> tuple[keras.Model, np.ndarray]:
    """Removes the dead words of an embedding, and says which new id each word has.

    The smaller model predicts the same for new ids as the given model for the old ones, which is checked on random ids:
    `small(new_ids[words])` equals `model(words)`. Save `new_ids` with the model: without them it can't be used.
    (`datasets.WordVocabulary.renumbered` makes the vocabulary that gives the new ids.) Words that live keep their
    order, and all dead words share the last id. With `mask_zero=True`, id 0 stays 0 and marks padding, as before.

    Call `shrink` first: it removes columns that nothing reads, so that more rows are all zeros.

    Args:
        model: Built Keras model, sparse or with zeros. It is left as it is.
        layer: Name of an `Embedding` that reads an input of the model. Default: the only one.

    Returns:
        A new plain model, with a `shrink_report`, and an int32 array `(input_dim,)`: the new id of each old id.

    Raises:
        ValueError: `model` is not a built Keras model, it has no such layer or more than one, the layer is quantized or
            has LoRA adapters, or other layers read the ids, too.
        RuntimeError: the predictions of the smaller model differ from the given model's. This is a bug of this
            function: please report it.

    Example:

    ```python
    words = keras.Input((None,), dtype="int32")
    table = np.eye(6)[:, :3]  # words 3, 4 and 5 are dead
    x = keras.layers.Embedding(6, 3, weights=[table])(words)
    language = keras.Model(words, keras.layers.LSTM(2)(x))
    small, new_ids = sparsity_tf.deploy.shrink_vocabulary(language)
    print(new_ids)  # [0 1 2 3 3 3]
    ```
    """
    check_model("model", model)
    if layer is not None:
        check_string("layer", layer)
    graph = read_graph(to_dense(model))
    embedding, words = _find_embedding(graph, layer)
    table = weight_value(embedding, "embeddings")
    new_ids, rows = _renumber(~(table != 0).any(axis=1), embedding.mask_zero)
    for call in graph.calls:
        fewer = call.operation is embedding
        call.rule = _FewerWords(call, rows, table) if fewer else OpaqueRule(call, "it does not read words")
        call.rule.graph = graph
        call.rule.set_axes()
    kept = {tensor: np.ones(tensor.channels, bool) for tensor in graph.tensors}
    small, report_rows = rebuild(graph, Plan(None, {}, {}, kept))
    difference = largest_difference(model, _with_old_ids(graph, small, words, new_ids), graph)
    if not difference <= tolerance(graph):
        raise RuntimeError(
            f"The model of {model.name!r} with fewer words does not predict the same as the model: the largest "
            f"difference is {difference:.2g} of the largest output. This is a fault of `shrink_vocabulary`; please "
            "report it with the model."
        )
    report_rows = [row for row in report_rows if row.layer == graph.calls_of(embedding)[0].path]
    removed = sum(row.parameters_before - row.parameters_after for row in report_rows)
    parameters = small.count_params()
    small.shrink_report = ShrinkReport(report_rows, (parameters + removed, parameters), None, difference)
    return small, new_ids


def _find_embedding(graph, name):
    """The layer, and the `Tensor` of the model's input that it reads."""
    inputs = [tensor for _, tensor in graph.inputs]
    found = {
        call.operation: call
        for call in graph.calls
        if type(call.operation) is layers.Embedding and call.inputs and call.inputs[0] in inputs
    }
    chosen = [one for one in found if name in (None, one.name, found[one].path)]
    if len(chosen) != 1:
        names = ", ".join(call.path for call in found.values()) or "none"
        raise ValueError(
            "`layer` must name one `Embedding` that reads an input of the model. "
            f"Found: {names}. Received: layer={name!r}"
        )
    [embedding] = chosen
    if embedding.quantization_mode or embedding.lora_enabled:
        raise ValueError(
            f"`model` must hold its embedding {embedding.name!r} as plain numbers: call `shrink_vocabulary` before "
            f"`quantize` and `enable_lora`. Received: quantization_mode={embedding.quantization_mode!r}, "
            f"lora_enabled={embedding.lora_enabled}"
        )
    words = found[embedding].inputs[0]
    others = [call for call in graph.calls if words in call.read and not _keeps_meaning(call, embedding)]
    others += [call for call in graph.calls_of(embedding) if call.inputs[0] is not words]
    if others or words in graph.outputs:
        text = others[0].path if others else "an output"
        raise ValueError(
            f"`model` must give the ids of its embedding {embedding.name!r} to no other layer, for which new ids "
            f"would mean something else. Received: a model in which {text!r} reads them"
        )
    return embedding, words


def _keeps_meaning(call, embedding):
    """Whether a call that reads the ids is the embedding, or its comparison with 0, which makes the mask of padding."""
    if call.operation is embedding:
        return True
    args, kwargs = call.arguments
    compares = type(call.operation).__name__ == "NotEqual" and not kwargs and len(args) == 2
    return embedding.mask_zero and compares and np.isscalar(args[1]) and args[1] == 0


def _renumber(dead, mask_zero):
    """`(new ids, rows)`: the new id of each old one, and for each new id an old one with the same row."""
    dead = dead.copy()
    if mask_zero:
        dead[0] = False  # Padding is no word.
    live = np.flatnonzero(~dead)
    new_ids = np.full(len(dead), len(live), np.int32)
    new_ids[live] = np.arange(len(live))
    return new_ids, np.concatenate([live, np.flatnonzero(dead)[:1]])


class _FewerWords(Rule):
    """The rule of an `Embedding` that loses rows."""

    def __init__(self, call, rows, table):
        super().__init__(call)
        self._rows, self._table = rows, table

    def set_axes(self):
        [tensor] = self.call.outputs
        tensor.set_axis(tensor.last_axis)

    def rebuilt(self, plan):
        embedding = self.call.operation
        fewer = layers.Embedding.from_config({**embedding.get_config(), "input_dim": len(self._rows)})
        note = f"{len(self._rows):,} of {len(self._table):,} rows left"
        return Rebuilt(fewer, {"embeddings": self._table[self._rows]}, note=note)


def _with_old_ids(graph, small, words, new_ids):
    """A model that reads old ids and hands the new ones to the small model."""
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for _, tensor in graph.inputs]
    given = [
        ops.take(new_ids, ops.cast(x, "int32"), axis=0) if tensor is words else x
        for x, (_, tensor) in zip(inputs, graph.inputs, strict=True)
    ]
    structure = functional_inside(small).input
    outputs = small(keras.tree.pack_sequence_as(structure, given))
    return keras.Model(keras.tree.pack_sequence_as(structure, inputs), outputs)
