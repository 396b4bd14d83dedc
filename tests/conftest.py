"""Settings that every test shares: a quiet TensorFlow, fixed seeds, no global state left behind."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker is a process of its own: more threads would only get in each other's way.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest

# Keras and what imports it are imported where a test runs: with `-n` the process that hands out the tests needs none.


@pytest.fixture(autouse=True)
def fresh_keras_state():
    """Seeds every generator before a test and restores Keras' global settings after it."""
    import keras

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    image_data_format = keras.config.image_data_format()
    keras.utils.set_random_seed(1902)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image_data_format)


@pytest.fixture(scope="session", autouse=True)
def package_functions_can_run_uncompiled(request):
    """In the fast tests XLA compiles the package's own functions only where a test asks for it.

    In all tests, pipelines of `tf.data` do not tune themselves, and kernels outlive the seed of the next test.
    """
    from tests import compiled_parts

    compiled_parts.install()
    compiled_parts.without_autotune()
    compiled_parts.keep_kernels()
    compiled_parts.enabled = request.config.option.markexpr != "not slow"


@pytest.fixture(scope="session", autouse=True)
def garbage_is_looked_for_among_new_objects():
    """Modules and the collected tests stay until the end: the garbage collector need not go through them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def compiled_where_a_test_asks(request):
    """Tests marked `xla` run what the package compiles by itself compiled."""
    from tests import compiled_parts

    before = compiled_parts.enabled
    compiled_parts.enabled = before or request.node.get_closest_marker("xla") is not None
    yield
    compiled_parts.enabled = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """In the fast tests steps are not compiled unless a test is marked `compiled` or `xla`.

    To trace a step of a small model takes longer than to take it a hundred times. `make test-all` compiles the steps of
    all tests but those with the fixture `uncompiled`.
    """
    from tests import compiled_parts

    asked = any(item.get_closest_marker(name) for name in ("compiled", "xla"))
    if asked or item.config.option.markexpr != "not slow":
        return (yield)
    with compiled_parts.uncompiled_steps():
        return (yield)


@pytest.fixture
def uncompiled():
    from tests import compiled_parts

    with compiled_parts.uncompiled_steps():
        yield


def pytest_collection_modifyitems(items):
    """Skips tests marked `tensorflow` under another Keras backend, and those marked `not_on_torch` under torch."""
    import keras

    for item in items:
        if item.get_closest_marker("tensorflow") and keras.config.backend() != "tensorflow":
            item.add_marker(pytest.mark.skip(reason="needs KERAS_BACKEND=tensorflow"))
        not_on_torch = item.get_closest_marker("not_on_torch")
        if not_on_torch and keras.config.backend() == "torch":
            item.add_marker(pytest.mark.skip(reason=f"torch: {not_on_torch.args[0]}"))
