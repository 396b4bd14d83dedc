"""Every algorithm that changes masks keeps the promises of `algorithm_checks`."""

import pytest

from tests.callbacks import algorithm_checks as checks


@pytest.fixture(params=checks.CASES)
def case(request):
    return checks.CASES[request.param]


def test_training(case, tmp_path):
    checks.check_training(case, tmp_path)


def test_every_loop_comes_to_the_same(case):
    checks.check_other_loops(case)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["magnitude", "rigl", "sparse-momentum", "dsr"])
def test_a_compiled_loop_of_ones_own(name):
    checks.check_own_loop(checks.CASES[name])


def test_an_interrupted_fit_leaves_nothing_behind(case, tmp_path):
    checks.check_interruption(case, tmp_path)


def test_a_stopped_run_continues_exactly(case, tmp_path):
    checks.check_resuming(case, tmp_path)


@pytest.mark.parametrize("name", ["random", "rigl", "sparse-momentum", "dsr", "lottery"])
def test_backups_are_restored_wherever_they_stand(name, tmp_path):
    checks.check_backup(checks.CASES[name], tmp_path)
