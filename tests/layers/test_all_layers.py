"""Every sparse layer passes the shared checks (`layer_checks.py`)."""

import pytest

from tests.layers.layer_checks import CASES, run_sparse_layer_test

# Loops over time compile for long, and a kind is the same code under every technique: one or two of them here, all in
# `make test-all`.
_SLOW = ("RNN", "LSTM", "GRU", "Transpose", "SeparableConv", "DepthwiseConv1D")
_FAST = ("MaskedGRU", "MaskedConv2DTranspose", "MaskedSeparableConv2D")


def _case(prefix, kind):
    slow = any(part in kind for part in _SLOW)
    marks = [pytest.mark.slow] if slow and prefix + kind not in _FAST else []
    return pytest.param(prefix, kind, id=prefix + kind, marks=marks)


@pytest.mark.parametrize("prefix,kind", [_case(*case) for case in CASES])
def test_layer(prefix, kind, tmp_path):
    run_sparse_layer_test(prefix, kind, tmp_path)
