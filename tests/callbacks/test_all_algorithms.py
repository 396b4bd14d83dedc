"""Every algorithm that changes masks keeps the promises of `algorithm_checks`."""

import pytest

from tests.callbacks import algorithm_checks as checks

# Each of these is another algorithm of the list with another optimizer, scope or score. `make test` keeps the promise
# that the option may break, and `test_training` of all. The rest is in `make test-all`: interruption of all five,
# other loops of three, a continued run of "magnitude-global".
ADAM = ("magnitude-linear-adam", "rigl-adam")
VARIANTS = (*ADAM, "magnitude-global", "random-independent", "sparse-momentum-variance")
# These differ from others in their counts and scores, which `test_training` and their own tests see.
ALIKE = ("mest", "srigl", "set", "drop-and-grow", "random", "static", "narang", "grasp", "deepr-soft")


def cases(slow=()):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in checks.CASES]


@pytest.fixture(scope="module", params=checks.CASES)
def case(request):
    return checks.CASES[request.param]


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    return checks.WholeRun(case, tmp_path_factory.mktemp("whole"))


@pytest.mark.xla
def test_training(case, tmp_path):
    checks.check_training(case, tmp_path)


@pytest.mark.parametrize("case", cases(slow=(*ADAM, "magnitude-global", *ALIKE)), indirect=True)
@pytest.mark.filterwarnings("ignore:.*ended at a sparsity")  # The run of another seed is a short one.
def test_every_loop_comes_to_the_same(whole):
    checks.check_other_loops(whole)


@pytest.mark.compiled
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["magnitude", "rigl", "sparse-momentum", "dsr"])
def test_a_compiled_loop_of_ones_own(name):
    checks.check_own_loop(checks.CASES[name])


@pytest.mark.parametrize("case", cases(slow=(*VARIANTS, *ALIKE)), indirect=True)
def test_an_interrupted_fit_leaves_nothing_behind(whole, tmp_path):
    checks.check_interruption(whole, tmp_path)


@pytest.mark.parametrize(
    "case", cases(slow=("magnitude-global", "mest", "srigl", "drop-and-grow", "static", "grasp")), indirect=True
)
def test_a_stopped_run_continues_exactly(whole):
    checks.check_resuming(whole)


@pytest.mark.parametrize("case", ["random", "rigl", "sparse-momentum", "dsr", "lottery"], indirect=True)
def test_backups_are_restored_wherever_they_stand(whole, tmp_path):
    checks.check_backup(whole, tmp_path)
