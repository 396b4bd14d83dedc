"""A model with zeros -> an equal, physically smaller one: `shrink`.

Nothing is pruned here. A filter, unit or input whose weights are all zero does nothing, or adds a constant; a filter
that no later weight reads does nothing either. All of them are removed from the layers, constants go into the next
bias, and every runtime is faster by it.

The work has five steps, each a file: the graph of calls (`graph.py`), which channels are constant (`constants.py`),
which matter (`liveness.py`), which can only go together (`ties.py`), the new model (`rebuild.py`). What a kind of layer
does with channels is said in `rules/`. At the end both models are run on random inputs (`verify.py`).
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
    """Removes all units, filters and inputs of layers that do nothing, and constants: an equal, smaller, plain model.

    The result predicts the same up to rounding, which is checked on random inputs. It is built of stock Keras layers,
    is not compiled, and its layers keep their names. Nested models are dissolved into it, and so are layers of your own
    that only call other layers. The given model is left as it is. A sparse model is converted by `to_dense` first.

    Channels go from dense layers (`Dense`, `EinsumDense`), convolutions of all kinds, embeddings, recurrent layers,
    the heads of `MultiHeadAttention`, and from all that is between them: batch normalisation, additions, products,
    concatenations, pooling, reshaping, activations, elementwise `keras.ops`. A layer of another kind keeps all its
    channels, and so do the tensors that it reads (`LayerNormalization`, a softmax, layers of your own with weights);
    the report says so.

    Trained further, the result is another model than the given one: batch statistics and the shapes differ.

    Args:
        model: Built Keras model: functional, sequential, or subclassed if its `call` runs on symbolic tensors. Its
            weights decide what goes: exact zeros, as `to_dense` makes them, or any others.
        select_inputs: Whether a layer that reads less than three quarters of its inputs may pick them by a gather
            (`keras.ops.take`), such as the pixels of a picture that a dense layer still reads. It saves weights, and
            time only where the layer is large.

    Returns:
        A new model: functional, or sequential if `model` is and no gather is needed. Its `shrink_report` says for each
        layer what went, and what stayed and why. (Saving the model does not save the report.)

    Raises:
        ValueError: `model` is not a built Keras model, can't be copied from its config, is subclassed in a way that
            can't be followed, or is called with `training=True` inside.
        RuntimeError: the smaller model predicts otherwise than the given one. This is a fault of this function: please
            report it.

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
            f"The shrunk model of {model.name!r} predicts otherwise than the model: the largest difference is "
            f"{difference:.2g} of the largest output. This is a fault of `shrink`; please report it with the model."
        )
    rows += [_dropped_row(call) for call in dropped if call.is_layer and call.operation.count_params()]
    parameters = sum(row.parameters_before for row in rows), small.count_params()
    small.shrink_report = ShrinkReport(rows, parameters, _flops(model, small), difference)
    return small


def _dropped_row(call):
    kind, size = type(call.operation).__name__, call.operation.count_params()
    return ShrinkRow(call.path, kind, call.outputs[0].channels, 0, size, 0, "adds nothing but 0, so it is not called")


def _flops(model, small):
    from sparsity_tf.inspection import count_flops

    try:
        return tuple(count_flops(one).dense for one in (model, small))
    except ValueError:  # An unknown shape.
        return None
