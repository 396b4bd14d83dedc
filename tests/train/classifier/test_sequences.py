"""The presets on Google-12 and HAR-2: the classifier trains a FastGRNN, and reports the rank that is left."""

import json

import pytest

from sparsity_tf import layers
from sparsity_tf.datasets.sequences import sequence_data
from sparsity_tf.train import run_folder
from sparsity_tf.train.classifier import presets, task
from tests import compiled_parts
from tests.datasets.sequences.test_sequences import write_npy
from tests.train.runs import classify

pytestmark = pytest.mark.tensorflow


def test_settings_are_those_of_fastgrnns_program():
    for dataset, units in (("google12", 100), ("har2", 80)):
        for kind in ("dense", "lowrank_dense", "str"):
            recipe = presets.PRESETS[f"{dataset}_fastgrnn_{kind}"]
            assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.epochs) == (
                "adam",
                0.01,
                100,
                300,
            )
            assert (recipe.lr_boundaries, recipe.lr_factors) == ((200,), (0.1,))
            assert recipe.model_options["units"] == units and recipe.dataset == dataset


def test_a_run_on_sequences_reports_the_ranks(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sequence_data.SHAPES, "har2", (5, 3, 2))
    write_npy(tmp_path, "har2", (12, 6))
    command = ["--config=har2_fastgrnn_str", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'run'}"]
    command += ["--batch_size=12", "--epochs=1", "--jit_compile=false", '--model_options={"units": 4}']
    monkeypatch.setattr(task, "verdict", lambda table, figures, loss, **_: None)  # one step may predict one class
    with compiled_parts.uncompiled_steps():
        status, lines, error = classify([*command, "--lr_schedule=constant"], capsys)
    assert (status, error) == (0, "")
    assert "rank of fast_grnn: 3 for the inputs, 4 for the state" in lines
    assert any(line.startswith("12 training and 6 test sequences; ") for line in lines)
    results = json.loads((tmp_path / "run" / run_folder.RESULTS).read_text())
    assert results["ranks"] == {"fast_grnn": [3, 4]}
    model = run_folder.load(tmp_path / "run" / run_folder.MODEL)
    assert isinstance(model.get_layer("fast_grnn"), layers.STRFastGRNN)
    assert not (tmp_path / "run" / run_folder.FRAMES).exists()
    for flag, message in (("--augment=flip", "`augment` must be none"), ("--normalize=mean_image", "be standardize")):
        status, _, error = classify([*command, "--overwrite", flag], capsys)
        assert status == 2 and message in error
