"""Optimal brain surgeon and SparseGPT on one layer: golden values, then properties."""

import itertools

import numpy as np
import pytest

from sparsity_tf.one_shot import optimal_brain_surgeon as surgeon
from sparsity_tf.one_shot import sparse_gpt

# methods_beyond.md, section 11.
HESSIAN = np.array([[4.0, 2, 0], [2, 3, 1], [0, 1, 2]])
WEIGHTS = np.array([[1.0], [1.0], [0.5]])
SOLVERS = {"surgeon": surgeon.prune, "sparse_gpt": sparse_gpt.prune}


def loss(old, new, hessian):
    return 0.5 * np.einsum("io,ij,jo->", old - new, hessian, old - new)


def problem(seed=0, inputs=12, outputs=5, examples=40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, inputs)) @ rng.normal(size=(inputs, inputs))
    return rng.normal(size=(inputs, outputs)), x.T @ x / examples


@pytest.mark.parametrize("count, expected, cost", [(1, [0.875, 1.25, 0], 0.1875), (2, [0, 11 / 6, 0], 1.208333)])
def test_surgeon_golden_values(count, expected, cost):
    new, kept = surgeon.prune(WEIGHTS, HESSIAN, count)
    np.testing.assert_allclose(new.ravel(), expected, atol=1e-12)
    np.testing.assert_array_equal(kept, new != 0)
    assert loss(WEIGHTS, new, HESSIAN) == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(
    "dead, expected, cost",
    [(2, [1, 1, 0], 0.25), (1, [1, 0, 1], 1.25)],
)
def test_sparse_gpt_golden_values(dead, expected, cost):
    alive = np.ones((3, 1), bool)
    alive[dead] = False
    new, _ = sparse_gpt.prune(WEIGHTS, HESSIAN, 1, alive)
    np.testing.assert_allclose(new.ravel(), expected, atol=1e-12)
    assert loss(WEIGHTS, new, HESSIAN) == pytest.approx(cost)


@pytest.mark.parametrize("removed, expected, cost", [(1, [1.5, 0, 1], 0.75), (0, [0, 1.8, 0.1], 1.2)])
def test_refit_golden_values(removed, expected, cost):
    kept = np.arange(3)[:, None] != removed
    new = surgeon.refit(WEIGHTS, HESSIAN, kept)
    np.testing.assert_allclose(new.ravel(), expected, atol=1e-12)
    assert loss(WEIGHTS, new, HESSIAN) == pytest.approx(cost)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [0, 1, 23, 59, 60])
def test_counts_are_exact(solver, count):
    weights, hessian = problem()
    new, kept = SOLVERS[solver](weights, hessian, count)
    assert np.count_nonzero(~kept) == count
    assert not new[~kept].any()
    if count == 0:
        np.testing.assert_array_equal(new, weights)


@pytest.mark.parametrize("solver", SOLVERS)
def test_counts_are_exact_in_each_output_and_over_many_blocks(solver, monkeypatch):
    monkeypatch.setattr(sparse_gpt, "BLOCK", 5)
    weights, hessian = problem()
    _, kept = SOLVERS[solver](weights, hessian, 7, per_output=True)
    assert np.count_nonzero(~kept, axis=0).tolist() == [7] * 5
    assert np.count_nonzero(~SOLVERS[solver](weights, hessian, 31)[1]) == 31


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("per_output", [False, True])
def test_dead_entries_stay_dead_and_count(solver, per_output):
    weights, hessian = problem()
    alive = np.random.default_rng(1).random(weights.shape) > 0.3
    weights = weights * alive
    dead = np.count_nonzero(~alive, axis=0)
    new, kept = SOLVERS[solver](weights, hessian, 6 if per_output else 30, alive, per_output)
    assert not kept[~alive].any() and not new[~alive].any()
    if per_output:
        assert np.count_nonzero(~kept, axis=0).tolist() == np.maximum(dead, 6).tolist()
    else:
        assert np.count_nonzero(~kept) == 30
    # Fewer zeros than are there already: nothing changes.
    new, kept = SOLVERS[solver](weights, hessian, 0, alive)
    np.testing.assert_array_equal(kept, alive)
    np.testing.assert_allclose(new, weights, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_diagonal_hessian_means_no_compensation(solver):
    weights = np.random.default_rng(0).normal(size=(9, 4))
    diagonal = np.random.default_rng(1).uniform(0.5, 4, 9)
    new, kept = SOLVERS[solver](weights, np.diag(diagonal), 17)
    np.testing.assert_allclose(new, weights * kept, rtol=1e-12)
    scores = weights**2 * diagonal[:, None]
    assert scores[~kept].max() < scores[kept].min()


def test_the_surgeon_removes_greedily_and_ends_at_the_least_squares_weights():
    weights, hessian = problem(2, outputs=1)
    kept = np.ones(12, bool)
    for count in range(1, 12):
        new, found = surgeon.prune(weights, hessian, count)
        # By brute force: of all further removals, the one with the lowest loss after a refit.
        options = {}
        for entry in np.flatnonzero(kept):
            rest = kept & (np.arange(12) != entry)
            options[entry] = loss(weights, surgeon.refit(weights, hessian, rest[:, None]), hessian)
        kept[min(options, key=options.get)] = False
        np.testing.assert_array_equal(found[:, 0], kept)
        # No change on the support improves the fit.
        np.testing.assert_allclose((hessian @ (new - weights))[kept], 0, atol=1e-8)


def test_the_surgeon_finds_the_cheapest_removals_over_all_outputs():
    weights, hessian = problem(3)
    weights[:, 0] *= 1e-3
    _, kept = surgeon.prune(weights, hessian, 12)
    assert not kept[:, 0].any() and kept[:, 1:].all()


def test_losses_are_ordered_surgeon_sparse_gpt_no_update():
    differences = []
    for seed in range(20):
        weights, hessian = problem(seed)
        mild, kept = sparse_gpt.prune(weights, hessian, 30)
        exact = surgeon.refit(weights, hessian, kept)
        assert loss(weights, exact, hessian) <= loss(weights, mild, hessian) + 1e-9
        differences.append(loss(weights, weights * kept, hessian) - loss(weights, mild, hessian))
    assert np.mean(differences) > 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("block", [4, 5, 128])
def test_each_group_keeps_its_number(solver, block, monkeypatch):
    monkeypatch.setattr(sparse_gpt, "BLOCK", block)
    weights, hessian = problem(inputs=14)
    numbers = np.arange(14) // 4
    alive = np.ones(weights.shape, bool)
    alive[:3, 0] = False
    new, kept = SOLVERS[solver](weights * alive, hessian, None, alive, group=(numbers, 2))
    for number, column in itertools.product(range(4), range(5)):
        live = np.count_nonzero(kept[numbers == number, column])
        assert live == (1 if (number, column) == (0, 0) else 2)
    assert not new[~kept].any()


def test_the_order_of_the_inputs_changes_only_sparse_gpt():
    weights, hessian = problem(4)
    order = np.random.default_rng(5).permutation(12)
    moved = hessian[np.ix_(order, order)]
    _, kept = surgeon.prune(weights, hessian, 25)
    np.testing.assert_array_equal(surgeon.prune(weights[order], moved, 25)[1], kept[order])
    _, kept = sparse_gpt.prune(weights, hessian, 25)
    assert (sparse_gpt.prune(weights[order], moved, 25)[1] != kept[order]).any()
