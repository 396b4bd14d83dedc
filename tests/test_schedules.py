"""Schedules: published tables, exact ends, numbers and tensors alike, clear errors."""

import doctest
import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_tf import schedules
from sparsity_tf.schedules import (
    Constant,
    Cosine,
    Cubic,
    Exponential,
    ExponentialMovingAverage,
    Linear,
    Piecewise,
    Polynomial,
)

ALL = [
    Constant(0.25),
    Polynomial(0.1, 0.9, begin_step=10, end_step=70, power=2.5),
    Cubic(0.0, 0.9, begin_step=0, end_step=50),
    Linear(1.0, 0.0, begin_step=5, end_step=60),
    Cosine(0.3, begin_step=20, end_step=80, floor=0.005),
    Exponential(0.5, rate=0.99, decay_steps=7, begin_step=3),
    Exponential(0.5, rate=0.5, decay_steps=20, staircase=True),
    Piecewise([10, 40], [0.0, 0.5, 1.0]),
    ExponentialMovingAverage(Cubic(0.0, 1.0, begin_step=0, end_step=60), decay=0.9),
]
IDS = [f"{index}-{type(schedule).__name__}" for index, schedule in enumerate(ALL)]


@pytest.mark.parametrize(
    ("step", "begin", "end", "expected"),
    [
        (70000, 40000, 100000, 0.787500),
        (100000, 0, 400000, 0.520313),
        (390000, 0, 400000, 0.899986),
        (40000, 40000, 100000, 0.0),
        (100000, 40000, 100000, 0.9),
        (96000, 8000, 100000, 0.899926),
        (64000, 40000, 68000, 0.897376),
    ],
)
def test_cubic_sparsity_ramp_has_the_values_of_the_state_of_sparsity_sheet(step, begin, end, expected):
    assert Cubic(0.0, 0.9, begin, end)(step) == pytest.approx(expected, abs=5e-7)


def test_cubic_ramp_of_half_sparsity_ends_as_the_published_runs_did():
    # Begin 400000, end 500000, last update 490000: 0.4995 (state_of_sparsity.md 3.2).
    assert Polynomial(0.0, 0.5, 400000, 500000)(490000) == pytest.approx(0.4995, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (20, 0.0),
        (21, 0.0442542),
        (30, 0.3791667),
        (40, 0.6333333),
        (50, 0.7875),
        (60, 0.8666667),
        (70, 0.8958333),
        (78, 0.8999667),
        (79, 0.8999958),
    ],
)
def test_gradual_pruning_per_epoch_has_the_values_of_the_str_sheet(epoch, expected):
    # Epochs 20 to 79, T = 79 - 20 + 1: the ramp would end at epoch 80.
    assert Cubic(0.0, 0.9, 20, 80)(epoch) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(
    ("step", "raw", "smooth"),
    [
        (10, 0.029701, 0.01232),
        (100, 0.271, 0.248664),
        (500, 0.875, 0.867989),
        (1000, 1.0, 0.999995),
    ],
)
def test_cubic_penalty_ramp_and_its_moving_average_have_the_published_values(step, raw, smooth):
    ramp = Cubic(0.0, 1.0, begin_step=0, end_step=1000)
    assert ramp(step) == pytest.approx(raw, abs=5e-7)
    assert ExponentialMovingAverage(ramp, decay=0.9)(step) == pytest.approx(smooth, abs=5e-7)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.5),
        (1, 0.499878),
        (10, 0.487886),
        (25, 0.427509),
        (50, 0.2525),
        (75, 0.077491),
        (99, 0.005122),
        (100, 0.005),
        (105, 0.005),
    ],
)
def test_cosine_with_floor_has_the_values_of_the_sparse_momentum_sheet(step, expected):
    assert Cosine(0.5, 0, 100, floor=0.005)(step) == pytest.approx(expected, abs=5e-7)


def test_cosine_is_rigl_drop_fraction():
    schedule = Cosine(0.3, begin_step=0, end_step=25000)
    for step in (0, 100, 12500, 24900):
        expected = 0.3 / 2 * (1 + math.cos(math.pi * step / 25000))
        assert schedule(step) == pytest.approx(expected, rel=1e-12)
    assert schedule(25000) == 0.0
    assert schedule(32000) == 0.0


def test_exponential_is_geometric_and_stairs_hold_between_multiples():
    # The seed release of sparse momentum: times 0.99 every 600 steps.
    smooth = Exponential(0.5, rate=0.99, decay_steps=600)
    stairs = Exponential(0.5, rate=0.99, decay_steps=600, staircase=True)
    assert smooth(1800) == pytest.approx(0.5 * 0.99**3)
    assert smooth(900) == pytest.approx(0.5 * 0.99**1.5)
    assert stairs(599) == 0.5
    assert stairs(600) == stairs(1199) == pytest.approx(0.5 * 0.99)


def test_piecewise_changes_at_its_boundary():
    schedule = Piecewise([10, 20], [0.1, 0.2, 0.3])
    assert [schedule(step) for step in (0, 9, 10, 19, 20, 99)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_piecewise_may_have_any_number_of_boundaries():
    assert Piecewise([], [0.5])(7) == 0.5
    assert [Piecewise([0], [1.0, 2.0])(step) for step in (0, 1)] == [2.0, 2.0]
    assert [Piecewise([4], [1.0, 2.0])(step) for step in (0, 3, 4)] == [1.0, 1.0, 2.0]
    assert Piecewise([], [0.5]).settled_from == 0
    assert Piecewise([4], [1.0, 2.0]).settled_from == 4
    assert Piecewise([1, 5, 9], [0, 1, 2, 3]).settled_from == 9


def test_linear_passes_through_the_middle():
    assert Linear(0.2, 0.8, 10, 30)(20) == pytest.approx(0.5)


@given(
    initial=st.floats(-10, 10),
    final=st.floats(-10, 10),
    begin=st.integers(0, 1000),
    length=st.integers(1, 1000),
    power=st.floats(0.1, 8),
    step=st.integers(0, 3000),
)
@settings(max_examples=50, deadline=None)
def test_polynomial_is_exact_at_and_outside_its_ends_and_between_them_inside(
    initial, final, begin, length, power, step
):
    schedule = Polynomial(initial, final, begin, begin + length, power)
    value = schedule(step)
    if step <= begin:
        assert value == initial
    elif step >= begin + length:
        assert value == final
    else:
        low, high = sorted((initial, final))
        assert low - 1e-12 <= value <= high + 1e-12


@given(decay=st.floats(0, 0.99), step=st.integers(0, 2000))
@settings(max_examples=25, deadline=None)
def test_moving_average_equals_its_recursion(decay, step):
    ramp = Cubic(0.0, 1.0, begin_step=20, end_step=700)
    average = 0.0
    for t in range(step + 1):
        average = decay * average + (1 - decay) * ramp(t)
    assert ExponentialMovingAverage(ramp, decay)(step) == pytest.approx(average, abs=1e-12)


def test_the_moving_average_starts_with_the_value_of_step_0():
    average = ExponentialMovingAverage(1.0, decay=0.5)
    assert [average(step) for step in (0, 1, 2)] == [0.5, 0.75, 0.875]


@pytest.mark.parametrize("decay,terms", [(0.0, 1), (0.5, 54), (0.9, 349), (0.999, 36_719)])
def test_the_moving_average_is_settled_when_the_oldest_term_of_double_precision_is(decay, terms):
    assert decay**terms < 2.0**-53 <= decay ** (terms - 1)
    average = ExponentialMovingAverage(Piecewise([60], [0.0, 1.0]), decay)
    assert average.settled_from == 60 + terms - 1
    assert average(average.settled_from) == average(average.settled_from + 1) == pytest.approx(1.0, abs=1e-12)


def test_the_moving_average_takes_a_number_or_config_for_a_schedule():
    assert ExponentialMovingAverage(0.5).schedule == Constant(0.5)
    assert ExponentialMovingAverage(schedules.serialize(ALL[1])).schedule == ALL[1]


def test_the_moving_average_asks_its_schedule_for_no_step_before_the_first():
    asked = []

    class Asked(schedules.Schedule):
        def value(self, step, xp):
            asked.append(step.min())
            return xp.sqrt(step)

    expected = sum(0.1 * 0.9**k * math.sqrt(3 - k) for k in range(4))
    assert ExponentialMovingAverage(Asked(), decay=0.9)(3) == pytest.approx(expected)
    assert min(asked) == 0


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_python_numbers_give_floats_and_arrays_the_same_values(schedule):
    steps = np.arange(100)
    values = schedule(steps)
    assert values.shape == (100,) and values.dtype == "float64"
    for step in (0, 10, 33, 99):
        assert type(schedule(step)) is float
        assert schedule(step) == values[step] == schedule(np.int32(step))


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_tensors_and_variables_give_the_same_values_in_float32(schedule):
    steps = np.arange(100, dtype="int32")
    values = schedule(keras.ops.convert_to_tensor(steps))
    if keras.config.backend() == "numpy":
        assert values.dtype == "float64"
    else:
        assert keras.backend.standardize_dtype(values.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(values), schedule(steps), rtol=2e-6, atol=1e-6)
    iterations = keras.Variable(37, dtype="int32", trainable=False)
    assert keras.ops.convert_to_numpy(schedule(iterations)) == pytest.approx(schedule(37), abs=1e-6)


@pytest.mark.compiled
@pytest.mark.tensorflow
@pytest.mark.parametrize("schedule", ALL, ids=IDS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_schedules_work_inside_a_compiled_function(schedule, jit_compile):
    import tensorflow as tf

    compiled = tf.function(schedule, jit_compile=jit_compile)
    for step in (0, 25, 90):
        value = compiled(tf.constant(step, "int64"))
        assert float(value) == pytest.approx(schedule(step), abs=1e-6)
    assert compiled.experimental_get_tracing_count() == 1


def test_steps_beyond_float32_integers_keep_their_precision():
    begin = 2**26
    schedule = Linear(0.0, 1.0, begin, begin + 10)
    value = schedule(keras.ops.convert_to_tensor(np.array(begin + 3, "int32")))
    assert keras.ops.convert_to_numpy(value) == pytest.approx(0.3)


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_nothing_changes_once_settled(schedule):
    settled = schedule.settled_from
    if settled is None:
        assert isinstance(schedule, Exponential)
        return
    values = schedule(np.arange(settled, settled + 500))
    np.testing.assert_allclose(values, values[0], rtol=1e-15)


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_configs_survive_json(schedule):
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    assert schedules.get(config) == schedule
    assert type(schedule).from_config(schedule.get_config()) == schedule


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(np.float32(0), np.float64(1), np.int64(0), np.int32(9)),
        Exponential(np.float32(1), 0.5, np.int64(10), staircase=np.True_),
        Piecewise([np.int64(3)], [np.float32(0), np.float64(0.5)]),
        ExponentialMovingAverage(np.float32(0.5), np.float32(0.5)),
    ],
)
def test_numbers_of_numpy_are_plain_ones_in_a_config(schedule):
    config = schedules.serialize(schedule)
    assert json.loads(json.dumps(config)) == config
    assert schedules.get(config) == schedule


def test_schedules_are_immutable():
    with pytest.raises(AttributeError):
        Constant(1.0).constant = 2.0


def test_get_understands_numbers_names_and_callables():
    assert schedules.get(0.5) == Constant(0.5)
    assert schedules.get(ALL[1]) is ALL[1]
    assert schedules.get("linear", initial=0.0, final=1.0, begin_step=0, end_step=4)(1) == 0.25

    def halve(step):
        return 0.5**step

    assert schedules.get(halve) is halve


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Linear(0.0, 1.0, 10, 10), "begin_step"),
        (lambda: Cubic(0.0, 1.0, 11, 10), "begin_step"),
        (lambda: Cosine(0.3, 5, 5), "begin_step"),
        (lambda: Polynomial(0.0, 1.0, 0, 10, power=0), "power"),
        (lambda: Polynomial(0.0, 1.0, 0, 10, power=-1), "power"),
        (lambda: Polynomial(0.0, 1.0, 0, 10, power=math.nan), "power"),
        (lambda: Polynomial(math.nan, 1.0, 0, 10), "initial"),
        (lambda: Polynomial(0.0, math.inf, 0, 10), "final"),
        (lambda: Polynomial(0.0, "high", 0, 10), "final"),
        (lambda: Polynomial(0.0, 1.0, 0.5, 10), "begin_step"),
        (lambda: Polynomial(0.0, 1.0, -1, 10), "begin_step"),
        (lambda: Polynomial(0.0, 1.0, 0, 10.0), "end_step"),
        (lambda: Polynomial(0.0, 1.0, 0, True), "end_step"),
        (lambda: Cosine(0.3, 0, 10, floor=math.nan), "floor"),
        (lambda: Exponential(1.0, rate=0.0, decay_steps=10), "rate"),
        (lambda: Exponential(1.0, rate=0.9, decay_steps=0), "decay_steps"),
        (lambda: Exponential(1.0, rate=0.9, decay_steps=10, begin_step=-1), "begin_step"),
        (lambda: Piecewise([5], [0]), "values"),
        (lambda: Piecewise([-1], [0, 1]), "boundaries"),
        (lambda: Piecewise([5, 5], [0, 1, 2]), "boundaries"),
        (lambda: Piecewise([2.5], [0, 1]), "boundaries"),
        (lambda: Piecewise([5], [0, 1, 2]), "values"),
        (lambda: Piecewise([5], [0, math.nan]), "values"),
        (lambda: ExponentialMovingAverage(Constant(1.0), decay=1.0), "decay"),
        (lambda: ExponentialMovingAverage(Constant(1.0), decay=-0.1), "decay"),
        (lambda: ExponentialMovingAverage(math.sin), "schedule"),
        (lambda: Constant(math.nan), "constant"),
        (lambda: Constant(True), "constant"),
        (lambda: schedules.get("quadratic"), "identifier"),
        (lambda: schedules.get(None), "identifier"),
        (lambda: schedules.get({"class_name": "Sine", "config": {}}), "identifier"),
        (lambda: schedules.get(0.5, initial=3), "initial"),
        (lambda: schedules.serialize(math.sin), "schedule"),
        (lambda: Constant(1.0)(-1), "step"),
        (lambda: Constant(1.0)(2.5), "step"),
        (lambda: Constant(1.0)(math.nan), "step"),
        (lambda: Constant(1.0)(np.array([1.0])), "step"),
        (lambda: Constant(1.0)(np.array([-1])), "step"),
        (lambda: Constant(1.0)(keras.ops.convert_to_tensor(1.5)), "step"),
        (lambda: Constant(1.0)("3"), "step"),
    ],
)
def test_bad_input_is_a_value_error_naming_the_argument(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


def test_examples_in_the_docstrings_are_true():
    failed, tried = doctest.testmod(schedules, extraglobs=vars(schedules))
    assert tried >= 3 and failed == 0
