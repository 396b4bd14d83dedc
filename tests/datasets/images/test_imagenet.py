"""ImageNet in each layout it comes in: found, looked over, and every fault named with its file."""

import json
import os

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.images import records
from tests.datasets.images.imagenet_writer import example, jpeg, write_folders, write_records, write_shard

pytestmark = pytest.mark.tensorflow


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


def test_record_shards(tmp_path):
    write_records(tmp_path)
    files = datasets.imagenet(tmp_path)
    assert (files.train.num_examples, files.test.num_examples, files.num_classes) == (20, 7, 1000)
    assert [os.path.basename(path) for path in files.train.files] == [f"train-{k:05d}-of-00004" for k in range(4)]
    assert files.name == "imagenet" and str(tmp_path) in files.source
    files.verify()


def test_record_shards_in_folders_of_their_parts(tmp_path):
    write_records(tmp_path)
    for part in ("train", "validation"):
        (tmp_path / part).mkdir()
        for path in list(tmp_path.glob(f"{part}-*")):
            path.rename(tmp_path / part / path.name)
    files = datasets.imagenet(str(tmp_path))
    assert (files.train.num_examples, files.test.num_examples) == (20, 7)


def test_full_set_is_not_counted(tmp_path, monkeypatch):
    content = [example(jpeg(1), 5)]
    write_shard(tmp_path / "one", content)
    for part, total in (("train", 1024), ("validation", 128)):
        for number in range(total):
            os.link(tmp_path / "one", tmp_path / f"{part}-{number:05d}-of-{total:05d}")
    monkeypatch.setattr(records, "count_records", None)
    files = datasets.imagenet(tmp_path)
    assert (files.train.num_examples, files.test.num_examples) == (1_281_167, 50_000)


def test_missing_shard_is_named(tmp_path):
    write_records(tmp_path)
    (tmp_path / "train-00002-of-00004").unlink()
    with pytest.raises(ValueError, match="train-00002-of-00004 is missing: 3 of 4 shards"):
        datasets.imagenet(tmp_path)


def test_missing_part_is_named(tmp_path):
    write_records(tmp_path)
    for path in tmp_path.glob("validation-*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="validation-00000-of-00128 is missing.*although train shards"):
        datasets.imagenet(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"", "is empty"),
        (lambda c: c[:-3], "truncated"),
        (lambda c: jpeg(0), "no TFRecord file"),
    ],
)
def test_damaged_shard_is_named_when_the_data_set_is_made(tmp_path, change, message):
    write_records(tmp_path)
    damage(tmp_path / "validation-00001-of-00002", change)
    with pytest.raises(ValueError, match=f"validation-00001-of-00002.* {message}"):
        datasets.imagenet(tmp_path)


BAD_RECORDS = {
    "label 0 in the field 'image/class/label', which must be 1 to 1000": lambda: example(jpeg(0), 0),
    "label 1001 in the field": lambda: example(jpeg(0), 1001),
    "neither JPEG nor PNG": lambda: example(b"GIF89a", 1),
    "no image in the field 'image/encoded'": lambda: example(b"", 1),
    "not an example of image and label": lambda: b"\xff\xff\xff",
    "no image in": lambda: b"",
    "no label in the field": lambda: example(jpeg(0), -1),
}


@pytest.mark.parametrize("message", BAD_RECORDS)
def test_wrong_first_record_is_named_when_the_data_set_is_made(tmp_path, message):
    write_records(tmp_path)
    write_shard(tmp_path / "train-00003-of-00004", [BAD_RECORDS[message]()])
    with pytest.raises(ValueError, match=f"train-00003-of-00004, record 0: .*{message}"):
        datasets.imagenet(tmp_path)


def break_data(content):
    """Changes one bit in the data of the second record."""
    length = int.from_bytes(content[:8], "little")
    position = 16 + length + 12 + 100
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def damage_shard(folder, fault):
    path = folder / "train-00001-of-00004"
    good = example(jpeg(1), 2)
    if fault == "corrupt":
        damage(path, break_data)
    elif fault == "label":
        write_shard(path, [good, example(jpeg(1), 1001)])
    elif fault == "not an image":
        write_shard(path, [good, example(b"nothing", 3)])
    elif fault == "no example":
        write_shard(path, [good, b"\xff\xff\xff"])
    elif fault == "cut image":
        write_shard(path, [good, example(jpeg(1)[:400], 3)])


FAULTS = {
    "corrupt": "corrupted record",
    "label": "1001",
    "not an image": "JPEG",
    "cut image": "JPEG",
    "no example": "parse",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_names_file_and_record(tmp_path, fault):
    write_records(tmp_path)
    damage_shard(tmp_path, fault)
    files = datasets.imagenet(tmp_path)
    with pytest.raises(ValueError, match=f"train-00001-of-00004, record 1: .*{FAULTS[fault]}"):
        files.verify()


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_met_in_training_is_named(tmp_path, fault):
    write_records(tmp_path)
    damage_shard(tmp_path, fault)
    batches = datasets.file_batches(datasets.imagenet(tmp_path), 4, image_size=16)
    with pytest.raises(ValueError, match=f"train-00001-of-00004.*{FAULTS[fault]}"), batches.naming_errors():
        for _ in batches.train().take(batches.steps_per_epoch):
            pass


@pytest.mark.compiled
@pytest.mark.parametrize("fault", ["corrupt", "label"])
def test_fault_met_in_fit_is_named(tmp_path, fault):
    import keras

    write_records(tmp_path)
    damage_shard(tmp_path, fault)
    batches = datasets.file_batches(datasets.imagenet(tmp_path), 4, image_size=16)
    model = keras.Sequential([keras.Input(batches.image_shape), keras.layers.GlobalMaxPool2D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=batches.steps_per_epoch)
    with pytest.raises(ValueError, match=f"train-00001-of-00004.*{FAULTS[fault]}"), batches.naming_errors():
        model.fit(batches.train(), steps_per_epoch=batches.steps_per_epoch, shuffle=False, verbose=0)


def test_errors_of_other_causes_are_left_alone(tmp_path):
    import tensorflow as tf

    write_records(tmp_path)
    batches = datasets.file_batches(datasets.imagenet(tmp_path), 4)
    with pytest.raises(tf.errors.InvalidArgumentError), batches.naming_errors():
        tf.reshape(tf.zeros(3), [2])
    with pytest.raises(KeyError), batches.naming_errors():
        raise KeyError


def test_image_folders(tmp_path):
    for root in (tmp_path / "plain", tmp_path / "nested" / "imagenet"):
        write_folders(root)
        files = datasets.imagenet(root if root.name == "plain" else root.parent)
        assert (files.train.num_examples, files.test.num_examples, files.num_classes) == (20, 8, 4)
        for path, label in zip(files.train.files, files.train.labels, strict=True):
            assert int(path.split("_")[-1][:-5]) % 4 == label
        assert np.bincount(files.test.labels).tolist() == [2, 2, 2, 2]
    files.verify()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train" / "n00000009").mkdir(), "n00000009 holds no image"),
        (lambda f: (f / "val" / "n00000003").rename(f / "val" / "other"), "val/other is no class"),
        (lambda f: [p.unlink() for p in (f / "val" / "n00000003").iterdir()], "val/n00000003 holds no image"),
        (lambda f: (f / "val").rename(f / "test"), "val is missing"),
        (lambda f: (f / "train").rename(f / "test"), "train is missing"),
    ],
)
def test_class_folders_that_do_not_agree_are_named(tmp_path, spoil, message):
    write_folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        datasets.imagenet(tmp_path)


def test_flat_validation_folder_is_refused(tmp_path):
    write_folders(tmp_path)
    for path in list((tmp_path / "val").rglob("*.JPEG")):
        path.rename(tmp_path / "val" / path.name)
    for path in (tmp_path / "val").iterdir():
        if path.is_dir():
            path.rmdir()
    with pytest.raises(ValueError, match="val must hold one folder of images for each class"):
        datasets.imagenet(tmp_path)


def test_number_of_classes_must_be_that_of_the_folders(tmp_path):
    write_folders(tmp_path)
    with pytest.raises(ValueError, match="4 class folders. Received: num_classes=1000"):
        datasets.imagenet(tmp_path, num_classes=1000)


@pytest.mark.parametrize("content", [b"nothing", jpeg])
def test_undecodable_image_file_is_named(tmp_path, content):
    write_folders(tmp_path)
    path = tmp_path / "train" / "n00000002" / "image_6.JPEG"
    path.write_bytes(content if isinstance(content, bytes) else content(6)[:400])
    files = datasets.imagenet(tmp_path)
    with pytest.raises(ValueError, match="n00000002/image_6.JPEG: .*JPEG"):
        files.verify()
    batches = datasets.file_batches(files, 4, "str", image_size=16)
    with pytest.raises(ValueError, match="n00000002/image_6.JPEG: .*JPEG"), batches.naming_errors():
        for _ in batches.train().take(5):
            pass


def write_tfds_layout(folder, labels=("cat", "dog", "eel")):
    """What TFDS leaves on the disk, written by hand (`test_files_that_tfds_wrote` has the real thing)."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    splits = []
    for part, counts in (("train", (6, 4)), ("validation", (3,))):
        for number, count in enumerate(counts):
            examples = []
            for k in range(count):
                fields = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg(k)])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[k % 3])),
                    "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a.JPEG"])),
                }
                examples.append(tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString())
            write_shard(folder / f"imagenet2012-{part}.tfrecord-{number:05d}-of-{len(counts):05d}", examples)
        splits.append({"name": part, "shardLengths": [str(count) for count in counts]})
    (folder / "dataset_info.json").write_text(json.dumps({"name": "imagenet2012", "splits": splits}))
    (folder / "label.labels.txt").write_text("\n".join(labels) + "\n")


def test_tfds_folder_is_found_and_its_labels_begin_at_0(tmp_path, monkeypatch):
    write_tfds_layout(tmp_path / "imagenet2012" / "5.1.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for place in (None, tmp_path, tmp_path / "imagenet2012", tmp_path / "imagenet2012" / "5.1.0"):
        files = datasets.imagenet(place)
        assert (files.train.num_examples, files.test.num_examples, files.num_classes) == (10, 3, 3)
    batches = datasets.file_batches(files, 5, image_size=16)
    assert sorted(np.concatenate([y for _, y in batches.train().take(2)])) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2][:10]
    files.verify()


def test_tfds_folder_with_a_missing_shard(tmp_path):
    write_tfds_layout(tmp_path / "5.1.0")
    (tmp_path / "5.1.0" / "imagenet2012-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ValueError, match="imagenet2012-train.tfrecord-00001-of-00002 is missing"):
        datasets.imagenet(tmp_path / "5.1.0")


@pytest.mark.slow
def test_files_that_tfds_wrote(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("importlib_resources")  # without it this release of TFDS can't prepare anything

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            names = [f"n{k:08d}" for k in range(4)]
            features = {"image": tfds.features.Image(encoding_format="jpeg"), "file_name": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({**features, "label": tfds.features.ClassLabel(names=names)}),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), "validation": self._generate_examples(5)}

        def _generate_examples(self, count):
            for k in range(count):
                (tmp_path / f"{k}.JPEG").write_bytes(jpeg(k))
                yield k, {"image": str(tmp_path / f"{k}.JPEG"), "label": k % 4, "file_name": f"{k}.JPEG"}

    Imagenet2012(data_dir=tmp_path / "data").download_and_prepare()
    files = datasets.imagenet(tmp_path / "data")
    assert (files.train.num_examples, files.test.num_examples, files.num_classes) == (12, 5, 4)
    files.verify()
    labels = np.concatenate([y for _, y in datasets.file_batches(files, 2, image_size=16).test()])
    assert sorted(labels) == [0, 0, 1, 2, 3]


def test_missing_folder_and_folder_without_data(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        datasets.imagenet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither record shards"):
        datasets.imagenet(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="give `data_dir`"):
        datasets.imagenet()
