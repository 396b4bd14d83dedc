"""What a user of the package sees: `__all__`, completions, and what can be reached after `import sparsity_tf`."""

import copy
import importlib
import inspect
import pathlib
import pickle
import types

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import call_repr, callbacks, schedules
from sparsity_tf.distributions import Distribution
from sparsity_tf.layers import SparseLayer, Technique
from sparsity_tf.schedules import Schedule
from tests import fresh_process
from tests.public_objects import examples_of, public_objects

ROOT = pathlib.Path(sparsity_tf.__file__).parent
PACKAGES = sorted(".".join(path.parent.relative_to(ROOT.parent).parts) for path in ROOT.rglob("__init__.py"))
# Modules that are public: their names are used with a dot.
MODULES = {
    "sparsity_tf": "budgets callbacks checkpoints datasets decoding deploy distributions initializers inspection "
    "layers masks models regularizers schedules structures study".split(),
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
assert not {"sparsity_tf.datasets", "sparsity_tf.decoding", "sparsity_tf.study"} & set(sys.modules)
assert "models" in dir(sparsity_tf)
for thing in (sparsity_tf.models.lenet_300_100, sparsity_tf.decoding.Decoder, sparsity_tf.budgets.read_csv):
    print(thing.__name__)
"""
    finished = fresh_process.run(code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["lenet_300_100", "Decoder", "read_csv"]


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").exists()


# What every public object owes its reader: an annotated signature, an example, and (of what is configured) a readable
# `repr`. Each exception has its reason.

# Layer classes: their signatures are made of the Keras layer's and the technique's, and so are their arguments'
# descriptions.
LAYERS = "sparsity_tf.layers."
WITHOUT_EXAMPLE = {
    "sparsity_tf.decoding.Hypotheses": "what `beam_search` and `Decoder` return",
    "sparsity_tf.deploy.ChannelFamily": "what `channel_families` returns",
    "sparsity_tf.deploy.ChannelGroup": "what `channel_groups` returns",
    "sparsity_tf.deploy.DeploymentRow": "a row of `DeploymentReport`",
    "sparsity_tf.deploy.FamilyPart": "a part of a `ChannelFamily`",
    "sparsity_tf.deploy.GroupMember": "a part of a `ChannelGroup`",
    "sparsity_tf.deploy.ShrinkRow": "a row of `ShrinkReport`",
    "sparsity_tf.inspection.FeatureRow": "a row of `FeatureTable`",
    "sparsity_tf.inspection.FlopsRow": "a row of `FlopsTable`",
    "sparsity_tf.inspection.SensitivityRow": "a row of `SensitivityTable`",
    "sparsity_tf.inspection.SparsityRow": "a row of `SparsityTable`",
    "sparsity_tf.inspection.SpeedupRow": "a row of `SpeedupTable`",
    "sparsity_tf.study.TradeoffPoint": "a row of `TradeoffTable`",
    "sparsity_tf.schedules.of_argument": "`get`, for arguments of this package",
}


def is_layer(name, value):
    return name.startswith(LAYERS) and inspect.isclass(value) and issubclass(value, (keras.layers.Layer, SparseLayer))


def signatures(value):
    """Dict from a name to a function: of a class the constructor, public methods and properties that we wrote."""
    if not inspect.isclass(value):
        return {"": value}
    found = {}
    for cls in value.__mro__:
        if not cls.__module__.startswith("sparsity_tf."):
            continue
        for key, member in vars(cls).items():
            member = getattr(member, "func", getattr(member, "fget", getattr(member, "__func__", member)))
            # (Dataclasses write their constructor themselves, from annotated fields.)
            if inspect.isfunction(member) and (not key.startswith("_") or key in ("__init__", "__call__")):
                found.setdefault(key, member)
    return found


def not_annotated(function):
    signature = inspect.signature(function)
    bare = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and key not in ("self", "cls")
    ]
    return bare + ["return"] * (signature.return_annotation is signature.empty)


@pytest.mark.parametrize("name", [name for name, (_, value) in public_objects().items() if not is_layer(name, value)])
def test_signatures_are_annotated(name):
    value = public_objects()[name][1]
    bare = {key: not_annotated(function) for key, function in signatures(value).items()}
    assert {key: arguments for key, arguments in bare.items() if arguments} == {}


# Callable -> what its keyword arguments are.
KEYWORDS = {
    "sparsity_tf.sparsify": "options of a technique that is given by name",
    "sparsity_tf.models.Transformer": "options of a technique that is given by name",
    "sparsity_tf.schedules.get": "arguments of a schedule that is given by name",
}


def test_no_argument_hides_behind_keywords():
    hidden = set()
    for name, (_, value) in public_objects().items():
        if inspect.isclass(value) and issubclass(value, (keras.layers.Layer, SparseLayer, tuple, Exception)):
            continue  # The keyword arguments of a layer are Keras's: `name`, `dtype`, ...
        function = value.__init__ if inspect.isclass(value) else value
        if function is object.__init__:
            continue
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            hidden.add(name)
    assert hidden == set(KEYWORDS)


def test_public_objects_have_an_example():
    without = {
        name
        for name, (_, value) in public_objects().items()
        if not any(examples_of(value.__doc__)) and not is_layer(name, value)
    }
    assert without == set(WITHOUT_EXAMPLE)


CONFIGURED = (keras.callbacks.Callback, Technique, Schedule, Distribution)
READABLE = [
    name for name, (_, value) in public_objects().items() if inspect.isclass(value) and issubclass(value, CONFIGURED)
] + [
    "sparsity_tf.callbacks.WeightView",
    "sparsity_tf.checkpoints.Checkpoint",
    "sparsity_tf.datasets.Batches",
    "sparsity_tf.datasets.CharacterBatches",
    "sparsity_tf.datasets.TranslationBatches",
    "sparsity_tf.decoding.Decoder",
    "sparsity_tf.inspection.MaskAnimation",
    "sparsity_tf.layers.SparseWeight",
]


@pytest.mark.parametrize("name", READABLE)
def test_repr_is_readable(name):
    value = public_objects()[name][1]
    # (A schedule that is no dataclass has no arguments.)
    assert value.__repr__ is not object.__repr__ or inspect.isabstract(value)


def test_repr_holds_the_arguments_that_differ_from_their_defaults():
    callback = callbacks.MagnitudePruning(final_sparsity=0.9, begin_step=0, end_step=10, schedule=schedules.Constant(0))
    assert repr(callback) == "MagnitudePruning(final_sparsity=0.9, end_step=10, schedule=Constant(constant=0))"
    assert [repr(copied) for copied in (copy.copy(callback), copy.deepcopy(callback))] == [repr(callback)] * 2
    assert repr(pickle.loads(pickle.dumps(callbacks.RigL(0.8)))) == "RigL(sparsity=0.8)"
    assert repr(schedules.Cubic(0.0, 0.9, 0, 10)) == "Cubic(initial=0.0, final=0.9, begin_step=0, end_step=10)"
    assert repr(callbacks.PenaltyRamp(num_examples=np.int64(5))) == "PenaltyRamp(num_examples=5)"


def test_repr_is_short():
    data = (np.zeros((100, 3), "float32"), np.arange(3))
    text = repr(callbacks.SNIP(data=data, where=["conv", "dense"]))
    assert text == "SNIP(data=(<float32 array of shape (100, 3)>, array([0, 1, 2])), where=['conv', 'dense'])"
    assert repr(callbacks.RigL(drop=np.abs, grow=len)) == "RigL(drop=absolute, grow=len)"
    many = repr(callbacks.StaticSparsity(distribution={f"layer_{k}": 0.5 for k in range(100)}))
    assert len(many) < 200


def test_repr_of_what_is_refused_raises_nothing():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no text")

    recursive = [1]
    recursive.append(recursive)
    for nonsense in (Broken(), [Broken()] * 100, recursive, {"a": recursive}, "x" * 10_000, b"x" * 10_000):
        assert len(call_repr.short_repr(nonsense)) < 300
    with pytest.raises(ValueError, match="`scope`"):
        callbacks.MagnitudePruning(0.5, scope=recursive)


def test_the_users_own_algorithm_is_readable():
    class Mine(callbacks.MaskAlgorithm):
        def __init__(self, share, power=2.0, **arguments):
            super().__init__(**arguments)

    assert repr(Mine(0.5, begin_step=3)) == "Mine(share=0.5, begin_step=3)"
    assert list(inspect.signature(Mine).parameters) == ["share", "power", "arguments"]
    assert "data" in inspect.signature(callbacks.SNIP).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        callbacks.RigL(nothing=1)
