"""Settings that every test shares: a quiet TensorFlow, fixed seeds, no global state left behind."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker is a process of its own: more threads would only get in each other's way.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest

from tests import compiled_parts


@pytest.fixture(autouse=True)
def fresh_keras_state():
    """Seeds every generator before a test and restores Keras' global settings after it."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    image_data_format = keras.config.image_data_format()
    keras.utils.set_random_seed(1902)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image_data_format)


@pytest.fixture(scope="session", autouse=True)
def package_functions_can_run_uncompiled(request):
    """In the fast tests XLA compiles the package's own functions only where a test asks for it."""
    compiled_parts.install()
    compiled_parts.enabled = request.config.option.markexpr != "not slow"


@pytest.fixture(autouse=True)
def compiled_where_a_test_asks(request):
    """Tests marked `xla` run what the package compiles by itself compiled."""
    before = compiled_parts.enabled
    compiled_parts.enabled = before or request.node.get_closest_marker("xla") is not None
    yield
    compiled_parts.enabled = before


@pytest.fixture
def uncompiled():
    with compiled_parts.uncompiled_steps():
        yield


def pytest_collection_modifyitems(items):
    """Skips tests marked `tensorflow` under another Keras backend, and those marked `not_on_torch` under torch."""
    for item in items:
        if item.get_closest_marker("tensorflow") and keras.config.backend() != "tensorflow":
            item.add_marker(pytest.mark.skip(reason="needs KERAS_BACKEND=tensorflow"))
        not_on_torch = item.get_closest_marker("not_on_torch")
        if not_on_torch and keras.config.backend() == "torch":
            item.add_marker(pytest.mark.skip(reason=f"torch: {not_on_torch.args[0]}"))
