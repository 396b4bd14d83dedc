"""Options that every campaign shares: how many cases, and the seed that they are drawn from.

python -m pytest -m slow tests/campaigns --cases=100 --seed=7 -s
"""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("campaigns")
    group.addoption("--cases", type=int, default=None, help="Number of cases; default: what each campaign says.")
    group.addoption("--only", default=None, help="Configurations of the kill campaign, separated by commas.")
    group.addoption("--seed", type=int, default=0, help="Seed from which the cases are drawn.")


@pytest.fixture
def cases(request):
    """Function of a campaign's own default: the number of cases that was asked for, or the default."""
    # pytest knows the option only if this folder, or the one above it, stood on its command line.
    asked = request.config.getoption("--cases", default=None)
    return lambda default: default if asked is None else asked


@pytest.fixture
def seed(request):
    """The seed that was asked for, an int."""
    return request.config.getoption("--seed", default=0)
