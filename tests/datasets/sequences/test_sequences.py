"""Google-12 and HAR-2 from their published file formats, in files that the tests write."""

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.sequences import sequence_data


def write_npy(folder, name, counts=(7, 4), first_label=0):
    """EdgeML's files: rows of a label and the features of one step after the other."""
    steps, features, classes = sequence_data.SHAPES[name]
    random, made = np.random.default_rng(0), {}
    for part, count in zip(("train", "test"), counts, strict=True):
        x = random.normal(size=(count, steps, features)).astype("float32")
        y = (np.arange(count) + classes - 1) % classes
        x[..., 0] += 3 * y[:, None]  # easy to tell apart
        np.save(folder / f"{part}.npy", np.concatenate([y[:, None] + first_label, x.reshape(count, -1)], axis=1))
        made[part] = x, y
    return made


def write_uci(folder, activities=(1, 2, 3, 4, 5, 6)):
    """The text files of the UCI repository: a file a signal, a line an example."""
    root, random, made = folder / "UCI HAR Dataset", np.random.default_rng(0), {}
    for part in ("train", "test"):
        signals = root / part / "Inertial Signals"
        signals.mkdir(parents=True)
        x = random.normal(size=(len(activities), 128, 9)).astype("float32")
        for k, kind in enumerate(("body_acc", "body_gyro", "total_acc")):
            for i, axis in enumerate("xyz"):
                np.savetxt(signals / f"{kind}_{axis}_{part}.txt", x[..., 3 * k + i], fmt="%16.7e")
        np.savetxt(root / part / f"y_{part}.txt", activities, fmt="%d")
        made[part] = x
    return made


@pytest.mark.parametrize("name", ["google12", "har2"])
@pytest.mark.parametrize("first_label", [0, 1])
def test_files_of_edgeml_are_read_step_after_step(name, first_label, tmp_path):
    steps, features, classes = sequence_data.SHAPES[name]
    (tmp_path / name).mkdir()
    made = write_npy(tmp_path / name, name, (classes + 1, 4), first_label)
    data = getattr(datasets, name)(tmp_path)
    assert (data.sequence_shape, data.num_classes, data.name) == ((steps, features), classes, name)
    for x, y, part in ((data.x_train, data.y_train, "train"), (data.x_test, data.y_test, "test")):
        np.testing.assert_array_equal(x, made[part][0])
        np.testing.assert_array_equal(y, made[part][1])


def test_files_of_uci_become_two_classes(tmp_path):
    made = write_uci(tmp_path)
    data = datasets.har2(tmp_path)
    np.testing.assert_allclose(data.x_train, made["train"], rtol=1e-6)
    np.testing.assert_allclose(data.x_test, made["test"], rtol=1e-6)
    # 1 walking, 2 upstairs, 3 downstairs, 4 sitting, 5 standing, 6 laying.
    assert data.y_train.tolist() == [1, 0, 1, 0, 1, 0]


def test_each_entry_is_standardised_by_the_sequences_to_train_on(tmp_path):
    made = write_npy(tmp_path, "har2", (20, 4))
    x, y = made["train"]
    x[:, 3, 5] = 2.5  # a constant feature
    np.save(tmp_path / "train.npy", np.concatenate([y[:, None], x.reshape(20, -1)], axis=1))
    options = {"validation_split": 5, "validation_seed": 1, "validation_stratified": True}
    batches = datasets.sequence_batches(datasets.har2(tmp_path), 5, **options)
    assert (batches.steps_per_epoch, batches.image_shape, batches.num_validation) == (3, (128, 9), 5)
    stream = iter(batches.train())
    seen = [next(stream) for _ in range(3)]
    trained = np.concatenate([np.asarray(images) for images, _ in seen])
    assert trained.dtype == np.float32
    np.testing.assert_allclose(trained.mean(axis=0), 0, atol=1e-5)
    deviation = trained.std(axis=0)
    assert deviation[3, 5] == 0
    deviation[3, 5] = 1
    np.testing.assert_allclose(deviation, 1, atol=1e-4)
    assert np.bincount(np.concatenate([np.asarray(labels) for _, labels in seen])).tolist() in ([8, 7], [7, 8])
    test = np.concatenate([np.asarray(images) for images, _ in batches.test()])
    assert len(test) == 4 and np.abs(test).max() < 20


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: np.save(folder / "test.npy", np.zeros((4, 5))), r"test.npy must hold rows of 1153 numbers"),
        (lambda folder: np.save(folder / "test.npy", np.full((4, 1153), np.nan)), "test.npy must hold finite numbers"),
        (lambda folder: np.save(folder / "test.npy", np.full((4, 1153), 5.0)), "labels of 2 consecutive classes"),
        (lambda folder: np.save(folder / "test.npy", np.array([None])), "test.npy is not a readable .npy file"),
        (lambda folder: (folder / "test.npy").write_bytes(b"\x93NUMPY"), "test.npy is not a readable .npy file"),
        (lambda folder: np.save(folder / "test.npy", np.zeros((0, 1153))), "test.npy must hold rows of 1153"),
    ],
)
def test_damaged_files_are_named(damage, message, tmp_path):
    write_npy(tmp_path, "har2")
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        datasets.har2(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "train" / "y_train.txt").write_text("7\n" * 6), "y_train.txt must hold an activity"),
        (lambda root: (root / "train" / "y_train.txt").write_text("1\n"), "an activity from 1 to 6 for each of the 6"),
        (lambda root: (root / "train" / "y_train.txt").write_text("walking\n"), "y_train.txt must hold numbers"),
        (
            lambda root: (root / "test" / "Inertial Signals" / "body_acc_y_test.txt").write_text("1 2\n"),
            "body_acc_y_test.txt must hold 128 numbers in a line",
        ),
    ],
)
def test_damaged_text_is_named(damage, message, tmp_path):
    write_uci(tmp_path)
    damage(tmp_path / "UCI HAR Dataset")
    with pytest.raises(ValueError, match=message):
        datasets.har2(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`data_dir` must be given for google12"):
        datasets.google12()
    with pytest.raises(FileNotFoundError, match="holds no train.npy and test.npy of har2, nor the signals"):
        datasets.har2(tmp_path)
    write_npy(tmp_path, "google12")
    (tmp_path / "test.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"test.npy is missing"):
        datasets.google12(tmp_path)
    write_uci(tmp_path)
    (tmp_path / "UCI HAR Dataset" / "test" / "Inertial Signals" / "total_acc_z_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"total_acc_z_test.txt is missing"):
        datasets.har2(tmp_path / "UCI HAR Dataset")
