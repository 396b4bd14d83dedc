"""What a user of the package sees: `__all__`, completions, and what can be reached after `import sparsity_tf`."""

import importlib
import pathlib
import types

import pytest

import sparsity_tf
from tests import fresh_process

ROOT = pathlib.Path(sparsity_tf.__file__).parent
PACKAGES = sorted(".".join(path.parent.relative_to(ROOT.parent).parts) for path in ROOT.rglob("__init__.py"))
# Modules that are public: their names are used with a dot.
MODULES = {
    "sparsity_tf": "budgets callbacks checkpoints datasets decoding deploy distributions initializers inspection "
    "layers masks models schedules structures".split(),
    "sparsity_tf.datasets": ["subwords"],
    "sparsity_tf.distributions": ["budgets"],
    "sparsity_tf.masks": ["structures"],
}


@pytest.mark.parametrize("name", PACKAGES)
def test_completions_are_the_public_names(name):
    package = importlib.import_module(name)
    names = package.__all__
    assert len(set(names)) == len(names)
    assert set(dir(package)) - {"__version__"} == set(names)
    modules = [one for one in names if isinstance(getattr(package, one), types.ModuleType)]
    assert sorted(modules) == MODULES.get(name, [])
    assert not [one for one in names if one.startswith("_")]


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_public_is_left_out(name):
    """A class or function that `__init__` imports from a module of its package is in `__all__`."""
    package = importlib.import_module(name)
    if name == "sparsity_tf.deploy.rules":
        pytest.skip("an internal package: other modules of `deploy` use it")
    for key, value in vars(package).items():
        if key.startswith("_") or isinstance(value, types.ModuleType) or not callable(value):
            continue
        assert key in package.__all__


def test_star_import_works():
    names = {}
    exec("from sparsity_tf import *", names)
    assert set(sparsity_tf.__all__) <= set(names) and "__version__" not in names


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'sparsity_tf' has no attribute 'prunee'$"):
        sparsity_tf.prunee  # noqa: B018


def test_modules_are_imported_when_they_are_first_used():
    code = """
import sys, sparsity_tf
assert not {"sparsity_tf.datasets", "sparsity_tf.decoding"} & set(sys.modules)
assert "models" in dir(sparsity_tf)
for thing in (sparsity_tf.models.lenet_300_100, sparsity_tf.decoding.Decoder, sparsity_tf.budgets.read_csv):
    print(thing.__name__)
"""
    finished = fresh_process.run(code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["lenet_300_100", "Decoder", "read_csv"]


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").exists()
