"""`SequenceData`, labelled sequences in memory, and the readers of Google-12 and HAR-2 in their published file formats.

Sources:
- FastGRNN (Kusupati et al., arXiv 1901.02358) and its program in EdgeML, whose data are two files `train.npy` and
  `test.npy`. A row is an example: first its label, then the features of the first time step, of the second, and so on.
- Google-12: the speech commands of Warden (arXiv 1804.03209) as 12 classes of 99 steps of 32 features.
- HAR-2: "Human Activity Recognition Using Smartphones" of the UCI repository (Anguita et al., ESANN 2013), 128 steps of
  9 signals. FastGRNN's paper makes two classes of the six activities: {sitting, laying, walking upstairs} and
  {standing, walking, walking downstairs}. (These two sets are given as remembered; nobody could compare them with the
  paper. EdgeML's files hold the two labels.) The files of the repository are text: a file for each signal, a line for
  each example.
"""

import dataclasses
import os

import numpy as np

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_path
from sparsity_tf.type_names import PathLike

# Name -> (time steps, features of a step, classes).
SHAPES = {"google12": (99, 32, 12), "har2": (128, 9, 2)}
_UCI = "UCI HAR Dataset"
_SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
# Activities of UCI HAR: 1 walking, 2 walking upstairs, 3 walking downstairs, 4 sitting, 5 standing, 6 laying.
_FIRST_CLASS = (2, 4, 6)


@dataclasses.dataclass(frozen=True)
class SequenceData:
    """A data set of labelled sequences of one length, whole in memory.

    Attributes:
        x_train: float32 array `(n_train, steps, features)`, as the file has it.
        y_train: uint8 array `(n_train,)`, values 0..num_classes - 1.
        x_test: float32 array, as `x_train` with `n_test` sequences.
        y_test: uint8 array `(n_test,)`.
        num_classes: Number of classes.
        name: Name of the data set, e.g. `"har2"`.
        source: A sentence that says where the arrays came from.

    Example:

    >>> x, y = np.zeros((4, 128, 9), "float32"), np.zeros(4, "uint8")
    >>> SequenceData(x, y, x, y, 2, "blank", "made here").sequence_shape
    (128, 9)
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    source: str

    @property
    def sequence_shape(self) -> tuple[int, int]:
        """`(steps, features)` of a sequence."""
        return self.x_train.shape[1:]


def google12(data_dir: PathLike | None = None) -> SequenceData:
    """Google-12, spoken commands of 12 classes: 99 steps of 32 features (22,246 + 3,081 examples in the paper).

    Args:
        data_dir: Folder with `train.npy` and `test.npy`, as EdgeML's program `process_google.py` writes them, or whose
            sub-folder `google12` holds them. There is no default place.

    Returns:
        A `SequenceData`.

    Raises:
        FileNotFoundError: `data_dir` is `None`, or a file is missing.
        ValueError: A file is damaged, or holds other sizes or labels. The message names the file.

    Example:

    >>> rows = np.zeros((12, 1 + 99 * 32))
    >>> rows[:, 0] = np.arange(12)
    >>> np.save("train.npy", rows)
    >>> np.save("test.npy", rows)
    >>> google12(".").sequence_shape
    (99, 32)
    """
    return _load("google12", data_dir)


def har2(data_dir: PathLike | None = None) -> SequenceData:
    """HAR-2, human activities in two classes: 128 steps of 9 features (7,352 + 2,947 examples).

    Args:
        data_dir: Folder with EdgeML's `train.npy` and `test.npy`, or the folder "UCI HAR Dataset" of the UCI
            repository, or a folder with a sub-folder `har2` or "UCI HAR Dataset" of that content. There is no default
            place.

    Returns:
        A `SequenceData`.

    Raises:
        FileNotFoundError: `data_dir` is `None`, or a file is missing.
        ValueError: A file is damaged, or holds other sizes or labels. The message names the file.

    Example:

    >>> rows = np.zeros((4, 1 + 128 * 9))
    >>> rows[:, 0] = [0, 1, 0, 1]
    >>> np.save("train.npy", rows)
    >>> np.save("test.npy", rows)
    >>> har2(".").sequence_shape
    (128, 9)
    """
    return _load("har2", data_dir)


def _load(name, data_dir):
    if data_dir is None:
        raise FileNotFoundError(f"`data_dir` must be given for {name}: a folder with train.npy and test.npy.")
    check_path("data_dir", data_dir)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    classes = SHAPES[name][-1]
    for folder in (data_dir, os.path.join(data_dir, name), os.path.join(data_dir, _UCI)):
        if os.path.isfile(os.path.join(folder, "train.npy")):
            parts = _read_edgeml(folder, name)
        elif name == "har2" and os.path.isdir(os.path.join(folder, "train", "Inertial Signals")):
            parts = [_read_uci(folder, part) for part in ("train", "test")]
        else:
            continue
        (x_train, y_train), (x_test, y_test) = parts
        return SequenceData(x_train, y_train, x_test, y_test, classes, name, f"{name} from the files in {folder}.")
    also = f", nor the signals of {_UCI!r}" if name == "har2" else ""
    raise FileNotFoundError(f"{data_dir} holds no train.npy and test.npy of {name}{also}, itself or in a sub-folder.")


def _read_edgeml(folder, name):
    """The sequences and labels of both files of EdgeML."""
    paths = [os.path.join(folder, f"{part}.npy") for part in ("train", "test")]
    parts = [_read_npy(path, name) for path in paths]
    # The labels begin with 0 or 1. EdgeML's program takes them as they come, too.
    first = 1 if min(labels.min() for _, labels in parts) == 1 else 0
    return [_checked(path, x, labels - first, SHAPES[name][-1]) for path, (x, labels) in zip(paths, parts, strict=True)]


def _read_npy(path, name):
    """The sequences in a file of EdgeML, and the labels as they stand there."""
    steps, features, _ = SHAPES[name]
    try:
        # Mapped, so that a header that claims too much fills no memory.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.dtype.kind not in "iuf":
            raise ValueError(f"it holds {table.dtype}, not numbers")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing.") from None
    except Exception as error:  # numpy raises ValueError, EOFError, OSError and others for damaged files
        raise ValueError(f"{path} is not a readable .npy file of numbers ({one_line(error)}).") from error
    columns = 1 + steps * features
    if table.ndim != 2 or table.shape[1] != columns or not len(table):
        raise ValueError(
            f"{path} must hold rows of {columns} numbers for {name}: a label, and {features} features of each of "
            f"{steps} steps. Received: shape={table.shape}"
        )
    return np.array(table[:, 1:], "float32").reshape(-1, steps, features), np.array(table[:, 0])


def _read_uci(folder, part):
    """The sequences and labels of one part of the UCI repository's files."""
    steps, _, classes = SHAPES["har2"]
    signals = []
    for signal in _SIGNALS:
        path = os.path.join(folder, part, "Inertial Signals", f"{signal}_{part}.txt")
        signals.append(_read_text(path))
        if signals[-1].shape[1] != steps or len(signals[-1]) != len(signals[0]):
            raise ValueError(
                f"{path} must hold {steps} numbers in a line, and as many lines as the other signals. "
                f"Received: shape={signals[-1].shape}"
            )
    path = os.path.join(folder, part, f"y_{part}.txt")
    activities = _read_text(path).reshape(-1)
    if len(activities) != len(signals[0]) or not np.isin(activities, range(1, 7)).all():
        raise ValueError(f"{path} must hold an activity from 1 to 6 for each of the {len(signals[0])} examples.")
    labels = np.where(np.isin(activities, _FIRST_CLASS), 0, 1)
    return _checked(path, np.stack(signals, axis=-1), labels, classes)


def _read_text(path):
    try:
        with open(path, encoding="ascii") as file:
            numbers = np.loadtxt(file, dtype="float32", ndmin=2)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing.") from None
    except ValueError as error:  # a word that is no number, lines of other lengths, or bytes that are no text
        raise ValueError(f"{path} must hold numbers, the same count in each line ({one_line(error)}).") from error
    if not numbers.size:
        raise ValueError(f"{path} is empty.")
    return numbers


def _checked(path, sequences, labels, classes):
    if not np.isfinite(sequences).all():
        raise ValueError(f"{path} must hold finite numbers.")
    if not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"{path} must hold labels of {classes} consecutive classes from 0 or 1. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    return sequences, labels.astype("uint8")
