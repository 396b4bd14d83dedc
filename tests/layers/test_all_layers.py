"""Every sparse layer passes the shared checks (`layer_checks.py`)."""

import pytest

from tests.layers.layer_checks import CASES, KINDS, POLICIES, PREFIXES, run_sparse_layer_test

pytestmark = pytest.mark.compiled

# A test of one layer costs its compilations, and a kind is the same code under every technique. `make test` has each
# technique trained under XLA and in Keras's own step (the one or the other where the technique shares its form with
# another), each kind of layer once, or twice where it is quick. A technique with two kinds is tried under one policy of
# precision in each. All pairs are in `make test-all`.
FAST = {
    "VD": ("EinsumDense", "Conv2D"),
    "L0": ("Dense", "Conv1D", "ReversibleEmbedding"),
    "STR": ("EinsumDense", "Conv1D", "Conv3D"),
    "Masked": ("Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Embedding", "GRU"),
    "DNW": ("Dense", "Conv1D"),
    "GVD": ("Embedding",),
    "Hashed": ("Dense", "Conv3D"),
    "SBP": ("Dense", "Conv1D"),
    "SRSTE": ("Dense",),
    "Movement": ("Dense",),
    "SoftMovement": ("Dense",),
    "Power": ("Conv2D",),
    "TopKAST": ("Dense",),
}


def fast_case(prefix, kind):
    """One layer of each technique that has compiled parts runs them compiled, in a step that is not."""
    compiled_parts = prefix + kind in ("VDEinsumDense", "L0Dense", "STRConv1D")
    return pytest.param(prefix, kind, id=prefix + kind, marks=[pytest.mark.xla] if compiled_parts else [])


@pytest.mark.parametrize("prefix,kind", [fast_case(*case) for case in CASES if case[1] in FAST.get(case[0], ())])
def test_layer(prefix, kind, tmp_path):
    """A technique that has two kinds here trains under XLA in one and in Keras's own compiled step in the other."""
    compiled, policies = is_compiled(prefix, kind), policies_of(prefix, kind)
    run_sparse_layer_test(prefix, kind, tmp_path, compiled=compiled, policies=policies)


def is_compiled(prefix, kind):
    return (list(PREFIXES).index(prefix) + list(KINDS).index(kind)) % 3 == 0


def policies_of(prefix, kind):
    """All policies if the technique has one kind here, and else they go around among its kinds."""
    kinds = FAST[prefix]
    return POLICIES if len(kinds) == 1 else POLICIES[kinds.index(kind) :: len(kinds)]


def test_the_fast_layers_cover_every_technique_under_every_policy():
    for prefix, kinds in FAST.items():
        assert sorted(policy for kind in kinds for policy in policies_of(prefix, kind)) == sorted(POLICIES)


def test_the_fast_layers_cover_every_technique_in_both_steps():
    assert set(FAST) == set(PREFIXES)
    for prefix, kinds in FAST.items():
        assert len(kinds) == 1 or {is_compiled(prefix, kind) for kind in kinds} == {True, False}


# Moved out of the fast tests: every layer under XLA and under every policy. `test_layer` has some of these pairs.
@pytest.mark.slow
@pytest.mark.parametrize("prefix,kind", CASES, ids=map("".join, CASES))
def test_layer_under_xla_and_every_policy(prefix, kind, tmp_path):
    run_sparse_layer_test(prefix, kind, tmp_path)
