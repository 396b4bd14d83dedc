"""`evaluate` measures any saved classifier, and sweeps the thresholds of variational dropout."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from sparsity_tf import datasets, sparsify
from sparsity_tf.tools import evaluate
from sparsity_tf.train.classifier.evaluation import Evaluation
from tests.train.runs import write_digits

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def batches(digits):
    return datasets.array_batches(datasets.mnist(str(digits)), 8, "mean_image", eval_batch_size=9)


def network(technique=None, num_classes=10, **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    model = keras.Sequential(layers)
    return sparsify(model, technique, **options) if technique else model


def test_figures_are_those_of_the_definition(batches):
    model = network()
    images, labels = (np.concatenate(part) for part in zip(*batches.test().as_numpy_iterator(), strict=True))
    logits = model.predict(images, verbose=0).astype(float)
    ranks = (logits > logits[np.arange(32), labels][:, None]).sum(axis=1)
    figures = Evaluation(model, batches).run()
    assert figures.error == np.mean(ranks > 0) and figures.top5_error == np.mean(ranks >= 5)
    nll = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(32), labels]
    assert figures.loss == pytest.approx(nll.mean(), rel=1e-5)
    assert figures.finite and figures.only_class is None


def test_constant_and_broken_networks_are_recognised(batches):
    model = network()
    model.layers[-1].kernel.assign(np.zeros((784, 10)))
    model.layers[-1].bias.assign(np.eye(10)[7])
    evaluation = Evaluation(model, batches)
    assert evaluation.run().only_class == 7
    model.layers[-1].bias.assign(np.full(10, np.nan))
    figures = evaluation.run()  # the weights of now, not those of the first run
    assert not figures.finite and np.isnan(figures.error) and np.isnan(figures.top5_error)


def test_threshold_sweep_leaves_the_model_as_it_was(batches):
    model = network("vd", log_sigma2_initializer=-4.0)
    own = model.layers[-1].technique.log_alpha_threshold
    rows = evaluate.evaluate(model, batches, [0.0, 2.0, 20.0])
    assert [row["log_alpha_threshold"] for row in rows] == [0.0, 2.0, 20.0]
    sparsities = [row["sparsity"] for row in rows]
    assert sparsities == sorted(sparsities, reverse=True) and sparsities[0] > sparsities[-1]
    assert model.layers[-1].technique.log_alpha_threshold == own
    (saved,) = evaluate.evaluate(model, batches)
    assert saved["log_alpha_threshold"] is None


def test_threshold_without_variational_dropout_is_refused(batches):
    with pytest.raises(ValueError, match="`log_alpha_threshold` needs layers of variational dropout"):
        evaluate.evaluate(network("masked"), batches, [1.0])


def test_network_for_other_data_is_refused(batches):
    with pytest.raises(
        ValueError, match=r"gives \(3,\), but the data set mnist has images \(28, 28, 1\) of 10 classes"
    ):
        evaluate.evaluate(network(num_classes=3), batches)


def command(capsys, *arguments):
    capsys.readouterr()
    status = evaluate.main(["evaluate", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_command_prints_tables_csv_and_json(digits, tmp_path, capsys):
    path = tmp_path / "model.keras"
    network("vd").save(path)
    flags = [f"--checkpoint={path}", "--config=lenet300_vd", f"--data_dir={digits}", "--log_alpha_threshold=1,3"]
    # The preset's 60,000 examples are not needed to measure.
    status, out, _ = command(capsys, *flags)
    assert status == 0 and "32 test images" in out and "compression" in out
    status, out, _ = command(capsys, *flags, "--format=csv")
    header, *rows = out.splitlines()
    assert header == "log_alpha_threshold,error,top5_error,loss,sparsity,compression,data,num_test" and len(rows) == 2
    assert all(row.endswith(f",mnist from the IDX files in {digits}.,32") for row in rows)
    status, out, _ = command(capsys, *flags, "--format=json")
    assert [row["log_alpha_threshold"] for row in json.loads(out)] == [1.0, 3.0]
    assert {row["num_test"] for row in json.loads(out)} == {32}


def test_stand_in_data_are_noted(digits, tmp_path, capsys, monkeypatch):
    path = tmp_path / "model.keras"
    network().save(path)
    data = datasets.mnist(str(digits))
    stand_in = dataclasses.replace(data, name="mnist_demo", source="not found: 5,000 digits, a part.")
    monkeypatch.setattr(datasets, "mnist", lambda data_dir: data if data_dir else stand_in)
    flags = [f"--checkpoint={path}", "--config=lenet300_dense", "--format=csv"]
    status, out, error = command(capsys, *flags)
    assert status == 0 and error.startswith(
        "evaluate: note: no --data_dir was given, so another data set takes the place of mnist"
    )
    assert out.splitlines()[1].endswith('"not found: 5,000 digits, a part.",32')
    status, out, error = command(capsys, *flags, f"--data_dir={digits}")
    assert (status, error) == (0, "")


def test_help_needs_no_checkpoint(capsys):
    status, out, _ = command(capsys, "--help")
    assert status == 0 and "--log_alpha_threshold" in out.replace("[no]", "")


def test_wrong_use_is_one_line(digits, tmp_path, capsys):
    path = tmp_path / "model.keras"
    network().save(path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.json").touch()
    (tmp_path / "cut.keras").write_bytes(path.read_bytes()[:500])
    data = f"--data_dir={digits}"
    for flags, status, message in [
        ([], 2, "Flag --checkpoint is required"),
        ([f"--checkpoint={tmp_path / 'empty' / 'model.keras'}"], 1, "empty/recipe.json is damaged: "),
        ([f"--checkpoint={tmp_path / 'cut.keras'}", "--config=lenet300_vd", data], 1, "is damaged or truncated"),
        ([f"--checkpoint={path}", "--config=lenet300_vd", "--log_alpha_threshold=nan"], 2, "finite numbers"),
        ([f"--checkpoint={path}"], 2, "Flag --config must be given"),
        ([f"--checkpoint={path}", "--config=lenet"], 1, "`config` must be one of"),
        ([f"--checkpoint={tmp_path / 'no.keras'}", "--config=lenet300_vd", f"--data_dir={digits}"], 1, "not exist"),
        ([f"--checkpoint={path}", "--config=lenet300_vd", "--log_alpha_threshold=high"], 2, "numbers separated by"),
    ]:
        found, _, error = command(capsys, *flags)
        assert (found, error.count("\n")) == (status, 1) and message in error
