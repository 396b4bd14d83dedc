"""Every public callable, one nonsense value for one argument at a time: an error must name the argument.

python -m pytest -m slow tests/campaigns/test_arguments.py --cases=100000 --seed=0 -s

`callables` lists the valid arguments of each callable and what is allowed for each of them, with the reasons.
"""

import inspect
import pathlib
import sys

import keras
import numpy as np
import pytest

import sparsity_tf  # noqa: F401  (the modules that `sys.modules` is asked for)
from tests.campaigns.callables import ALLOWED, CASES, HOOKS, INCIDENTAL, RECORDS, SPECS, is_keras_layer

PACKAGES = (
    "layers callbacks models schedules distributions distributions.budgets masks masks.structures inspection "
    "initializers datasets datasets.text.subwords decoding checkpoints sparsify to_dense load_masks deploy prune "
    "refresh_statistics study"
).split()


def recursive_list():
    values = []
    values.append(values)
    return values


def recursive_dict():
    values = {}
    values["a"] = values
    return values


NONSENSE = {
    "none": lambda: None,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus_inf": lambda: float("-inf"),
    "numpy_nan": lambda: np.float64("nan"),
    "minus_one": lambda: -1,
    "minus_half": lambda: -0.5,
    "half": lambda: 0.5,
    "one_and_half": lambda: 1.5,
    "huge_integer": lambda: 10**400,
    "minus_huge_integer": lambda: -(10**400),
    "huge_float": lambda: 1e308,
    "complex": lambda: 1j,
    "empty_string": lambda: "",
    "foo": lambda: "foo",
    "digits": lambda: "3",
    "false_string": lambda: "false",
    "true_string": lambda: "true",
    "bytes": lambda: b"foo",
    "true": lambda: True,
    "empty_list": list,
    "empty_tuple": tuple,
    "empty_dict": dict,
    "strings_dict": lambda: {"foo": "bar"},
    "nones": lambda: [None],
    "nested_list": lambda: [[1, [2]]],
    "recursive_list": recursive_list,
    "recursive_dict": recursive_dict,
    "set": lambda: {1.5},
    "range": lambda: range(3),
    "generator": lambda: (number for number in (1.5,)),
    "object": object,
    "class": lambda: int,
    "function_of_none": lambda: lambda: None,
    "function_of_five": lambda: lambda a, b, c, d, e: None,
    "odd_array": lambda: np.ones((2, 3)),
    "bool_array": lambda: np.ones((2, 3), bool),
    "nan_array": lambda: np.full((2, 3), np.nan),
    "empty_array": lambda: np.ones((0, 2)),
    "scalar_array": lambda: np.array(1.5),
    "object_array": lambda: np.array([None, "a"], object),
    "string_array": lambda: np.array(["a"]),
    "layer": lambda: keras.layers.Dense(2),
    "model_class": lambda: keras.Model,
}


def public_callables():
    """Every public class, function and method: {name: object}."""
    found, seen = {}, set()
    for package in PACKAGES:
        module = sys.modules[f"sparsity_tf.{package}"]
        names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for name in names:
            thing = getattr(module, name)
            own = getattr(thing, "__module__", "").startswith("sparsity_tf")
            if not own or not callable(thing) or id(thing) in seen:
                continue
            if not hasattr(module, "__path__") and thing.__module__ != module.__name__:
                continue
            seen.add(id(thing))
            found[f"{package}.{name}"] = thing
            if inspect.isclass(thing):
                found |= {
                    f"{package}.{name}.{method}": function
                    for method, function in vars(thing).items()
                    if not method.startswith("_") and inspect.isfunction(inspect.unwrap(getattr(thing, method)))
                }
    return found


def untested(name, thing):
    """Whether a public callable has neither a case nor a reason for having none, and something to be tested."""
    owner, _, method = name.rpartition(".")
    if name in CASES or name in RECORDS or owner in RECORDS or method in HOOKS:
        return False
    parameters = inspect.signature(thing).parameters
    is_method = name.count(".") > 1 and owner.rpartition(".")[2][:1].isupper()
    return len(parameters) > is_method


def allowed(case, argument, kind):
    """Whether a value is none of the nonsense for an argument, or can't be refused."""
    kinds = ALLOWED[case.specs.get(argument) or SPECS[argument]]
    return kinds is None or kind in kinds or (kind.startswith("recursive") and is_keras_layer(case))


def fault(case, argument, kind, arguments):
    """What is wrong with the answer to one nonsense value, or `None`."""
    value = NONSENSE[kind]()
    arguments = {**arguments, argument: value}
    try:
        case.call(**arguments)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        named = f"`{argument}" in text or f"{argument}=" in text
        path = isinstance(value, str | pathlib.Path) and value and str(value) in text
        return None if named or path else f"{type(error).__name__} without the argument: {text.splitlines()[0][:150]}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:150]}"
    return "accepted"


def test_every_public_callable_is_in_the_table():
    missing = [name for name, thing in public_callables().items() if untested(name, thing)]
    assert not missing, f"no case in tests/campaigns/callables.py and no reason: {missing}"
    unknown = {name for name in CASES if not name.endswith("__call__")} - set(public_callables())
    assert not unknown, f"cases of callables that there are not: {sorted(unknown)}"


@pytest.mark.slow
def test_nonsense_is_refused_with_the_name_of_the_argument(cases, seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    triples = [
        (name, argument, kind)
        for name, case in CASES.items()
        for argument in case.argument_names()
        if argument not in INCIDENTAL
        for kind in NONSENSE
        if not allowed(case, argument, kind)
    ]
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(triples))[: cases(3000)])
    faults, made = [], {}
    for number in chosen:
        name, argument, kind = triples[number]
        # Made again only after a call that may have changed them.
        made = made if name in made else {name: CASES[name].arguments()}
        answer = fault(CASES[name], argument, kind, made[name])
        if answer:
            made = {}
            faults.append(f"{name}({argument}={kind}): {answer}")
    with capsys.disabled():
        print(
            f"\narguments: {len(CASES)} callables, {len(chosen)} of {len(triples)} values of nonsense, "
            f"{len(faults)} not refused by name (backend {keras.backend.backend()}, seed {seed})"
        )
    assert not faults, "\n".join(faults)
