"""Files of an earlier version load, predict as they did, train on with the optimizer's slots, and a run continues.

`data/old_files/make.py` made them, by the code of commit c1d3e35, from before modules moved. The figures beside them
are what that code got; another processor may add in another order, hence the tolerances.
"""

import pathlib
import shutil

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import inspection, layers
from tests import fresh_process
from tests.data.old_files import make

OLD = pathlib.Path(__file__).parent / "data" / "old_files"

# Configs of later versions of Keras hold arguments that the layers of 3.12 refuse (`quantization_config`).
pytestmark = pytest.mark.skipif(keras.__version__.startswith("3.12."), reason="Keras 3.15 wrote the files")


def flat(variables):
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in variables])


@pytest.mark.parametrize("name", make.MODELS)
def test_old_model_loads_with_its_optimizer_and_predicts_as_it_did(name):
    model, expected = keras.saving.load_model(OLD / f"{name}.keras"), np.load(OLD / f"{name}.npz")
    inputs = make.inputs_of(model)
    # Without `predict`, which would compile.
    outputs = keras.ops.convert_to_numpy(model(inputs if len(inputs) > 1 else inputs[0]))
    np.testing.assert_allclose(outputs, expected["prediction"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(flat(model.optimizer.variables), expected["momenta"])
    assert int(model.optimizer.iterations) == 1
    assert 0 < inspection.sparsity_table(model).sparsity < 1
    dense = sparsity_tf.to_dense(model)
    dense_outputs = keras.ops.convert_to_numpy(dense(inputs if len(inputs) > 1 else inputs[0]))
    np.testing.assert_allclose(dense_outputs, outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow  # noise is drawn by the backend
@pytest.mark.parametrize("name", make.MODELS)
def test_old_model_trains_on_as_it_would_have(name):
    model, expected = keras.saving.load_model(OLD / f"{name}.keras"), np.load(OLD / f"{name}.npz")
    has_dropout = any(isinstance(layer, keras.layers.Dropout) for layer in layers.flatten_layers(model))
    if has_dropout and tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16):
        pytest.skip("a file holds no seed of a Dropout, and Keras 3.16 draws another one when it loads the file")
    model.run_eagerly = True  # one step is not worth tracing
    inputs = make.inputs_of(model)
    model.train_on_batch(inputs if len(inputs) > 1 else inputs[0], np.ones_like(expected["prediction"]))
    np.testing.assert_allclose(flat(model.trainable_variables), expected["next"], rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
def test_old_run_is_continued_to_the_same_end(tmp_path, capsys):
    from absl import flags

    from sparsity_tf.train.language_model import __main__ as language_model

    folder = shutil.copytree(OLD / "run", tmp_path / "run")
    values = flags.FlagValues()
    language_model.define_flags(values)
    arguments = values(["language_model", *make.RUN, f"--output_dir={folder}", "--resume"])
    assert language_model.main(arguments[:1], values) == 0
    output = capsys.readouterr()
    assert "resuming after epoch 1" in output.out and output.err == ""
    model, expected = keras.saving.load_model(folder / "checkpoint.keras"), np.load(OLD / "run.npz")
    variables = [*model.variables, *model.optimizer.variables]
    for variable, key in zip(variables, expected.files, strict=True):
        value = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-6, err_msg=variable.path)


def test_a_process_that_imports_only_the_package_knows_all_names_of_old_files():
    code = (
        "import sys, keras, sparsity_tf\n"
        "missing = [n for n in sys.argv[2].split() if keras.saving.get_registered_object(n) is None]\n"
        "assert not missing, missing\n"
        "keras.saving.load_model(sys.argv[1])\n"
    )
    arguments = [str(OLD / "transformer.keras"), (OLD / "names.txt").read_text() + "sparsity_tf>SparseGlorotUniform"]
    done = fresh_process.run(code, arguments)
    assert done.returncode == 0, done.stderr[-2000:]
