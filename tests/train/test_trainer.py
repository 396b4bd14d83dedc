"""A task of twenty lines is a program: the trainer prepares it, trains it, continues it and reports on it."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from sparsity_tf import datasets, sparsify
from sparsity_tf.train import log, run_folder, technique, trainer
from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import like, other
from sparsity_tf.train.sparsity_settings import SparsitySettings
from sparsity_tf.train.task import Findings, Task

pytestmark = pytest.mark.tensorflow


@dataclasses.dataclass(frozen=True)
class PixelRecipe(SparsitySettings):
    data_dir: str = other(None, "Unused.")
    epochs: int = like(Recipe, "epochs")
    seed: int = like(Recipe, "seed")
    jit_compile: str = like(Recipe, "jit_compile")
    dtype_policy: str = like(Recipe, "dtype_policy")
    steps_per_execution: int = like(Recipe, "steps_per_execution")


class PixelLog(log.EpochLog):
    def figures(self, logs):
        return {"accuracy": float(logs["accuracy"])}

    def line(self, row):
        return f"epoch {row['epoch']}, {log.sparsity_of(row)}"


class PixelTask(Task):
    """Which of two pixels is bright?"""

    log = PixelLog

    def open_data(self, recipe, folder, resume, replicas):
        labels = (np.arange(24) % 2).astype(np.uint8)
        images = np.zeros((24, 6, 6), np.uint8)
        images[np.arange(24), labels, 0] = 255
        data = datasets.ImageData(images, labels, images, labels, 2, "pixels", "made on the spot")
        return datasets.array_batches(data, 6, "none", seed=recipe.seed), {"name": "pixels"}

    def make_model(self, recipe, batches):
        inputs = keras.Input(batches.image_shape)
        hidden = keras.layers.Dense(8, "relu", name="hidden")(keras.layers.Flatten(name="flat")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(hidden))
        chosen = technique.arguments(recipe)
        if chosen["technique"]:
            model = sparsify(model, chosen["technique"], where=chosen["where"], **chosen["technique_options"])
        technique.begin_with(model, recipe)
        return model

    def objective(self, recipe, batches):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "loss": loss, "metrics": ["accuracy"]}

    def introduction(self, recipe, batches, model):
        return f"{batches.num_examples} images"

    def examine(self, prepared, table, loss):
        collapsed = None if table.finite and np.isfinite(loss) else "diverged"
        return Findings(collapsed, collapsed or f"loss {loss:.1f}", {"loss": loss})


RECIPE = PixelRecipe(
    technique="magnitude",
    final_sparsity=0.5,
    frequency="2",
    begin_step=2,
    end_step=12,
    epochs=4,
    steps_per_execution=1,
    jit_compile="false",
)


def variables_of(prepared):
    variables = [*prepared.model.variables, *prepared.model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def test_a_task_is_trained_continued_and_reported_on(tmp_path, monkeypatch, capsys):
    through = trainer.prepare(PixelTask(), RECIPE, str(tmp_path / "through"))
    result = trainer.train(through)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["data: made on the spot", "24 images, technique magnitude; XLA off, 1 steps a call"]
    assert lines[2].startswith("epoch 1, sparsity ")
    assert lines[-1] == result.line == f"loss {result.results['loss']:.1f}, sparsity 50.00 %, compression 2.0x"
    files = ("recipe.json", "metrics.csv", "checkpoint.keras", "model.keras", "sparsity.csv", "sparsity_by_step.csv")
    assert all((tmp_path / "through" / name).exists() for name in files)
    saved = json.loads((tmp_path / "through" / run_folder.RESULTS).read_text())
    assert saved == result.results
    assert (saved["epochs"], saved["collapsed"], saved["sparsity"]) == (4, None, 0.5)

    save = run_folder.Checkpoint.on_epoch_end

    def save_and_stop(self, epoch, logs=None):
        save(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.Checkpoint, "on_epoch_end", save_and_stop)
    parts = trainer.prepare(PixelTask(), RECIPE, str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(parts)
    parts.lock.release()
    monkeypatch.setattr(run_folder.Checkpoint, "on_epoch_end", save)
    parts = trainer.prepare(PixelTask(), RECIPE, str(tmp_path / "parts"), resume=True)
    assert parts.done == 1 and "resuming after epoch 1" in capsys.readouterr().out
    assert trainer.train(parts).line == result.line
    for whole, continued in zip(variables_of(through), variables_of(parts), strict=True):
        np.testing.assert_array_equal(whole, continued)


def test_a_network_that_diverged_has_no_sparsity(tmp_path, capsys):
    prepared = trainer.prepare(PixelTask(), RECIPE, str(tmp_path))
    prepared.model.optimizer.learning_rate = 1e30
    result = trainer.train(prepared)
    assert result.collapsed == "diverged" and "sparsity" not in result.results
    assert capsys.readouterr().out.splitlines()[-1] == "diverged"
    assert not (tmp_path / run_folder.MODEL).exists()


def test_a_task_must_say_all_that_the_trainer_asks():
    class Half(Task):
        def make_model(self, recipe, batches):
            raise NotImplementedError

    with pytest.raises(TypeError, match="open_data"):
        Half()
