"""The list of the algorithms that change masks, and what counts each promises: a new one is one line in `CASES`."""

import dataclasses
import typing

import keras
import numpy as np

from sparsity_tf import callbacks, masks, schedules

RNG = np.random.default_rng(7)
BATCH, STEPS_PER_EPOCH, EPOCHS, STEPS = 8, 6, 2, 12
# Every batch is the same, so that a run which stops inside an epoch can be continued with that epoch's first batch.
X = RNG.normal(size=(BATCH, 12)).astype("float32")
Y = RNG.normal(size=(BATCH, 5)).astype("float32")
BEGIN, END, FREQUENCY = 2, 8, 2
# When masks may change: after these steps.
UPDATES = (2, 4, 6, 8)
WINDOW = dict(begin_step=BEGIN, end_step=END, frequency=FREQUENCY)


def sgd():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def adam():
    return keras.optimizers.Adam(0.01)


# Counts that algorithms promise: functions of (algorithm, sizes, counts now, step).


def each_is(sparsity):
    """Of each weight's n entries floor(s n) are zero."""
    return lambda algorithm, sizes, counts, step: [n - masks.number_of_zeros(sparsity, n) for n in sizes] == counts


def total_is(sparsity):
    """Of all n entries floor(s n) of each weight are zero, wherever they are."""
    return lambda algorithm, sizes, counts, step: (
        sum(n - masks.number_of_zeros(sparsity, n) for n in sizes) == sum(counts)
    )


def all_together(sparsity):
    """Of the n entries of all weights floor(s n) are zero."""
    return lambda algorithm, sizes, counts, step: (
        sum(sizes) - masks.number_of_zeros(sparsity, sum(sizes)) == sum(counts)
    )


def reached(step):
    """The last update at or before a step, or `None`."""
    return max((update for update in UPDATES if update <= step), default=None)


def on_schedule(algorithm, sizes, counts, step):
    """Each weight keeps floor((1 - s(t)) n) from the update at t on."""
    update = reached(step)
    sparsity = 0.0 if update is None else algorithm.sparsity_at(update)
    return [masks.number_to_keep(sparsity, n) for n in sizes] == counts


def all_on_schedule(algorithm, sizes, counts, step):
    """All weights together keep floor((1 - s(t)) n)."""
    update = reached(step)
    sparsity = 0.0 if update is None else algorithm.sparsity_at(update)
    return masks.number_to_keep(sparsity, sum(sizes)) == sum(counts)


def moving_on_schedule(algorithm, sizes, counts, step):
    """As `all_on_schedule`, but sparse from the start."""
    sparsity = algorithm.sparsity_at(reached(step) or 0)
    return masks.number_to_keep(sparsity, sum(sizes)) == sum(counts)


MUTATIONS = schedules.Piecewise((4, 8), (0.4, 0.2, 0.0))


def with_surplus(sparsity):
    """As `each_is`, and as many more as the drop fraction of the last update says."""

    def promised(algorithm, sizes, counts, step):
        bounds = [n - masks.number_of_zeros(sparsity, n) for n in sizes]
        return [k + masks.number_of_zeros(MUTATIONS(reached(step) or 0), k) for k in bounds] == counts

    return promised


def below_by_less_than_units(algorithm, sizes, counts, step):
    """Of floor((1 - s) n) entries less than one for each unit is missing, because all units have the same number."""
    budgets = [masks.number_to_keep(0.7, n) for n in sizes]
    return all(b - units < c <= b for b, c, units in zip(budgets, counts, (16, 5), strict=True))


def in_rounds(algorithm, sizes, counts, step):
    """Each weight keeps floor((1 - s) n), s the sparsity after the rounds done."""
    sparsity = algorithm.sparsity_after(int(algorithm.recall()["rounds"]))
    return [masks.number_to_keep(sparsity, n) for n in sizes] == counts


def near_the_budget(algorithm, sizes, counts, step):
    """Sparse momentum holds its budget by a correction: within a few weights."""
    return abs(sum(counts) - algorithm.recall()["baseline"]) <= 5


@dataclasses.dataclass(frozen=True)
class Case:
    """An algorithm, the counts it promises, an optimizer, and whether the seed matters and masks move."""

    make: typing.Callable
    counts: typing.Callable
    optimizer: typing.Callable = sgd
    seeded: bool = True
    moves: bool = True


def gmp(**options):
    return lambda directory=None, seed=0: callbacks.MagnitudePruning(0.8, **WINDOW, seed=seed, **options)


def drop_and_grow(algorithm, **options):
    return lambda directory=None, seed=0: algorithm(0.7, seed=seed, **{**WINDOW, "distribution": "uniform", **options})


def one_shot(algorithm, **options):
    return lambda directory=None, seed=0: algorithm(0.7, data=(X, Y), seed=seed, **options)


def tickets(directory=None, seed=0, **options):
    snapshot = None if directory is None else str(directory / "initial.npz")
    return callbacks.IterativePruning(0.8, rounds=2, steps_per_round=5, rewind_step=2, snapshot=snapshot, **options)


CASES = {
    "magnitude": Case(gmp(), on_schedule, seeded=False),
    "magnitude-linear-adam": Case(gmp(schedule="linear"), on_schedule, adam, seeded=False),
    "magnitude-global": Case(gmp(scope="global"), all_on_schedule, seeded=False),
    "random": Case(lambda d=None, seed=0: callbacks.RandomPruning(0.8, **WINDOW, seed=seed), on_schedule),
    "random-independent": Case(
        lambda d=None, seed=0: callbacks.RandomPruning(0.8, **WINDOW, cumulative=False, seed=seed), on_schedule
    ),
    "static": Case(lambda d=None, seed=0: callbacks.StaticSparsity(0.7, seed=seed), each_is(0.7), moves=False),
    "set": Case(drop_and_grow(callbacks.SET), each_is(0.7)),
    "rigl": Case(drop_and_grow(callbacks.RigL), each_is(0.7)),
    "rigl-adam": Case(drop_and_grow(callbacks.RigL, drop_fraction=0.5), each_is(0.7), adam),
    "drop-and-grow": Case(
        drop_and_grow(callbacks.DropAndGrow, grow="momentum", redistribution="magnitude"), total_is(0.7)
    ),
    "sparse-momentum": Case(drop_and_grow(callbacks.SparseMomentum), near_the_budget),
    "sparse-momentum-variance": Case(
        drop_and_grow(callbacks.SparseMomentum, drop="magnitude_variance", redistribution="variance"),
        near_the_budget,
        adam,
    ),
    "dsr": Case(
        drop_and_grow(callbacks.DynamicSparseReparameterization, prune_target=20, initial_threshold=0.05),
        lambda algorithm, sizes, counts, step: sum(int(0.3 * n + 0.1) for n in sizes) == sum(counts),
    ),
    # A learning rate of 0.1 and this temperature: noise of 0.014, so that many weights change their sign.
    "deepr": Case(drop_and_grow(callbacks.DeepRewiring, l1=1e-3, temperature=1e-3), each_is(0.7)),
    # The prior promises no count. With this temperature, entries begin to live at every update.
    "deepr-soft": Case(
        drop_and_grow(callbacks.DeepRewiring, l1=0.2, temperature=1e-3, soft=True),
        lambda algorithm, sizes, counts, step: all(0 < count < size for count, size in zip(counts, sizes, strict=True)),
    ),
    "narang": Case(
        lambda d=None, seed=0: callbacks.NarangPruning(0.3, ramp_step=5, seed=seed, **WINDOW),
        # What the threshold leaves: all of it up to `begin_step`, less from then on.
        lambda algorithm, sizes, counts, step: (sizes == counts) == (step < BEGIN + FREQUENCY),
        seeded=False,
    ),
    "snip": Case(one_shot(callbacks.SNIP), all_together(0.7), seeded=False, moves=False),
    "grasp": Case(one_shot(callbacks.GraSP), all_together(0.7), seeded=False, moves=False),
    "acdc": Case(
        lambda d=None, seed=0: callbacks.ACDC(0.8, **WINDOW, sparse_period=1, dense_period=1),
        all_on_schedule,
        adam,
        False,
    ),
    "granet": Case(drop_and_grow(callbacks.GraNet, pruning_end_step=6), moving_on_schedule),
    "mest": Case(
        drop_and_grow(callbacks.MEST, gradient_weight=0.1, drop_fraction=MUTATIONS, soft=True), with_surplus(0.7)
    ),
    "srigl": Case(drop_and_grow(callbacks.SRigL, ablation=0.9), below_by_less_than_units),
    "lottery": Case(tickets, in_rounds, seeded=False),
}
