"""Optimal brain surgeon for one layer: removes weights one by one; the others move so that its outputs change least.

Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv 2208.11580 (ExactOBS). The layer's problem is
min ||X W - X V||^2 over the sparse V. Each output unit, a column w of W, has a problem of its own with the same Hessian
H = 2 X^T X. (A common factor of H changes no mask and no weight.) If weight p is removed, the loss rises by half of

    w_p^2 / [H^-1]_pp,

and the best change of the other weights is -(w_p / [H^-1]_pp) H^-1_:p. Then row and column p of H^-1 are eliminated.
"""

import numpy as np


def prune(weights, hessian, count, alive=None, per_output=False, group=None):
    """Prunes a layer's matrix of weights, and adapts the weights that are left.

    Each output unit is first pruned to the end, which gives the loss of each removal. Then the `count` removals of the
    lowest loss are made; in each unit they are the first ones of its order. Time grows as inputs^3 x outputs.

    Args:
        weights: Float array, (inputs, outputs).
        hessian: Float array, (inputs, inputs): X^T X times any factor, positive definite.
        count: Number of zeros of the result, entries that were dead before included; with `per_output` in each column.
            Ignored with `group`.
        alive: Bool array, the shape of `weights`; dead entries stay zero. Default: all live.
        per_output: Whether each column gets `count` zeros.
        group: Tuple (array of the number of each input's group, number of entries that live in a full group), for N:M.

    Returns:
        Tuple: the new weights, float64, and a bool array, the entries that live.

    Example:

    >>> new, kept = prune(np.array([[1.0], [1.0], [0.5]]), np.array([[4.0, 2, 0], [2, 3, 1], [0, 1, 2]]), 1)
    >>> new.ravel().tolist(), kept.ravel().tolist()
    ([0.875, 1.25, 0.0], [True, True, False])
    """
    weights = np.asarray(weights, "float64")
    alive = np.ones(weights.shape, bool) if alive is None else np.asarray(alive, bool)
    inverse = np.linalg.inv(np.asarray(hessian, "float64"))
    limit = count if per_output else None
    # Room for the products of all columns: a new array for each product would cost more than the product.
    room = np.empty(inverse.shape)
    columns = zip(weights.T, alive.T, strict=True)
    orders = [_removals(column, inverse, live, limit, group, room) for column, live in columns]
    kept = alive.copy()
    if group is None and not per_output:
        numbers = _numbers_of_cheapest(orders, count - np.count_nonzero(~alive))
    else:
        numbers = [len(order) for order, _ in orders]
    for column, ((order, _), number) in enumerate(zip(orders, numbers, strict=True)):
        kept[order[:number], column] = False
    return refit(weights, hessian, kept), kept


def refit(weights, hessian, kept):
    """The weights on the entries `kept` that change the layer's outputs least: a least squares problem a column.

    These are the weights that removing entries one by one leads to, in whatever order.
    """
    weights, hessian = np.asarray(weights, "float64"), np.asarray(hessian, "float64")
    wanted, new = hessian @ weights, np.zeros(weights.shape)
    for column in range(weights.shape[1]):
        rows = np.flatnonzero(kept[:, column])
        if len(rows) == len(weights):
            new[:, column] = weights[:, column]
        elif len(rows):
            new[rows, column] = np.linalg.solve(hessian[np.ix_(rows, rows)], wanted[rows, column])
    return new


def _removals(weights, inverse, alive, limit, group, room):
    """The order in which the weights of one output unit are removed, and the loss of each removal.

    Entries that are dead at the start are eliminated first. They are not in the result. Weights removed are swapped to
    the end of the arrays, so that the work shrinks with the number of weights left.
    """
    inverse, weights, index = inverse.copy(), weights.copy(), np.arange(len(weights))
    left = len(weights)

    def remove(place):
        nonlocal left
        pivot, loss = inverse[place, place], weights[place] ** 2 / inverse[place, place]
        column = inverse[:left, place].copy()
        # An input that is zero in all examples has no part in the other weights.
        if np.count_nonzero(column) > 1:
            weights[:left] -= (weights[place] / pivot) * column
            inverse[:left, :left] -= np.multiply.outer(column, column / pivot, out=room[:left, :left])
        last = left - 1
        inverse[[place, last], :left] = inverse[[last, place], :left]
        inverse[:left, [place, last]] = inverse[:left, [last, place]]
        weights[[place, last]], index[[place, last]] = weights[[last, place]], index[[last, place]]
        left = last
        return loss

    for entry in np.flatnonzero(~alive):
        remove(int(np.flatnonzero(index == entry)[0]))
    order, losses = [], []
    closable = None if group is None else _closable(group, alive)
    while left and (limit is None or len(weights) - left < limit):
        diagonal = np.diagonal(inverse)[:left]
        scores = weights[:left] ** 2 / diagonal
        if closable is not None:
            open_ones = closable[group[0][index[:left]]] > 0
            if not open_ones.any():
                break
            scores = np.where(open_ones, scores, np.inf)
        # Of equal scores the first entry is removed.
        lowest = np.flatnonzero(scores == scores.min())
        place = int(lowest[np.argmin(index[lowest])])
        entry = int(index[place])
        losses.append(remove(place))
        order.append(entry)
        if closable is not None:
            closable[group[0][entry]] -= 1
    return np.array(order, int), np.array(losses)


def _closable(group, alive):
    """The number of entries that each group still has to lose."""
    numbers, live = group
    sizes = np.bincount(numbers[alive], minlength=numbers.max() + 1)
    return np.maximum(sizes - live, 0)


def _numbers_of_cheapest(orders, count):
    """How many removals each column makes if the `count` cheapest of all are made; of equal losses the first."""
    losses = np.concatenate([loss for _, loss in orders])
    columns = np.repeat(np.arange(len(orders)), [len(loss) for _, loss in orders])
    chosen = np.argsort(losses, kind="stable")[: max(count, 0)]
    return np.bincount(columns[chosen], minlength=len(orders))
