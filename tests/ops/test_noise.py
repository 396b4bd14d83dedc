"""Random numbers: reproducible from seed and counter, correctly distributed, the same compiled."""

import statistics

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf.ops import hashed_noise, noise
from tests.gradients import compiled, gradients, weighted_sum

pytestmark = pytest.mark.compiled

DRAWS = {"normal": noise.normal, "uniform": noise.uniform}


@pytest.fixture(params=DRAWS)
def draw(request):
    def numbers(generator, shape=(64, 3)):
        return ops.convert_to_numpy(DRAWS[request.param](shape, generator))

    return numbers


def test_a_seed_determines_all_draws(draw):
    ours, same, other = (keras.random.SeedGenerator(seed) for seed in (7, 7, 8))
    for _ in range(3):
        first = draw(ours)
        np.testing.assert_array_equal(first, draw(same))
        assert not np.isclose(first, draw(other)).any(axis=1).all()


def test_every_draw_advances_the_counter_and_a_saved_counter_resumes(draw):
    generator = keras.random.SeedGenerator(7)
    first = draw(generator)
    saved = ops.convert_to_numpy(generator.state)
    second, third = draw(generator), draw(generator)
    assert (first != second).mean() > 0.99 and (second != third).mean() > 0.99
    resumed = keras.random.SeedGenerator(1234)
    resumed.state.assign(saved)
    np.testing.assert_array_equal(draw(resumed), second)
    np.testing.assert_array_equal(draw(resumed), third)


def test_neighbouring_seeds_do_not_repeat_each_others_numbers(draw):
    """Layers have them: what one draws in a step, the next must not draw in the step before."""
    ours, next_one = (keras.random.SeedGenerator(seed) for seed in (7, 8))
    numbers, others = ([draw(generator) for _ in range(3)] for generator in (ours, next_one))
    for one in numbers:
        for other in others:
            assert not np.isclose(one, other).any(axis=1).all()


def test_normals_are_standard_and_uncorrelated():
    x = ops.convert_to_numpy(noise.normal((200_000, 2), keras.random.SeedGenerator(1)))
    # Five standard errors.
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=5 / 447)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=5 / 632)
    np.testing.assert_allclose((x**3).mean(), 0, atol=0.05)
    np.testing.assert_allclose((x**4).mean(), 3, atol=0.1)
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 0.012
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.012


def test_uniforms_fill_the_half_open_unit_interval():
    u = ops.convert_to_numpy(noise.uniform((1_000_000,), keras.random.SeedGenerator(1)))
    assert 0 <= u.min() < 1e-5
    assert 1 - 1e-5 < u.max() < 1
    counts, _ = np.histogram(u, bins=20, range=(0, 1))
    np.testing.assert_allclose(counts, 50_000, rtol=0.025)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DRAWS)
def test_shape_and_dtype_are_the_asked_ones(name, dtype):
    shape = ops.shape(ops.ones((3, 1, 5)))
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless told so")
    x = DRAWS[name](shape, keras.random.SeedGenerator(1), dtype)
    assert tuple(x.shape) == (3, 1, 5)
    assert keras.backend.standardize_dtype(x.dtype) == dtype


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", DRAWS)
def test_compiled_draws_are_the_eager_ones(name, jit):
    import tensorflow as tf

    eager, compiling = keras.random.SeedGenerator(7), keras.random.SeedGenerator(7)
    function = tf.function(lambda: DRAWS[name]((257,), compiling), jit_compile=jit)
    for _ in range(2):
        expected = ops.convert_to_numpy(DRAWS[name]((257,), eager))
        np.testing.assert_allclose(ops.convert_to_numpy(function()), expected, rtol=1e-5, atol=1e-5)


def test_no_seed_gives_a_shifted_copy_of_another(draw):
    ours, theirs = (draw(keras.random.SeedGenerator(seed), (5_000,)) for seed in (11414, 17488))
    # 5000 of 2^23 numbers twice: about three in common by chance.
    assert np.isin(ours, theirs).mean() < 0.01


@pytest.mark.tensorflow
def test_normals_are_the_quantiles_of_the_uniforms():
    ours, theirs = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    u = np.float64(ops.convert_to_numpy(noise.uniform((20_000,), ours))) + 2.0**-24
    expected = np.array([statistics.NormalDist().inv_cdf(p) for p in u])
    assert np.abs(expected).max() > 3.5
    np.testing.assert_allclose(ops.convert_to_numpy(noise.normal((20_000,), theirs)), expected, rtol=2e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("bits,expected", [(0, -5.294704), (1 << 22, 1.494e-7), ((1 << 23) - 1, 5.294704)])
def test_the_extreme_normals(bits, expected, monkeypatch):
    """Of the 2^23 uniform numbers the first, the middle and the last: finite and symmetric."""
    import tensorflow as tf

    monkeypatch.setattr(hashed_noise, "uniform", lambda shape, seed, dtype: tf.fill(shape, bits / 2**23))
    for draw in (hashed_noise.normal, compiled(lambda *a: hashed_noise.normal(*a, "float32"))):
        arguments = ((2,), None, "float32") if draw is hashed_noise.normal else ((2,), None)
        np.testing.assert_allclose(draw(*arguments).numpy(), expected, rtol=1e-3 if bits == 1 << 22 else 1e-5)


def test_uniform_numbers_from_their_source_are_those_drawn_at_once():
    ours, theirs = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    for _ in range(2):
        drawn = noise.uniform_from(noise.uniform_source((5, 3), ours), (5, 3))
        np.testing.assert_array_equal(ops.convert_to_numpy(drawn), ops.convert_to_numpy(noise.uniform((5, 3), theirs)))


@pytest.mark.xla
@pytest.mark.parametrize("shared_axes", [(), (1,)])
def test_added_noise_and_its_gradients(shared_axes):
    mean, variance = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4, 2)).astype("float32")
    variance[0, 0] = -1e-9  # Counts as 0.
    generator = keras.random.SeedGenerator(3)
    n = ops.convert_to_numpy(noise.normal((3, 1, 2) if shared_axes else (3, 4, 2), keras.random.SeedGenerator(3)))
    n = np.broadcast_to(n, mean.shape).astype("float64")
    deviation = np.sqrt(np.maximum(variance, 0).astype("float64") + 1e-8)
    variables, upstream = [keras.Variable(mean), keras.Variable(variance)], np.linspace(-1, 1, 24).reshape(3, 4, 2)
    state = ops.convert_to_numpy(generator.state)
    add = lambda: noise.add_normal(*map(ops.convert_to_tensor, variables), generator, 1e-8, shared_axes)  # noqa: E731
    np.testing.assert_allclose(ops.convert_to_numpy(add()), mean + n * deviation, rtol=1e-4, atol=1e-5)
    generator.state.assign(state)
    by_mean, by_variance = gradients(lambda: weighted_sum(add(), upstream), variables)
    np.testing.assert_allclose(by_mean, upstream, rtol=1e-6)
    expected = np.where(variance >= 0, upstream * n / (2 * deviation), 0)
    np.testing.assert_allclose(by_variance, expected, rtol=1e-4, atol=1e-6)
