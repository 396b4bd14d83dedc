"""Every sparse layer passes the shared checks (`layer_checks.py`)."""

import pytest

from tests.layers.layer_checks import CASES, run_sparse_layer_test

# Loops over time compile for long: one of them here, all in `make test-all`.
_FAST_RECURRENT = ("MaskedGRU",)


def _case(prefix, kind):
    slow = "RNN" in kind or kind in ("LSTM", "GRU")
    marks = [pytest.mark.slow] if slow and prefix + kind not in _FAST_RECURRENT else []
    return pytest.param(prefix, kind, id=prefix + kind, marks=marks)


@pytest.mark.parametrize("prefix,kind", [_case(*case) for case in CASES])
def test_layer(prefix, kind, tmp_path):
    run_sparse_layer_test(prefix, kind, tmp_path)
