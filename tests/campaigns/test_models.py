"""Random models x algorithm x structure x precision, on the Keras backend that runs.

    KERAS_BACKEND=torch python -m pytest -m slow tests/campaigns/test_models.py --cases=500 --seed=0 -s

(On JAX with XLA_FLAGS=--xla_backend_optimization_level=0, which compiles in two thirds of the time.)

Each case makes a random model sparse and trains it for a few steps with a random algorithm. It checks that `sparsify`
is the identity to the bit before anything is pruned, that counts are exact, that what is masked is zero after every
optimizer step, that a saved model loads as it was, and that `to_dense` predicts the same. A case is a function of the
seed and its number alone: `run_case(seed, number, folder)` repeats one.
"""

import dataclasses
import math
import traceback

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import callbacks
from sparsity_tf.layers import SparseLayer, flatten_layers, get_sparse_weights
from tests.campaigns.random_models import Draw, predict

STEPS = 4
WINDOW = dict(begin_step=1, end_step=3, frequency=1)
PRECISIONS = ("float32", "mixed_bfloat16")
STRUCTURES = (None, None, "filter", "4x1", "2:4", "1:4")
# Structures are for algorithms that only prune, and for static masks.
STRUCTURED = ("magnitude", "random", "static")


@dataclasses.dataclass
class Case:
    """What was drawn for one case."""

    algorithm: str
    structure: str | None
    precision: str
    sparsity: float
    optimizer: str

    def __str__(self):
        return f"{self.algorithm}, structure={self.structure}, {self.precision}, s={self.sparsity}, {self.optimizer}"


def draw_case(draw):
    algorithm = draw.one((*STRUCTURED, *STRUCTURED, *ALGORITHMS))
    structure = draw.one(STRUCTURES) if algorithm in STRUCTURED else None
    sparsity = {"2:4": 0.5, "1:4": 0.75}.get(structure, draw.one((0.3, 0.5, 0.77, 0.9)))
    return Case(algorithm, structure, draw.one(PRECISIONS), sparsity, draw.one(("sgd", "adam")))


def everywhere(layer):
    """All layers, said so: outputs of the network are pruned in filters only then."""
    return isinstance(layer, SparseLayer)


def gradual(algorithm):
    def make(case, data):
        return algorithm(case.sparsity, **WINDOW, structure=case.structure, where=everywhere)

    return make


def moving(algorithm, **options):
    return lambda case, data: algorithm(case.sparsity, **{**WINDOW, "distribution": "uniform", **options})


def one_shot(algorithm, **options):
    return lambda case, data: algorithm(case.sparsity, data=data, **options)


# Counts that algorithms promise, from first principles: functions of (case, weights, masks).


def floor(share, size):
    """floor(share * size) of what a decimal says: 0.7 * 30 is 21."""
    return math.floor(round(share * size, 9))


def of_zeros(case, weights, masks):
    """Of each weight's n entries floor(s n) are zero."""
    return all(np.sum(~mask) == floor(case.sparsity, mask.size) for mask in masks)


def of_live(case, weights, masks):
    """Of each weight's n groups floor((1 - s) n) live; of N:M groups each holds N."""
    if case.structure is None:
        return all(np.sum(mask) == floor(1 - case.sparsity, mask.size) for mask in masks)
    return all(holds(case.structure, case.sparsity, w, mask) for w, mask in zip(weights, masks, strict=True))


def of_static(case, weights, masks):
    return (of_live if case.structure else of_zeros)(case, weights, masks)


def holds(structure, sparsity, weight, mask):
    """Whether a mask has the structure, and as many live groups as it shall have."""
    outputs = sorted(axis % mask.ndim for axis in weight.filter_axes)
    inputs = [axis for axis in range(mask.ndim) if axis not in outputs]
    if structure == "filter":
        groups = np.transpose(mask, outputs + inputs).reshape(math.prod(mask.shape[axis] for axis in outputs), -1)
        live = groups.any(1)
        return (groups == live[:, None]).all() and np.sum(live) == floor(1 - sparsity, live.size)
    if structure == "4x1":
        rows = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(0, -mask.shape[-2] % 4), (0, 0)], mode="edge")
        groups = rows.reshape(*mask.shape[:-2], -1, 4, mask.shape[-1])
        live = groups.any(-2)
        return (groups == live[..., None, :]).all() and np.sum(live) == floor(1 - sparsity, live.size)
    n, m = map(int, structure.split(":"))
    rows = np.moveaxis(mask, inputs[-1] if inputs else mask.ndim - 1, -1)
    parts = [rows[..., start : start + m] for start in range(0, rows.shape[-1], m)]
    return all((part.sum(-1) == min(n, part.shape[-1])).all() for part in parts)


def of_all_live(case, weights, masks):
    """Of all weights' n entries together floor((1 - s) n) live."""
    return sum(np.sum(mask) for mask in masks) == floor(1 - case.sparsity, sum(mask.size for mask in masks))


def of_all_zeros(case, weights, masks):
    """Of all weights' n entries together floor(s n) are zero."""
    return sum(np.sum(~mask) for mask in masks) == floor(case.sparsity, sum(mask.size for mask in masks))


def excess(case, masks):
    """How many more entries are zero than the sum of each weight's floor(s n)."""
    return sum(np.sum(~mask) - floor(case.sparsity, mask.size) for mask in masks)


def in_sum(case, weights, masks):
    return excess(case, masks) == 0


def in_sum_live(case, weights, masks):
    """The sum of each weight's floor((1 - s) n) lives."""
    return sum(np.sum(mask) - floor(1 - case.sparsity, mask.size) for mask in masks) == 0


def nearly(case, weights, masks):
    """Sparse momentum rounds each weight's quota, and corrects the sum an update later."""
    return abs(excess(case, masks)) <= 2 * len(masks)


def anything(case, weights, masks):
    """A threshold has no count."""
    return True


ALGORITHMS = {
    "magnitude": (gradual(callbacks.MagnitudePruning), of_live),
    "random": (gradual(callbacks.RandomPruning), of_live),
    "static": (
        lambda case, data: callbacks.StaticSparsity(case.sparsity, structure=case.structure, where=everywhere),
        of_static,
    ),
    "magnitude-global": (
        lambda case, data: callbacks.MagnitudePruning(case.sparsity, **WINDOW, scope="global"),
        of_all_live,
    ),
    "set": (moving(callbacks.SET), of_zeros),
    "rigl": (moving(callbacks.RigL), of_zeros),
    "drop-and-grow": (moving(callbacks.DropAndGrow, grow="gradient", redistribution="magnitude"), in_sum),
    "sparse-momentum": (moving(callbacks.SparseMomentum), nearly),
    "dsr": (moving(callbacks.DynamicSparseReparameterization, prune_target=10, initial_threshold=0.05), in_sum_live),
    "narang": (lambda case, data: callbacks.NarangPruning(0.3, ramp_step=2, **WINDOW), anything),
    "snip": (one_shot(callbacks.SNIP), of_all_zeros),
    "snip-layer": (one_shot(callbacks.SNIP, scope="layer"), of_zeros),
    "grasp": (one_shot(callbacks.GraSP), of_all_zeros),
    "lottery": (
        lambda case, data: callbacks.IterativePruning(case.sparsity, rounds=1, steps_per_round=2, rewind_step=1),
        of_live,
    ),
}


class CheckZeros(keras.callbacks.Callback):
    """After every optimizer step: what the masks close is zero, and all is finite."""

    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        for weight, mask in zip(get_sparse_weights(self.model), masks_of(self.model), strict=True):
            value = ops.convert_to_numpy(weight.value())
            assert np.isfinite(value).all(), f"{weight.path} is not finite"
            assert not value[~mask].any(), f"{weight.path} has values outside its mask"
            if keras.backend.backend() != "jax":
                np.testing.assert_array_equal(ops.convert_to_numpy(weight.variable), value, err_msg=weight.path)


def masks_of(model):
    return [np.array(ops.convert_to_numpy(weight.mask())) for weight in get_sparse_weights(model)]


def assert_equal(found, expected, what):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=what)


def run_case(seed, number, folder):
    """Runs one case; returns what was drawn. Raises whatever goes wrong, with the case in a note."""
    # Python collects what is left by itself: to do so in every case takes half of the time.
    keras.utils.clear_session(free_memory=False)
    draw = Draw(np.random.default_rng([seed, number]))
    keras.utils.set_random_seed(number)
    case = draw_case(draw)
    try:
        keras.config.set_dtype_policy(case.precision)
        model, inputs, outputs = draw.model()
        check_case(case, model, (inputs, draw.targets(outputs)), outputs, folder)
    except Exception as error:
        error.args = (f"case {number} of seed {seed} ({case}): {error}",)
        raise
    return case


def check_case(case, model, data, outputs, folder):
    before = predict(model, data[0])
    sparsity_tf.sparsify(model, "masked")
    assert_equal(predict(model, data[0]), before, "sparsify changes predictions")

    optimizer = keras.optimizers.SGD(0.05, momentum=0.9) if case.optimizer == "sgd" else keras.optimizers.Adam(0.01)
    model.compile(optimizer, ["mse"] * outputs if outputs > 1 else "mse", run_eagerly=True)
    make, promise = ALGORITHMS[case.algorithm]
    watch = CheckZeros()
    x, y = (keras.tree.map_structure(lambda array: np.concatenate([array] * STEPS), part) for part in data)
    model.fit(x, y, batch_size=len(keras.tree.flatten(data)[0]), verbose=0, callbacks=[make(case, data), watch])
    assert watch.steps == STEPS
    weights, masks = get_sparse_weights(model), masks_of(model)
    live = [f"{int(mask.sum())} of {mask.size}" for mask in masks]
    assert promise(case, weights, masks), f"counts are not those promised: {live}"

    after = predict(model, data[0])
    path = folder / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert_equal(masks_of(loaded), masks, "the file's masks")
    assert_equal(predict(loaded, data[0]), after, "the file's predictions")

    dense = sparsity_tf.to_dense(model)
    assert not any(isinstance(layer, SparseLayer) for layer in flatten_layers(dense)), "to_dense leaves sparse layers"
    assert_equal(predict(dense, data[0]), after, "to_dense changes predictions")


@pytest.fixture
def compiled_once(tmp_path_factory):
    """JAX compiles each operation of an eager step, and again in the next model: here what it has compiled is kept."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow
def test_random_models(cases, seed, tmp_path, compiled_once):
    number, failed, drawn = cases(60), [], []
    for index in range(number):
        try:
            drawn.append(run_case(seed, index, tmp_path))
        except Exception:
            failed.append(traceback.format_exc())
    combinations = len({str((case.algorithm, case.structure, case.precision)) for case in drawn})
    print(
        f"\nmodels on {keras.backend.backend()}: {number} cases of seed {seed}, {len(failed)} failed, "
        f"{combinations} combinations of algorithm, structure and precision"
    )
    assert not failed, "\n\n".join(failed[:10])
