"""Every sparse layer passes the shared checks (`layer_checks.py`)."""

import pytest

from tests.layers.layer_checks import CASES, run_sparse_layer_test


@pytest.mark.parametrize("prefix,kind", CASES, ids=[prefix + kind for prefix, kind in CASES])
def test_layer(prefix, kind, tmp_path):
    run_sparse_layer_test(prefix, kind, tmp_path)
