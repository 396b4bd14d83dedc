"""Every public callback is a recipe in data: JSON and TOML hold its config, which makes the same callback."""

import inspect
import json

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks as c
from sparsity_tf import distributions, schedules
from tests.callbacks.algorithm_cases import CASES

tomllib = pytest.importorskip("tomllib")
DATA = (np.zeros((4, 3)), np.zeros(4))
CALLBACKS = {
    name: value
    for name, value in vars(c).items()
    if name in c.__all__ and isinstance(value, type) and issubclass(value, keras.callbacks.Callback)
}
# What callbacks need beside their defaults.
NEEDED = {
    "ACDC": {"final_sparsity": 0.9},
    "IterativePruning": {"final_sparsity": 0.8, "rounds": 2, "steps_per_round": 5},
    "MagnitudePruning": {"final_sparsity": 0.9},
    "NetworkSlimming": {"final_sparsity": 0.5},
    "RandomPruning": {"final_sparsity": 0.9},
    "SparsityRamp": {"final_sparsity": 0.9},
    "PenaltyRamp": {"num_examples": 60_000},
}
SCHEDULES = [
    schedules.Constant(0.3),
    schedules.Polynomial(0.0, 0.9, 10, 20, power=2.0),
    schedules.Cubic(0.0, 0.9, 10, 20),
    schedules.Linear(0.0, 0.9, 10, 20),
    schedules.Cosine(0.3, 0, 100),
    schedules.Exponential(0.3, rate=0.5, decay_steps=10),
    schedules.Piecewise([3], [0.5, 0.25]),
    schedules.ExponentialMovingAverage(schedules.Cubic(0.0, 1.0, 0, 1000), 0.9),
]


def toml(value):
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    assert isinstance(value, str | bool | int | float), f"TOML has no {value!r}"
    return json.dumps(value)


def through_files(data):
    by_json = json.loads(json.dumps(data))
    assert tomllib.loads(f"callback = {toml(data)}")["callback"] == by_json == data
    return by_json


def check(callback, **more):
    data = c.serialize(callback)
    again = c.deserialize(through_files(data), **more)
    assert type(again) is type(callback) and c.serialize(again) == data
    assert repr(again) == repr(c.deserialize(data, **more))
    for name, value in vars(callback).items():
        # `_repr` shows only what a call gives that is not a default, and the batch belongs to the test.
        if isinstance(value, str | bool | int | float | tuple | schedules.Schedule) and name not in ("_repr", "data"):
            assert vars(again)[name] == value, name
    return again


def data_for(kind):
    return {"data": DATA} if "data" in inspect.signature(kind).parameters else {}


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_public_callback_goes_through_json_and_toml(name):
    kind = CALLBACKS[name]
    callback = kind(**NEEDED.get(name, {}), **data_for(kind))
    again = check(callback, **data_for(kind))
    # Keras's own functions know the class as well, as for its layers and optimizers.
    assert keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is kind
    if not data_for(kind):
        same = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(callback))
        assert same.get_config() == again.get_config()


@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_as_the_shared_tests_make_it(name):
    algorithm = CASES[name].make(seed=3)
    check(algorithm, **data_for(type(algorithm)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_every_schedule_inside_a_callback(schedule):
    assert {type(one) for one in SCHEDULES} >= set(schedules._CLASSES.values())
    again = check(c.PenaltyRamp(num_examples=10, schedule=schedule))
    assert again.schedule == schedule
    if not isinstance(schedule, schedules.ExponentialMovingAverage):
        assert check(c.MagnitudePruning(0.9, schedule=schedule)).schedule == schedule
    assert check(c.RigL(0.9, drop_fraction=schedule)).get_config()["drop_fraction"] == schedules.serialize(schedule)


def test_schedules_of_the_frequency_and_distributions():
    frequency = schedules.Piecewise([50], [10, 20])
    assert check(c.RigL(0.9, frequency=frequency, end_step=90)).frequency == frequency
    for distribution in (distributions.ErdosRenyiKernel(0.5), distributions.BySize(), {"dense_1": 0.8, "conv.*": 0.5}):
        again = check(c.MagnitudePruning(0.9, distribution=distribution)).distribution
        assert again == distribution and type(again) is type(distribution)
    assert check(c.MagnitudePruning(structure="2:4")).structure == "2:4"
    assert check(c.RandomPruning(0.5, structure=sparsity_structure("2:4"))).structure == "2:4"


def sparsity_structure(text):
    from sparsity_tf.masks import structures

    return structures.get(text)


def test_none_in_the_place_of_another_default():
    assert c.SparseMomentum().redistribution is not None
    config = c.SparseMomentum(redistribution=None).get_config()
    assert config["redistribution"] == "none"
    assert check(c.SparseMomentum(redistribution=None)).redistribution is None


def test_numbers_of_numpy_and_paths(tmp_path):
    config = c.RigL(np.float32(0.9), seed=np.int64(4)).get_config()
    assert config["sparsity"] == 0.9 and type(config["sparsity"]) is float and type(config["seed"]) is int
    assert c.SparsityMonitor(tmp_path / "a.csv").get_config()["csv_path"] == str(tmp_path / "a.csv")


def test_the_config_says_the_call_and_not_what_became_of_it():
    names = ["dense_1"]
    algorithm = c.MagnitudePruning(0.9, dense=names)
    names.append("dense_2")
    algorithm.final_sparsity = 0.1
    assert algorithm.get_config()["dense"] == ["dense_1"] and algorithm.get_config()["final_sparsity"] == 0.9
    algorithm.get_config()["dense"].append("dense_3")
    assert algorithm.get_config()["dense"] == ["dense_1"]


@keras.saving.register_keras_serializable("tests")
def smallest(weight):
    return np.abs(weight.value)


@keras.saving.register_keras_serializable("tests")
class Renamed(c.RigL):
    def __init__(self, share=0.5, **options):
        super().__init__(sparsity=share, **options)
        self.share = share


def test_functions_and_classes_of_the_user_that_keras_knows():
    assert check(c.RigL(0.9, drop=smallest)).get_config()["drop"] == {
        "class_name": "function",
        "config": "tests>smallest",
    }
    again = check(Renamed(0.25, seed=7))
    assert again.share == 0.25 and again.seed == 7 and c.serialize(again)["class_name"] == "tests>Renamed"


def test_what_a_config_cannot_hold_is_said():
    with pytest.raises(ValueError, match=r"`drop` must be a plain value, or registered .* Received: drop=<function"):
        c.RigL(0.9, drop=lambda weight: np.abs(weight.value)).get_config()

    class Own(c.RigL):
        pass

    with pytest.raises(ValueError, match="`callback` must be of a class that is registered"):
        c.serialize(Own(0.9))
    assert Own.from_config(Own(0.8).get_config()).get_config() == Own(0.8).get_config()


@pytest.mark.parametrize(
    "config,message",
    [
        ({"class_name": "Rigl", "config": {}}, r"`class_name` of `config` must be one of .*RigL, .*class_name='Rigl'"),
        ({"config": {}}, "class_name=None"),
        ({"class_name": "RigL", "config": {"sparcity": 0.9}}, r"`config` of RigL may hold sparsity, .*: sparcity"),
        ({"class_name": "RigL", "config": {"self": 1}}, "Received: self"),
        ({"class_name": "RigL", "config": 3}, "`config` must be"),
        ({"class_name": "RigL", "settings": {}}, "`config` may hold class_name and config. Received: settings"),
        ({"class_name": "RigL", "config": {"sparsity": 2.0}}, "`sparsity` must be"),
        ({"class_name": "RigL", "config": {"drop": {"class_name": "function", "config": "no>such"}}}, "'no>such'"),
        ("RigL", "`config` must be"),
    ],
)
def test_wrong_configs(config, message):
    with pytest.raises(ValueError, match=message):
        c.deserialize(config)
