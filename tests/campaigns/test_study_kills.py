"""A study that is killed, and one whose cluster loses a worker, have the table of a study in peace."""

import pytest

from tests.campaigns import study_kills
from tests.train.runs import write_digits

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

STUDY = """
program = "classifier"
config = "lenet300_magnitude"
seeds = [0, 1]
threads = 1
[settings]
data_dir = "{digits}"
train_examples = 0
validation_split = 0.25
epochs = 12
batch_size = 16
lr_boundaries = [8]
lr_factors = [0.1]
frequency = 1
[axes]
final_sparsity = [0.8, 0.9]
"""


def test_the_table_is_that_of_a_study_in_peace(tmp_path):
    (tmp_path / "digits").mkdir()
    file = tmp_path / "mine.toml"
    file.write_text(STUDY.format(digits=write_digits(tmp_path / "digits")))
    peace = tmp_path / "peace"
    study_kills.in_peace(file, peace, jobs=2)
    study_kills.killed(file, tmp_path / "killed", jobs=2, after=1)
    assert study_kills.check_same(file, peace, tmp_path / "killed") > 4
    pytest.importorskip("ray")
    study_kills.on_a_cluster(file, tmp_path / "ray", after=1)
    assert study_kills.check_same(file, peace, tmp_path / "ray") > 4
