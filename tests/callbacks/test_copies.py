"""Callbacks can be copied and pickled, after `fit` too: a copy works anew."""

import copy
import pickle

import numpy as np
import pytest

from sparsity_tf import callbacks as c
from sparsity_tf import layers
from tests.callbacks.algorithm_checks import CASES, fit, make_model, masks_of

COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}


# One of each class that keeps something of its own during a run. `make test-all` has all.
KEEPERS = ("magnitude", "rigl", "sparse-momentum", "dsr", "snip", "lottery", "acdc", "mest", "deepr")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KEEPERS else [pytest.mark.slow]) for name in CASES]
)
def test_a_copy_of_an_algorithm_after_fit(name):
    case = CASES[name]
    algorithm, model = case.make(), make_model(case, run_eagerly=True)
    fit(model, algorithm)
    expected = masks_of(model)
    for how, make_copy in COPIES.items():
        again = make_copy(algorithm)
        assert again.sparsity == algorithm.sparsity and again.dropped == algorithm.dropped, how
        with pytest.raises(ValueError, match=r"call `prepare\(model\)` before `update"):
            again.update(model)
    other = make_model(case, run_eagerly=True)
    fit(other, again)
    for mask, same in zip(masks_of(other), expected, strict=True):
        np.testing.assert_array_equal(mask, same)


def test_a_copy_during_fit_does_not_hold_the_model():
    algorithm, model = CASES["rigl"].make(), make_model(CASES["rigl"])
    algorithm.prepare(model)
    again = pickle.loads(pickle.dumps(algorithm))
    assert again.weights == []
    again.finish()  # Nothing to do.
    assert model.layers[0].technique.dense_gradient_users
    algorithm.finish()


def test_copies_of_what_changes_no_masks(tmp_path):
    model = make_model(CASES["rigl"], run_eagerly=True)
    monitor = c.SparsityMonitor(csv_path=tmp_path / "sparsity.csv")
    fit(model, monitor)
    again = pickle.loads(pickle.dumps(copy.deepcopy(monitor)))
    assert again.rows == monitor.rows
    fit(model, again)
    model.pop()
    model.add(layers.VDDense(5))
    model.compile("sgd", "mse", run_eagerly=True)
    ramp = c.PenaltyRamp(num_examples=10, end_step=4)
    fit(model, ramp)
    again = pickle.loads(pickle.dumps(copy.deepcopy(ramp)))
    assert fit(model, again)["penalty_weight"] == [0.1, 0.1]
