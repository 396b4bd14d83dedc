"""Bad input is a ValueError that names the argument and its value, before any training."""

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
        (lambda: DSR(prune_target=0), "`prune_target` must be a positive number.*prune_target=0"),
        (lambda: DSR(prune_target=1.5), "prune_target=1.5"),
        (lambda: DSR(initial_threshold=-1.0), "initial_threshold=-1.0"),
        (lambda: DSR(power=0), "power=0"),
        (lambda: DSR(heuristic="fair"), "`heuristic` must be one of .*heuristic='fair'"),
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
        (lambda: SNFS(0.5), {}, "SparseMomentum reads the optimizer's momentum, and .* keeps none.*optimizer=SGD"),
        (lambda: SNFS(0.5, redistribution="variance"), {"momentum": 0.9}, "variance, and the optimizer keeps none"),
        (lambda: RIGL(0.5, where="third"), {}, "`where` holds entries that match no layer.*third"),
        (lambda: RIGL(0.5, dense="third"), {}, "`dense` must hold entries that match a tensor.*'third'"),
        (lambda: RIGL(0.5, distribution={"third": 0.5}), {}, "match a tensor.*'third'"),
        (lambda: RIGL(0.5, distribution="fair"), {}, "`distribution` must be one of .*distribution='fair'"),
        (lambda: RIGL(0.5, frequency=lambda step: 2), {}, "`frequency` must be a number where RigL reads gradients"),
        (lambda: RIGL(0.5, begin_step=10), {}, "`begin_step` must come before the end .* step 9 .*begin_step=10"),
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
        (RIGL(0.5), "`end_step` must be given where the length of training is not known"),
        (GMP(0.5), "`end_step` must be given where the length of training is not known"),
        (c.SET(0.5, end_step=5), "`frequency='epoch'` needs to know the steps of an epoch"),
    ):
        model = checks.make_model(checks.CASES["rigl"], run_eagerly=True)
        with pytest.raises(ValueError, match=message):
            model.fit(endless(), verbose=0, callbacks=[algorithm])
        with pytest.raises(ValueError, match=message):
            algorithm.prepare(model)
