"""Every algorithm that changes masks keeps the promises of `algorithm_checks`."""

import pytest

from tests.callbacks import algorithm_checks as checks

# Each of these is another algorithm of the list with another optimizer, scope or score. `make test` keeps the promise
# that the option may break, and `test_training` of all. The rest is in `make test-all`: interruption and other loops of
# all five, continued runs of two.
ADAM = ("magnitude-linear-adam", "rigl-adam")
VARIANTS = (*ADAM, "magnitude-global", "random-independent", "sparse-momentum-variance")
# These differ from others in their counts and scores, which `test_training` and their own tests see.
ALIKE = ("mest", "srigl", "set", "drop-and-grow", "random", "static", "narang", "grasp", "deepr-soft")
# Of these a variant is continued: what it keeps beside the masks is the same.
CONTINUED_AS_VARIANT = ("random", "rigl", "sparse-momentum")


def cases(slow=()):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in checks.CASES]


@pytest.fixture(scope="module", params=checks.CASES)
def case(request):
    return checks.CASES[request.param]


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    return checks.WholeRun(case, tmp_path_factory.mktemp("whole"))


# XLA compiles what writes masks for one algorithm of each kind. All train in compiled steps.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=pytest.mark.compiled if name in (*VARIANTS, *ALIKE) else pytest.mark.xla)
        for name in checks.CASES
    ],
    indirect=True,
)
def test_training(case, tmp_path):
    checks.check_training(case, tmp_path)


@pytest.mark.parametrize("case", cases(slow=(*VARIANTS, *ALIKE)), indirect=True)
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
    "case",
    cases(
        slow=(
            *("magnitude-global", "magnitude-linear-adam", "mest", "srigl", "drop-and-grow", "static", "grasp"),
            *("deepr-soft", *CONTINUED_AS_VARIANT),
        )
    ),
    indirect=True,
)
def test_a_stopped_run_continues_exactly(whole):
    checks.check_resuming(whole)


@pytest.mark.parametrize(
    "case",
    ["rigl", "lottery", *(pytest.param(name, marks=pytest.mark.slow) for name in ("random", "sparse-momentum", "dsr"))],
    indirect=True,
)
def test_backups_are_restored_wherever_they_stand(whole, tmp_path):
    checks.check_backup(whole, tmp_path)
