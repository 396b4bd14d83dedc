"""Every sparse layer passes the shared checks (`layer_checks.py`)."""

import pytest

from tests.layers.layer_checks import CASES, KINDS, POLICIES, PREFIXES, run_sparse_layer_test

# Loops over time compile for long, and a kind is the same code under every technique: one or two of them here, all in
# `make test-all`.
_LONG = ("RNN", "LSTM", "GRU", "Transpose", "SeparableConv", "DepthwiseConv1D")
_OF_LONG = ("MaskedGRU", "MaskedConv2DTranspose", "MaskedSeparableConv2D")
# Techniques that share their form with DNW or with the masks: one kind of each here.
_ALIKE = ("SRSTE", "TopKAST", "Movement", "SoftMovement", "Power")


def is_fast(prefix, kind):
    if prefix in _ALIKE:
        return kind == ("Conv2D" if prefix == "Power" else "Dense")
    return prefix + kind in _OF_LONG or not any(part in kind for part in _LONG)


FAST = [case for case in CASES if is_fast(*case)]


def fast_case(prefix, kind):
    """One layer of each technique that has compiled parts runs them compiled, in a step that is not."""
    compiled_parts = prefix + kind in ("VDEinsumDense", "L0Dense", "STRConv1D")
    return pytest.param(prefix, kind, id=prefix + kind, marks=[pytest.mark.xla] if compiled_parts else [])


@pytest.mark.parametrize("prefix,kind", [fast_case(*case) for case in FAST])
def test_layer(prefix, kind, tmp_path):
    """Every technique and every kind trains under XLA in a third of its layers, and has each policy in a third."""
    place = list(PREFIXES).index(prefix) + list(KINDS).index(kind)
    run_sparse_layer_test(prefix, kind, tmp_path, compiled=place % 3 == 0, policies=[POLICIES[place % 3]])


# Moved out of the fast tests: every layer under XLA and under every policy. `test_layer` has a third of these pairs.
@pytest.mark.slow
@pytest.mark.parametrize("prefix,kind", CASES, ids=map("".join, CASES))
def test_layer_under_xla_and_every_policy(prefix, kind, tmp_path):
    run_sparse_layer_test(prefix, kind, tmp_path)
