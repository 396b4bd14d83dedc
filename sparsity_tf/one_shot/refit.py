"""Prunes the layers of a model one after the other, and adapts the weights that are left to each layer's inputs.

Each layer is measured on the model in which the layers before it are pruned already, as SparseGPT's authors do.
"""

import numpy as np
from keras import ops

from sparsity_tf.callbacks.base.weight_view import read_mask
from sparsity_tf.inspection.forward import whole_batches
from sparsity_tf.masks import number_to_keep, structures
from sparsity_tf.masks.matrices import as_matrix, from_matrix
from sparsity_tf.one_shot import layer_hessian, optimal_brain_surgeon, sparse_gpt

SOLVERS = {"obs": optimal_brain_surgeon.prune, "sparsegpt": sparse_gpt.prune}
# Added to the diagonal of a Hessian, times the mean of the diagonal: SparseGPT's value. It also makes the Hessian of
# inputs that are always zero, or always equal, invertible.
DAMPING = 0.01


def check(weights, by):
    """Raises a ValueError if a weight has no Hessian or a structure that the methods don't know."""
    for weight in weights:
        reason = layer_hessian.problem(weight)
        if reason:
            raise ValueError(
                f"`by` {by!r} can't prune {weight.path!r}: {reason}. Leave the weight out with `where`. "
                f"Received: by={by!r}"
            )
        kind = structures.get(weight.technique.structure)
        if kind.spec is not None and not isinstance(kind, structures.NM):
            raise ValueError(
                f"`structure` must be None or N:M with by={by!r}. Received: structure={kind.spec!r} of {weight.path!r}"
            )


def prune(model, weights, targets, by, scope, data):
    """Prunes weights with new values for the others, and writes both into the model.

    Args:
        model: The model.
        weights: List of masked `SparseWeight`s, all of which `check` accepts.
        targets: List of their sparsities.
        by: Name in `SOLVERS`.
        scope: "layer", or "output" for equal counts in each output unit.
        data: As for `forward.batches_of`.

    Returns:
        List of the new masks, bool arrays in the order of `weights`.

    Raises:
        ValueError: `data` can't be used. The model is then as it was before.
    """
    data = list(whole_batches(data))
    goals = {id(weight): target for weight, target in zip(weights, targets, strict=True)}
    before = [(weight, np.array(ops.convert_to_numpy(weight.variable)), read_mask(weight)) for weight in weights]
    try:
        for weight in layer_hessian.in_order_of_use(model, weights, data):
            _prune_one(model, weight, goals[id(weight)], SOLVERS[by], scope == "output", data)
        return [read_mask(weight) for weight in weights]
    except BaseException:
        for weight, value, mask in before:
            weight.assign_mask(mask)
            weight.variable.assign(value)
        raise


def _prune_one(model, weight, sparsity, solver, per_output, data):
    axes, shape = weight.filter_axes, tuple(weight.shape)
    hessian = layer_hessian.hessian(model, weight, data)
    hessian[np.diag_indices_from(hessian)] += DAMPING * np.mean(np.diagonal(hessian))
    alive = as_matrix(read_mask(weight), axes)
    values = as_matrix(np.asarray(ops.convert_to_numpy(weight.value()), "float64"), axes)
    if bad := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(f"{weight.path!r} must be finite. Received: {bad} of {values.size} weights are not")
    inputs, outputs = values.shape
    kind, group, count = structures.get(weight.technique.structure), None, None
    if isinstance(kind, structures.NM):
        length = shape[kind.axis(len(shape), axes)]
        per_run = -(-length // kind.m)
        entry = np.arange(inputs)
        group = entry // length * per_run + entry % length // kind.m, kind.n
    else:
        size = inputs if per_output else inputs * outputs
        count = size - number_to_keep(sparsity, size)
    new, kept = solver(values, hessian, count, alive, per_output, group)
    weight.assign_mask(from_matrix(kept, shape, axes))
    weight.variable.assign(from_matrix(new, shape, axes).astype("float32"))
