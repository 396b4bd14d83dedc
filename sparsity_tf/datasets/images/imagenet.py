"""ImageNet as files on this disk: record shards in the original layout or in TFDS's, or folders of images.

One idea lives here: a data set that is too large for memory is a checked list of files (`ImageFiles`). Before training
begins, the check makes sure of all that can be known without reading everything: no shard is missing, each shard begins
with a sound example, and the number of examples is known. `ImageFiles.verify` reads the rest.
"""

import dataclasses
import os

import numpy as np

from sparsity_tf.bounded_files import read_json
from sparsity_tf.checks import check_integer, check_path
from sparsity_tf.datasets.images import image_data, records
from sparsity_tf.extras import import_optional
from sparsity_tf.type_names import PathLike, Tensor

# The original layout: (number of shards, number of examples). Counting 1.3 million records would take minutes.
_ORIGINAL = {"train": (1024, 1_281_167), "validation": (128, 50_000)}
_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class Split:
    """The files of the training part or of the test part.

    Attributes:
        files: Paths of record shards, or of images.
        labels: int32 array with a label (from 0) for each image; `None` for record shards.
        num_examples: Number of examples.
    """

    files: tuple
    labels: object
    num_examples: int


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """A data set of labelled image files. The list of files has been checked, but the files are not read.

    Attributes:
        train: `Split` of the training examples.
        test: `Split` of the test examples: the 50,000 images that ImageNet calls validation.
        num_classes: Number of classes.
        name: Name of the data set.
        source: A sentence that says where the files lie.
        image_key: Name of the field of a record that holds the encoded image.
        label_key: Name of the field that holds the label.
        first_label: Label of the first class in the records: 1 in the original layout.

    Example:

    >>> files = imagenet("/data/imagenet")  # needs the files
    >>> files.verify()
    """

    train: Split
    test: Split
    num_classes: int
    name: str
    source: str
    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    first_label: int = 1

    def parse(self, record: Tensor) -> tuple[Tensor, Tensor]:
        """Splits a record, a string tensor, into (encoded image, label from 0); if missing: `b""`, a label below 0."""
        tf = import_optional("tensorflow")

        features = {
            self.image_key: tf.io.FixedLenFeature([], tf.string, b""),
            self.label_key: tf.io.FixedLenFeature([], tf.int64, -1),
        }
        example = tf.io.parse_single_example(record, features)
        return example[self.image_key], tf.cast(example[self.label_key] - self.first_label, tf.int32)

    def fault(self, encoded: bytes, label: int) -> str | None:
        """Says what is wrong with an example (encoded image and label from 0, Python values); `None` if it is sound."""
        if not encoded:
            return f"no image in the field {self.image_key!r}"
        if not encoded.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            return f"an image that is neither JPEG nor PNG (it begins 0x{encoded[:4].hex()})"
        if label + self.first_label == -1:
            return f"no label in the field {self.label_key!r}"
        if not 0 <= label < self.num_classes:
            last = self.first_label + self.num_classes - 1
            return (
                f"label {label + self.first_label} in the field {self.label_key!r}, which must be {self.first_label} "
                f"to {last}"
            )
        return None

    def open_each(self) -> None:
        """Opens every file once without reading it.

        Raises:
            OSError: A file is missing or can't be opened.
        """
        for path in (*self.train.files, *self.test.files):
            with open(path, "rb"):
                pass

    def verify(self) -> None:
        """Reads and decodes every example once. ImageNet takes hours on two cores, and minutes on a large machine.

        Raises:
            ValueError: A record is corrupt or lacks a field, an image can't be decoded, a label is out of range. The
                message names file and record.
        """
        for split in (self.train, self.test):
            if split.labels is None:
                for path in split.files:
                    self._verify_shard(path)
            else:
                self._verify_images(split.files)

    def _verify_shard(self, path):
        tf = import_optional("tensorflow")

        number = 0
        try:
            for encoded, label in tf.data.TFRecordDataset(path).map(self.parse):
                fault = self.fault(encoded.numpy(), int(label))
                if fault:
                    raise ValueError(f"{path}, record {number}: {fault}.")
                number += 1
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, record {number}: {_short(error)}") from error
        encoded = tf.data.TFRecordDataset(path).map(lambda record: self.parse(record)[0])
        self._decode_all(encoded, lambda number: f"{path}, record {number}")

    def _verify_images(self, paths):
        tf = import_optional("tensorflow")

        for path in paths:
            with open(path, "rb") as file:
                fault = self.fault(file.read(4), 0)
            if fault:
                raise ValueError(f"{path}: {fault}.")
        encoded = tf.data.Dataset.from_tensor_slices(list(paths)).map(tf.io.read_file)
        self._decode_all(encoded, lambda number: paths[number])

    @staticmethod
    def _decode_all(encoded, name):
        tf = import_optional("tensorflow")

        number = 0
        try:
            decoded = encoded.map(
                lambda image: tf.shape(tf.io.decode_image(image, channels=3, expand_animations=False)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            for _ in decoded:
                number += 1
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ValueError(f"{name(number)}: {_short(error)}") from error


def _short(error):
    """TensorFlow's message without the names of its nodes."""
    if isinstance(error, UnicodeDecodeError):  # the message quotes the bytes of a broken record
        return "could not parse the record"
    return error.message.split("\n")[0].split("}} ")[-1].split(" [[")[0]


def _look_at_first(path, files):
    """Raises `ValueError` if the first record of a shard is not an example in the format that `files` describes."""
    tf = import_optional("tensorflow")

    record = records.first_record(path)
    try:
        encoded, label = files.parse(tf.constant(record))
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, record 0: not an example of image and label ({_short(error)}).") from error
    fault = files.fault(encoded.numpy(), int(label))
    if fault:
        raise ValueError(f"{path}, record 0: {fault}.")


def _count(shards, part, num_classes):
    number, examples = _ORIGINAL[part]
    if len(shards) == number and num_classes == 1000:
        return examples
    return sum(records.count_records(path) for path in shards)


def _from_shards(data_dir, num_classes):
    shards, where = {}, {}
    for part in _ORIGINAL:
        for folder in (data_dir, os.path.join(data_dir, part)):
            if os.path.isdir(folder) and part not in shards:
                found = records.find_shards(folder, part)
                if found:
                    shards[part], where[part] = found, folder
    if not shards:
        return None
    for part in _ORIGINAL:
        if part not in shards:
            raise FileNotFoundError(
                f"{os.path.join(data_dir, f'{part}-00000-of-{_ORIGINAL[part][0]:05d}')} is missing, and all other "
                f"shards {part}-*-of-*, although {', '.join(shards)} shards are there."
            )
    num_classes = num_classes or 1000
    train, test = (Split(tuple(shards[p]), None, _count(shards[p], p, num_classes)) for p in _ORIGINAL)
    return ImageFiles(train, test, num_classes, "imagenet", f"imagenet from the record shards in {data_dir}.")


def _from_tfds(folder, num_classes):
    """`ImageFiles` from a version folder of TFDS, such as `.../imagenet2012/5.1.0`. It holds the original images."""
    info_path = os.path.join(folder, "dataset_info.json")
    if not os.path.isfile(info_path):
        return None
    try:
        info = read_json(info_path)
        name, layout = info["name"], info.get("fileFormat", "tfrecord")
        lengths = {split["name"]: sum(int(n) for n in split.get("shardLengths", ())) for split in info["splits"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{info_path} is not the description of a TFDS data set ({error!r}).") from error
    if layout != "tfrecord":
        raise ValueError(f"{folder} must hold TFDS's file format tfrecord. Received: {layout}")
    splits = []
    for part in _ORIGINAL:
        shards = records.find_shards(folder, f"{name}-{part}.tfrecord")
        if not shards:
            raise FileNotFoundError(f"{os.path.join(folder, f'{name}-{part}.tfrecord-*')} is missing.")
        splits.append(Split(tuple(shards), None, lengths.get(part) or sum(map(records.count_records, shards))))
    names = os.path.join(folder, "label.labels.txt")
    if num_classes is None and os.path.isfile(names):
        with open(names, encoding="utf-8") as file:
            num_classes = sum(1 for line in file if line.strip())
    source = f"{name} as prepared by TFDS in {folder}."
    return ImageFiles(*splits, num_classes or 1000, name, source, "image", "label", 0)


def _newest_tfds(root):
    """The version folder of the newest `imagenet2012` under a TFDS root or data set folder, or `None`."""
    for base in (root, os.path.join(root, "imagenet2012")):
        if not os.path.isdir(base):
            continue
        if os.path.isfile(os.path.join(base, "dataset_info.json")):
            return base
        versions = []
        for name in os.listdir(base):
            numbers = name.split(".")
            if len(numbers) == 3 and all(n.isdigit() for n in numbers):
                versions.append((tuple(map(int, numbers)), os.path.join(base, name)))
        if versions:
            return max(versions)[1]
    return None


def _scan(folder):
    """Finds the images: a dict from class folder to the sorted paths of its images."""
    found = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            names = sorted(name for name in os.listdir(entry.path) if name.lower().endswith(_IMAGE_SUFFIXES))
            found[entry.name] = [os.path.join(entry.path, name) for name in names]
    return found


def _from_folders(data_dir, num_classes):
    for root in (data_dir, os.path.join(data_dir, "imagenet")):
        tests = [os.path.join(root, name) for name in ("val", "validation") if os.path.isdir(os.path.join(root, name))]
        train = os.path.join(root, "train")
        if os.path.isdir(train) or tests:
            break
    else:
        return None
    for folder in (train, tests[0] if tests else os.path.join(root, "val")):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder} is missing: image folders come as train/CLASS/*.JPEG and val/CLASS/*.JPEG."
            )
    classes = _scan(train)
    splits = []
    for folder, found in ((train, classes), (tests[0], _scan(tests[0]))):
        if not found:
            raise ValueError(f"{folder} must hold one folder of images for each class. Received: no folders")
        strange = [name for name in found if name not in classes]
        empty = [name for name, paths in found.items() if not paths]
        missing = [name for name in classes if name not in found]
        for names, fault in ((strange, "is no class of the training images"), (empty, "holds no image")):
            if names:
                raise ValueError(f"{os.path.join(folder, names[0])} {fault} ({len(names)} such folders).")
        if missing:
            raise ValueError(f"{os.path.join(folder, missing[0])} is missing ({len(missing)} such classes).")
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [np.full(len(paths), numbers[name], np.int32) for name, paths in found.items()]
        files = tuple(path for paths in found.values() for path in paths)
        splits.append(Split(files, np.concatenate(labels), len(files)))
    if num_classes not in (None, len(classes)):
        raise ValueError(f"{train} holds {len(classes)} class folders. Received: num_classes={num_classes}")
    return ImageFiles(*splits, len(classes), "imagenet", f"imagenet from the image folders in {root}.")


def imagenet(data_dir: PathLike | None = None, num_classes: int | None = None) -> ImageFiles:
    """ImageNet (ILSVRC 2012), or another data set in one of the same layouts, as files on this disk.

    Args:
        data_dir: Folder that holds one of these:
            - the original record shards `train-00000-of-01024` ... and `validation-00000-of-00128` ..., all in one
              folder or in `train/` and `validation/`, with the fields `image/encoded` and `image/class/label`
              (1-based). The number of shards is free, but all of them must be there;
            - the files that TFDS prepared: `imagenet2012/5.1.0/imagenet2012-train.tfrecord-*` (labels from 0);
            - image folders `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG` (also below `imagenet/`). The classes are
              numbered in the order of their names.
            Defaults to `None`: TFDS's folder.
        num_classes: Number of classes. Defaults to `None`: the number of folders or of TFDS's labels, or 1,000 if the
            files don't tell.

    Returns:
        `ImageFiles`, for `file_batches`. The first record of every shard has been checked.

    Raises:
        FileNotFoundError: `data_dir` is missing, or all files of a part are.
        ValueError: A shard is missing, empty, truncated or no TFRecord file, its first record is not an example of
            image and label, or the class folders don't agree. The message names the file.

    Example:
        >>> files = imagenet("/data/imagenet")  # needs the files
        >>> files.train.num_examples, files.test.num_examples
        (1281167, 50000)
    """
    if num_classes is not None:
        check_integer("num_classes", num_classes, 1)
    if data_dir is None:
        folder = _newest_tfds(image_data.tfds_root())
        if folder is None:
            raise FileNotFoundError(
                "ImageNet cannot be downloaded: give `data_dir`, a folder with the record shards train-*-of-* and "
                "validation-*-of-*, with train/ and val/ folders of images, or TFDS's imagenet2012."
            )
        data_dir = folder
    check_path("data_dir", data_dir)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` does not exist. Received: data_dir={data_dir}")
    files = _from_shards(data_dir, num_classes)
    if files is None:
        version = _newest_tfds(data_dir)
        files = (_from_tfds(version, num_classes) if version else None) or _from_folders(data_dir, num_classes)
    if files is None:
        raise FileNotFoundError(
            f"{data_dir} holds neither record shards (train-00000-of-01024, ..., validation-00000-of-00128, ...), nor "
            "TFDS's imagenet2012, nor folders train/CLASS and val/CLASS of images."
        )
    if files.train.labels is None:
        for path in (*files.train.files, *files.test.files):
            _look_at_first(path, files)
    return files
