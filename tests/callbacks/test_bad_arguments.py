"""Bad input is a ValueError that names the argument and its value, before any training."""

import inspect
import itertools

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks as c
from sparsity_tf import layers, sparsify
from tests.callbacks import algorithm_checks as checks

DATA = (checks.X, checks.Y)
GMP, RIGL, SNFS, DSR = c.MagnitudePruning, c.RigL, c.SparseMomentum, c.DynamicSparseReparameterization


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: GMP(1.0), r"`final_sparsity` must be a number in \[0, 1\).*final_sparsity=1.0"),
        (lambda: GMP(-0.1), "final_sparsity=-0.1"),
        (lambda: GMP(float("nan")), "final_sparsity=nan"),
        (lambda: GMP("0.5"), "final_sparsity='0.5'"),
        (lambda: GMP(), "final_sparsity=None"),
        (lambda: GMP(True), "final_sparsity=True"),
        (lambda: GMP(0.5, initial_sparsity=0.6), "initial_sparsity=0.6, final_sparsity=0.5"),
        (
            lambda: GMP(sparsity=0.5, initial_sparsity=0.6),
            "`initial_sparsity` must not exceed `sparsity`. Received: initial_sparsity=0.6, sparsity=0.5",
        ),
        (lambda: GMP(0.5, 10, 10), "`begin_step` must be smaller than `end_step`.*begin_step=10, end_step=10"),
        (lambda: GMP(0.5, -1, 10), "`begin_step` must be an integer of at least 0.*begin_step=-1"),
        (lambda: GMP(0.5, 0, 1.5), "end_step=1.5"),
        (lambda: GMP(0.5, frequency=0), "`frequency` must be an integer of at least 1.*frequency=0"),
        (lambda: GMP(0.5, frequency="day"), "frequency='day'"),
        (lambda: GMP(0.5, schedule="square"), "`schedule` must be .*schedule='square'"),
        (lambda: GMP(0.5, scope="model"), "`scope` must be one of .*scope='model'"),
        (lambda: GMP(0.5, scope="global", distribution="erk"), "`distribution` .*distribution='erk'"),
        (lambda: GMP(0.5, structure="4:2"), "N < M.*structure='4:2'"),
        (lambda: GMP(0.5, structure="0:4"), "structure='0:4'"),
        (lambda: GMP(0.5, structure="row"), "`structure` must be .*structure='row'"),
        (lambda: GMP(0.5, structure="0x2"), "sizes of a block"),
        (lambda: GMP(0.5, seed=-1), "`seed` .*seed=-1"),
        (lambda: GMP(0.5, seed=None), "seed=None"),
        (lambda: c.RandomPruning(1.5), "final_sparsity=1.5"),
        (lambda: RIGL(1.0), "`sparsity` must be a number in .*sparsity=1.0"),
        (lambda: RIGL(drop_fraction=1.1), "`drop_fraction` must be a number in .0, 1.*drop_fraction=1.1"),
        (lambda: RIGL(drop="small"), "`drop` must be one of .*magnitude.*drop='small'"),
        (lambda: RIGL(grow="large"), "`grow` must be one of .*gradient.*grow='large'"),
        (lambda: RIGL(redistribution="fair"), "`redistribution` must be one of .*momentum.*redistribution='fair'"),
        (lambda: RIGL(decay="fast"), "`decay` must be one of .*decay='fast'"),
        (lambda: RIGL(structure="2:4"), "`structure` must be None: RigL.*structure='2:4'"),
        (lambda: SNFS(redistribution=None, drop=3), "drop=3"),
        (lambda: SNFS(drop="magnitud"), "`drop` must be one of .*magnitude.*threshold.*drop='magnitud'"),
        (lambda: DSR(variant="other"), "`variant` must be one of .*variant='other'"),
        (lambda: DSR(prune_target=0), "`prune_target` must be a finite number above 0.*prune_target=0"),
        (lambda: DSR(prune_target=1.5), "prune_target=1.5"),
        (lambda: DSR(initial_threshold=-1.0), "initial_threshold=-1.0"),
        (lambda: DSR(power=0), "power=0"),
        (lambda: DSR(redistribution="fair"), "`redistribution` must be one of .*redistribution='fair'"),
        # Functions: no class, no layer, and of the arguments that they get.
        (lambda: GMP(0.5, where=""), "`where` must be None, a predicate.*where=''"),
        (lambda: GMP(0.5, where=lambda: True), r"`where` must be a function of \(layer\)"),
        (lambda: GMP(0.5, where=keras.layers.Dense), r"`where` must be a function of \(layer\)"),
        (lambda: GMP(0.5, dense=lambda: True), r"`dense` must be a function of \(tensor\)"),
        (lambda: GMP(0.5, schedule=lambda: 0.1), r"`schedule` must be a function of \(step\)"),
        (lambda: GMP(0.5, frequency=lambda: 1), r"`frequency` must be a function of \(step\)"),
        (lambda: RIGL(drop=keras.layers.Dense(2)), r"`drop` must be a function of \(weight\)"),
        (lambda: RIGL(grow=lambda: 1), r"`grow` must be a function of \(weight\)"),
        (lambda: RIGL(redistribution=keras.Model), r"`redistribution` must be a function of \(weight\)"),
        (lambda: RIGL(drop_fraction=lambda: 0.3), r"`drop_fraction` must be a function of \(step\)"),
        (
            lambda: DSR(redistribution=lambda size: size),
            r"`redistribution` must be a function of \(size, before, after\)",
        ),
        (lambda: c.overall(3), r"`function` must be a function of \(weight\).*function=3"),
        (lambda: c.uses("x"), "`names` must be one of .*gradient.*names='x'"),
        (lambda: c.uses("gradient")(3), r"`function` must be a function of \(weight\).*function=3"),
        (lambda: c.PenaltyRamp(num_examples=1, schedule=None), "`schedule` must be .*schedule=None"),
        (lambda: c.SNIP(0.5), "`data` must be a batch .*NoneType"),
        (lambda: c.SNIP(0.5, data=DATA, scope="all"), "`scope` must be .*scope='all'"),
        (lambda: c.SNIP(0.5, data=DATA, distribution="erk"), "`distribution` .*distribution='erk'"),
        (lambda: c.GraSP(0.5, data=DATA, temperature=0), "`temperature` must be .*temperature=0"),
        (lambda: c.IterativePruning(0.5, 0, 5), "`rounds` .*rounds=0"),
        (lambda: c.IterativePruning(0.5, 1, 5, rewind_step=5), "`steps_per_round` .* at least 6.*steps_per_round=5"),
        (lambda: c.IterativePruning(0.5, 1, 5, scope="all"), "`scope` must be .*scope='all'"),
        (lambda: c.IterativePruning(0.5, 1, 5, snapshot="weights.h5"), "`snapshot` must be .*snapshot='weights.h5'"),
        (lambda: c.SparsityMonitor(every=0), "`every` .*every=0"),
        (lambda: c.SparsityMonitor(verbose=3), "`verbose` must be .*verbose=3"),
        (lambda: c.SparsityMonitor(verbose=True), "verbose=True"),
        (lambda: c.SparsityMonitor(csv_path=3), "`csv_path` must be a path.*csv_path=3"),
        (lambda: c.SparsityMonitor(log_dir=""), "`log_dir` must be a path.*log_dir=''"),
        (lambda: c.RandomPruning(0.5, cumulative="no"), "`cumulative` must be True or False.*cumulative='no'"),
        (lambda: GMP(0.5, sparsity=0.5), "`sparsity` is another name of `final_sparsity`: give one of them"),
        (lambda: GMP(sparsity=1.5), r"must be a number in \[0, 1\).*=1.5"),
        (lambda: GMP(0.5, scope=["layer"]), "`scope` must be one of .*scope="),
        (lambda: GMP(0.5, frequency=np.ones(2)), "`frequency` must be an integer"),
        (lambda: GMP(0.5, schedule=np.ones(2)), "`schedule` must be"),
        (lambda: GMP(0.5, distribution=np.ones(2)), "`distribution` must be"),
        (lambda: GMP(0.5, structure=3), "`structure` must be"),
        (lambda: c.IterativePruning(), "`final_sparsity` must be"),
        (lambda: c.IterativePruning(0.5, 1, 5, snapshot=3), "`snapshot` must be a path.*snapshot=3"),
        (lambda: DSR(redistribution=["live"]), "`redistribution` must be one of"),
        (lambda: DSR(power=float("nan")), "`power` must be a finite number above 0.*power=nan"),
        (lambda: DSR(structure="2:4"), "`structure` must be None: DynamicSparse.*structure='2:4'"),
        (lambda: c.GraSP(0.5, data=DATA, temperature=float("inf")), "`temperature` must be .*temperature=inf"),
        (lambda: c.PenaltyRamp(num_examples=5, begin_step="", schedule=abs), "`begin_step` must be .*begin_step=''"),
    ],
)
def test_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def sgd(momentum=0.0):
    return keras.optimizers.SGD(0.1, momentum=momentum)


@pytest.mark.parametrize(
    "algorithm,options,message",
    [
        (lambda: SNFS(0.5), {}, "SparseMomentum reads the momentum .* keeps none .*momentum=0.9.*optimizer=SGD"),
        (
            lambda: SNFS(0.5, redistribution="variance"),
            {"momentum": 0.9},
            "reads the variance .* this optimizer keeps none",
        ),
        (lambda: RIGL(0.5, where="third"), {}, "`where` holds entries that match no layer.*third"),
        (lambda: RIGL(0.5, dense="third"), {}, "`dense` must hold entries that match a tensor.*'third'"),
        (lambda: RIGL(0.5, distribution={"third": 0.5}), {}, "match a tensor.*'third'"),
        (lambda: RIGL(0.5, distribution="fair"), {}, "`distribution` must be one of .*distribution='fair'"),
        (
            lambda: RIGL(0.5, frequency=lambda step: 2),
            {},
            "`frequency` must be an integer or 'epoch' for RigL, which reads gradients",
        ),
        (
            lambda: RIGL(0.5, begin_step=10),
            {},
            "`begin_step` must be smaller than the step of the last update, by default 9 .*begin_step=10",
        ),
        (
            lambda: GMP(0.5, schedule=lambda step: 0.7, end_step=3),
            {},
            r"`schedule` must not exceed.*schedule\(0\) = 0.7",
        ),
        (lambda: GMP(0.5, schedule=lambda step: 1.0, end_step=3), {}, "`schedule` must be a number in"),
        (
            lambda: c.StaticSparsity(0.9, structure="2:4"),
            {},
            "`sparsity` must be 0.5 with structure '2:4'.*sparsity=0.9",
        ),
        (
            lambda: GMP(0.9, structure="2:4"),
            {},
            "`final_sparsity` must be 0.5 with structure '2:4'.*final_sparsity=0.9",
        ),
        (
            lambda: GMP(sparsity=0.9, structure="2:4"),
            {},
            "`sparsity` must be 0.5 with structure '2:4'. Received: sparsity=0.9",
        ),
        (lambda: GMP(0.5, structure="2x2x2"), {}, "a block of 3 axes does not fit .*structure='2x2x2'"),
    ],
)
def test_before_training_begins(algorithm, options, message):
    model = sparsify(keras.Sequential([keras.Input((12,)), keras.layers.Dense(5, name="only")]), "masked")
    model.compile(sgd(**options), "mse", run_eagerly=True)
    before = [ops.convert_to_numpy(weight).copy() for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        checks.fit(model, algorithm())
    assert checks.count_of(model) == 0
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)
    # Nothing is left that would disturb what comes next.
    checks.fit(model, c.StaticSparsity(0.5))
    assert not checks.masks_of(model)[0].all()


def test_a_model_with_nothing_to_prune():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="nothing|no layer|sparse"):
        model.fit(checks.Y, checks.Y, verbose=0, callbacks=[RIGL(0.5)])
    with pytest.raises(ValueError, match="SparsityMonitor needs a model with sparse layers"):
        model.fit(checks.Y, checks.Y, verbose=0, callbacks=[c.SparsityMonitor()])
    layer = layers.MaskedDense(5, name="frozen", trainable=False)
    model = keras.Sequential([keras.Input((12,)), layer, keras.layers.Dense(5)])
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="found no masked layer .*frozen"):
        checks.fit(model, RIGL(0.5))


def test_structured_layers_are_refused_by_what_moves_single_weights():
    model = keras.Sequential([keras.Input((12,)), layers.MaskedDense(5, structure="2:4", name="only")])
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="RigL moves single weights.*only.*structure='2:4'"):
        checks.fit(model, RIGL(0.5))


def test_a_model_that_is_not_ready():
    model = keras.Sequential([layers.MaskedDense(5)])
    with pytest.raises(ValueError, match="must be compiled before RigL"):
        RIGL(0.5).prepare(model)
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="must be built before RigL"):
        RIGL(0.5).prepare(model)


def endless():
    """Batches of which nobody knows how many there are."""
    if keras.backend.backend() != "tensorflow":
        return (DATA for _ in itertools.count())
    import tensorflow as tf

    # Not from a generator: a thread that waits for Python's lock, and an iterator that is thrown away by one who holds
    # the lock and waits for the thread, have been seen to stop a test run.
    return tf.data.Dataset.from_tensors(DATA).repeat().filter(lambda x, y: True)


def test_training_of_unknown_length():
    for algorithm, message in (
        (RIGL(0.5), "`end_step` must be given if the length of training is not known"),
        (GMP(0.5), "`end_step` must be given if the length of training is not known"),
        (
            c.SET(0.5, end_step=5),
            "`frequency` must be a number of steps if the length of an epoch is not known.*frequency='epoch'",
        ),
    ):
        model = checks.make_model(checks.CASES["rigl"], run_eagerly=True)
        with pytest.raises(ValueError, match=message):
            model.fit(endless(), verbose=0, callbacks=[algorithm])
        with pytest.raises(ValueError, match=message):
            algorithm.prepare(model)


ALGORITHMS = {
    cls: options
    for cls, options in (
        (GMP, {"sparsity": 0.5}),
        (c.RandomPruning, {"sparsity": 0.5}),
        (c.IterativePruning, {"sparsity": 0.5, "rounds": 1, "steps_per_round": 2}),
        (c.NarangPruning, {}),
        (c.StaticSparsity, {}),
        (c.SET, {}),
        (RIGL, {}),
        (c.DropAndGrow, {}),
        (SNFS, {}),
        (DSR, {}),
        (c.SNIP, {"data": DATA}),
        (c.GraSP, {"data": DATA}),
    )
}


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_arguments_that_many_share(cls):
    cls(**ALGORITHMS[cls])
    parameters = inspect.signature(cls).parameters
    # Nothing is hidden.
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())
    assert "where" in parameters
    for name, values in {
        "where": (3, [], True, ["("], [3], keras.layers.Dense(2)),
        "dense": (3, True, "(", [None]),
        "distribution": ("foo", None, 3, {}.keys(), ["erk"]),
        "seed": (None, -1, 0.5, "0", True),
        "begin_step": (-1, 0.5, "", [], True, float("nan")),
        "end_step": (-1, 0.5, "", True),
        "frequency": (0, 2.0, None, "", True, [1]),
        "sparsity": (1.0, -0.1, "0.5", True, float("nan"), [0.5]),
        "final_sparsity": (1.0, -0.1, "0.5", True, float("nan"), [0.5]),
        "drop_fraction": (1.1, "0.5", None, True, float("nan")),
        "decay": (None, "fast", ["linear"]),
        "drop": (None, "small", ["magnitude"]),
        "grow": (None, "large", 3),
        "redistribution": ("fair", 3),
        "scope": (None, "all", 3),
        "rounds": (0, 1.5, None, True),
        "data": (None, 3, DATA[:1]),
    }.items():
        for value in values if name in parameters else ():
            options = {**ALGORITHMS[cls], name: value}
            if name == "final_sparsity":
                del options["sparsity"]
            # (`sparsity` is also the other name of `final_sparsity`.)
            with pytest.raises(ValueError, match=f"`(final_)?{name}` (must|holds)"):
                cls(**options)


def test_a_budget_that_is_no_file_is_refused_when_an_algorithm_is_made():
    with pytest.raises((ValueError, OSError), match="nowhere.csv"):
        RIGL(distribution="nowhere.csv")
