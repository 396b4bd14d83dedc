"""Turns a model with zeros into an equivalent, physically smaller model: `shrink`.

This module prunes nothing. A filter, unit or input whose weights are all zero does nothing, or adds a constant. A
filter that no later weight reads does nothing either. `shrink` removes all of them from the layers and adds constants
to the next bias, so every runtime becomes faster.

The work has five steps, each in its own file: read the graph of calls (`graph.py`), find the constant channels
(`constants.py`), the channels that matter (`liveness.py`) and the channels that can only be removed together
(`ties.py`), and build the new model (`rebuild.py`). `rules/` says how each kind of layer treats channels. At the end
both models run on random inputs (`verify.py`).
"""

import keras

from sparsity_tf.checks import check_bool, check_model
from sparsity_tf.deploy.constants import find_constants
from sparsity_tf.deploy.liveness import drop_zero_operands, plan_channels
from sparsity_tf.deploy.rebuild import rebuild
from sparsity_tf.deploy.rules import analysed_graph
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow
from sparsity_tf.deploy.verify import largest_difference, tolerance
from sparsity_tf.to_dense import to_dense


def shrink(model: keras.Model, select_inputs: bool = False) -> keras.Model:
    """Removes all units, filters and inputs of layers that do nothing or are constant. The result is a plain model.

    The smaller model predicts the same up to rounding, which is checked on random inputs. It consists of stock Keras
    layers, which keep their names, and is not compiled. Nested models are replaced by their layers, and so are layers
    of your own that only call other layers. The given model is left as it is. `to_dense` first converts a sparse model.

    Channels are removed from dense layers (`Dense`, `EinsumDense`), convolutions of all kinds, embeddings, recurrent
    layers, the heads of `MultiHeadAttention`, and all operations between them: batch normalisation, additions,
    products, concatenations, pooling, reshaping, activations, elementwise `keras.ops`. A layer of another kind
    (`LayerNormalization`, a softmax, layers of your own with weights) keeps all its channels, and so do the tensors
    that it reads. The report says so.

    If both models are trained further, they become different: batch statistics and shapes differ.

    Args:
        model: Built Keras model: functional, sequential, or subclassed if its `call` runs on symbolic tensors. Its
            exact zeros decide what is removed. It does not matter whether `to_dense` or something else made the zeros.
        select_inputs: Whether a layer that reads less than three quarters of its inputs may pick them by a gather
            (`keras.ops.take`). An example is a dense layer that reads only some pixels of a picture. This saves
            weights; it saves time only if the layer is large.

    Returns:
        A new model: functional, or sequential if `model` is and no gather is needed. Its `shrink_report` says for each
        layer what was removed, what stayed, and why. (Saving the model does not save the report.)

    Raises:
        ValueError: `model` is not a built Keras model, can't be copied from its config, is subclassed in a way that
            can't be followed, or is called with `training=True` inside.
        RuntimeError: the predictions of the smaller model differ from the given model's. This is a bug of this
            function: please report it.

    Example:

    ```python
    small = sparsity_tf.shrink(model)
    print(small.shrink_report)
    small.save("small.keras")
    ```
    """
    check_model("model", model)
    check_bool("select_inputs", select_inputs)
    dense = to_dense(model)
    graph = analysed_graph(dense)
    constants = find_constants(graph)
    dropped = drop_zero_operands(graph, constants)
    small, rows = rebuild(graph, plan_channels(graph, constants, select_inputs))
    difference = largest_difference(model, small, graph)
    if not difference <= tolerance(graph):
        raise RuntimeError(
            f"The shrunk model of {model.name!r} does not predict the same as the model: the largest difference is "
            f"{difference:.2g} of the largest output. This is a fault of `shrink`; please report it with the model."
        )
    rows += [_dropped_row(call) for call in dropped if call.is_layer and call.operation.count_params()]
    parameters = sum(row.parameters_before for row in rows), small.count_params()
    small.shrink_report = ShrinkReport(rows, parameters, _flops(model, small), difference)
    return small


def _dropped_row(call):
    kind, size = type(call.operation).__name__, call.operation.count_params()
    return ShrinkRow(call.path, kind, call.outputs[0].channels, 0, size, 0, "all that it adds is 0, so it is left out")


def _flops(model, small):
    from sparsity_tf.inspection import count_flops

    try:
        return tuple(count_flops(one).dense for one in (model, small))
    except Exception:  # A size is not known, or the model's own code does not run on a batch of one example.
        return None
