"""Reads the result tables of State of Sparsity, all 20 of them.

Gale, Elsen and Hooker, "The State of Sparsity in Deep Neural Networks", arXiv 1902.09574. The original repository
(google-research, folder `state_of_sparsity/results`) holds 20 CSV files. Their headers differ in spelling and order, so
the layout of a file is found by its header. Tables with equal headers are told apart by the file's name. Accuracies are
fractions in most files, printed from float32. Here they are percentages with the exact number of right images.
"""

import dataclasses
import os

from sparsity_tf.bounded_files import DamagedFileError, one_line
from sparsity_tf.checks import check_path
from sparsity_tf.study.cells import Row, read_table
from sparsity_tf.study.result import PublishedResult, standard_error
from sparsity_tf.type_names import PathLike

SYSTEM = "state_of_sparsity"
_IMAGES = 50_000
_RUNS = tuple(f"Run {number}" for number in range(1, 10))
_THRESHOLDS = tuple(f"{half / 2}" for half in range(11))
# Multiply-accumulates of the dense ResNet-50 (stride in the 3x3 convolutions): all layers, first, last, and pooling.
_MACS, _FIRST, _LAST, _POOLING = 4_089_184_256, 118_013_952, 2_048_000, 100_352

_RAMP = ("begin", "end", "freq", "label smoothing")
_TRANSFORMER = ("Sparsity", "begin_pruning_step", "end_pruning_step", "pruning_frequency", "regularization")
_OURS = {
    "begin": "begin_step",
    "end": "end_step",
    "freq": "frequency",
    "label smoothing": "label_smoothing",
    "begin_pruning_step": "begin_step",
    "end_pruning_step": "end_step",
    "pruning_frequency": "frequency",
    "DKL loss begin": "penalty_begin_step",
    "DKL loss saturate": "penalty_end_step",
    "DKL loss coeff": "penalty_coefficient",
    "dkl_weight": "penalty_coefficient",
    "dkl_weight_fn": "penalty_schedule",
    "dkl_weight_start": "penalty_begin_step",
    "l0_norm_weight": "penalty_coefficient",
    "l0_norm_weight_fn": "penalty_schedule",
    "Training Steps": "steps",
    "Batch Size": "batch_size",
    "time multiplier": "time_multiplier",
    "init method": "init_method",
}
_INTEGERS = ("begin_step", "end_step", "frequency", "penalty_begin_step", "penalty_end_step", "steps", "batch_size")
_TEXTS = ("penalty_schedule", "init_method")
_REGULARIZATION = {"none": (0.0, 0.0), "label_smoothing": (0.0, 0.1), "dropout+label_smoothing": (0.1, 0.1)}
SWAPPED = "the columns label_smoothing and weight_decay were headed the wrong way round"
NO_HEADER = "the header of the init method was empty"
OF_L0 = "the L0 weight's ramp was headed dkl_weight_start and dkl_weight_diff, the names of variational dropout"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """One header.

    Attributes:
        header: The columns.
        model: "ResNet-50" or "Transformer".
        files: Dict from the name of a file with this header, without `.csv`, to (technique, more settings).
        mended: What is wrong in every file with this header.
    """

    header: tuple
    model: str
    files: dict
    mended: tuple = ()


def _scratch(variant):
    return "scratch", {"variant": variant}


_RESNET_RUNS = ("sparsity", "time multiplier", "init method", *_RAMP, *_RUNS)
_RESNET_SCRATCH = ("sparsity", "time multiplier", "init method", *_RAMP, "accuracy")
_PAIRS = tuple(name for level in _THRESHOLDS for name in (f"MOSES BLEU:{level}", f"Sparsity:{level}"))
_L0_RAMP = ("l0_norm_weight", "l0_norm_weight_fn", "dkl_weight_start", "dkl_weight_diff", "regularization")
_VD_RAMP = ("dkl_weight", "dkl_weight_fn", "dkl_weight_start", "dkl_weight_diff", "regularization")
_LAYOUTS = (
    _Layout(("Accuracy", "Training Steps", "Batch Size"), "ResNet-50", {"rn50_baselines": ("none", {})}),
    _Layout(("Sparsity", *_RAMP, "accuracy"), "ResNet-50", {"rn50_magnitude_pruning": ("magnitude", {})}),
    _Layout(("Target Sparsity", *_RAMP, "accuracy"), "ResNet-50", {"rn50_random_pruning": ("random", {})}),
    _Layout(
        ("DKL loss begin", "DKL loss saturate", "DKL loss coeff", "label_smoothing", "global sparsity", "Accuracy"),
        "ResNet-50",
        {"rn50_variational_dropout": ("vd", {"log_alpha_threshold": 0.5})},
    ),
    _Layout(
        ("initial_log_alpha", "l0_norm_weight", "label_smoothing", "weight_decay", "global_sparsity", "accuracy"),
        "ResNet-50",
        {"rn50_l0_regularization": ("l0", {})},
    ),
    _Layout((*_RAMP, "sparsity", "accuracy"), "ResNet-50", {"rn50_lottery_ticket": ("lottery", {})}),
    _Layout(
        _RESNET_RUNS,
        "ResNet-50",
        {f"rn50_scratch_{name}": _scratch(name) for name in ("lr_scaled", "lr_constant_final")},
    ),
    _Layout(_RESNET_SCRATCH, "ResNet-50", {"rn50_scratch_lr_continual_decay": _scratch("lr_continual_decay")}),
    _Layout(
        ("sparsity", "time multiplier", "", *_RAMP, "accuracy"),
        "ResNet-50",
        {"rn50_scratch_lr_constant_decay": _scratch("lr_constant_decay")},
        (NO_HEADER,),
    ),
    _Layout(
        ("Tensor2Tensor HParams", "MOSES BLEU", "Training Steps", "Batch Size", "Dataset"),
        "Transformer",
        {"transformer_baselines": ("none", {})},
    ),
    _Layout(
        ("Tensor2Tensor HParams", "Moses BLEU", *_TRANSFORMER, "threshold_decay"),
        "Transformer",
        {"transformer_magnitude_pruning": ("magnitude", {}), "transformer_random_pruning": ("random", {})},
    ),
    _Layout(
        ("Tensor2Tensor HParams", "MOSES BLEU", *_TRANSFORMER, "threshold_decay"),
        "Transformer",
        {
            f"transformer_{name}": _scratch(name)
            for name in ("scratche", "scratche_augmented_init", "scratchb", "scratchb_augmented_init")
        },
    ),
    _Layout(
        ("HParams", "MOSES BLEU", *_TRANSFORMER, "threshold_decay"),
        "Transformer",
        {"transformer_lottery_ticket": ("lottery", {})},
    ),
    _Layout(
        ("Tensor2Tensor Hparams", *_VD_RAMP, *_PAIRS), "Transformer", {"transformer_variational_dropout": ("vd", {})}
    ),
    _Layout(
        ("Tensor2Tensor HParams", "MOSES BLEU", "Sparsity", *_L0_RAMP),
        "Transformer",
        {"transformer_l0_regularization": ("l0", {})},
        (OF_L0,),
    ),
)
# What the first column of a Transformer's table must hold for a technique.
_HPARAMS = {
    "none": "transformer_base",
    "magnitude": "sparse_transformer_magnitude_pruning",
    "random": "sparse_transformer_random_pruning",
    "vd": "sparse_transformer_variational_dropout",
    "l0": "sparse_transformer_l0_regularization",
    "lottery": "sparse_transformer_magnitude_pruning",
    "scratch": "sparse_transformer_magnitude_pruning",
}
TABLES = tuple(sorted(name for layout in _LAYOUTS for name in layout.files))


def read_state_of_sparsity(path: PathLike) -> list[PublishedResult]:
    """Reads result tables of the original repository: one CSV file, or all 20 in a clone.

    Args:
        path: A CSV file, or a folder: the clone of google-research, its `state_of_sparsity`, or `results` in it.

    Returns:
        List of `PublishedResult`. A line gives one result. A line of the Transformer's variational dropout gives
        eleven, one for each threshold on log alpha.

    Raises:
        ValueError: The folder holds none of the tables, or a file is damaged, or has an unknown header. The message
            names the file, and the line if one line is wrong.
        OSError: The file or folder can't be read.

    Example:

    >>> path = published_files()["state_of_sparsity/sparse_transformer/technique_comparison/transformer_baselines.csv"]
    >>> [result.score for result in read_state_of_sparsity(path)]
    [27.13, 27.39, 27.3, 27.52, 27.12]
    """
    check_path("path", path)
    path = os.fspath(path)
    if not os.path.isdir(path):
        return read_csv(path, os.path.basename(path))
    for part in (os.path.join("state_of_sparsity", "results"), "results", ""):
        folder = os.path.join(path, part)
        if os.path.isdir(folder):
            files = _tables_in(folder)
            if files:
                return [result for source in files for result in read_csv(os.path.join(folder, source), source)]
    raise ValueError(
        "`path` must be a result table of State of Sparsity, or a folder with such tables "
        f"({TABLES[0]}.csv, ...). Received: path={path!r}"
    )


def _tables_in(folder):
    found = []
    for root, folders, names in os.walk(folder):
        # A clone holds thousands of other folders.
        folders[:] = sorted(
            name for name in folders if name.startswith("sparse_") or name.endswith(("lotto", "comparison"))
        )
        found += [os.path.relpath(os.path.join(root, name), folder) for name in names if name[:-4] in TABLES]
    return sorted(name for name in found if name.endswith(".csv"))


def read_csv(path, source):
    """The results in one table; `source` is the name that the results get for their file."""
    header, lines = read_table(path)
    layout = next((layout for layout in _LAYOUTS if layout.header == tuple(header)), None)
    if layout is None:
        raise DamagedFileError(path, f"its header is not one of State of Sparsity: {one_line(','.join(header), 200)}")
    technique, more = _of_file(layout, path)
    names = ["init method" if name == "" else name for name in header]
    rows = [Row(path, line, dict(zip(names, cells, strict=True))) for line, cells in lines]
    if not rows:
        raise DamagedFileError(path, "it has a header and no results")
    mended = layout.mended
    if technique == "l0" and layout.model == "ResNet-50" and _swapped(rows):
        mended = (SWAPPED,)
        for row in rows:
            cells = row.cells
            cells["label_smoothing"], cells["weight_decay"] = cells["weight_decay"], cells["label_smoothing"]
    results = []
    for row in rows:
        common = {"system": SYSTEM, "source": source.replace(os.sep, "/"), "line": row.line, "model": layout.model}
        common |= {"technique": technique, "mended": mended}
        read = _resnet if layout.model == "ResNet-50" else _transformer
        results += read(row, {**more, **_settings(row)}, common)
    return results


def _of_file(layout, path):
    """The (technique, settings) of a file, by its name if tables share the header."""
    if len(layout.files) == 1:
        return next(iter(layout.files.values()))
    stem = os.path.splitext(os.path.basename(path))[0]
    if stem not in layout.files:
        names = ", ".join(f"{name}.csv" for name in layout.files)
        raise ValueError(f"{path} must have one of the names {names}, because these tables have the same header.")
    return layout.files[stem]


def _swapped(rows):
    """Whether weight decays (about 1e-4) stand in the column of label smoothing (0 or 0.1)."""
    return any(0 < row.number("label_smoothing", 0) < 0.01 for row in rows)


def _settings(row):
    settings = {}
    for name in row.cells:
        ours = _OURS.get(name, name)
        if name == "regularization":
            text = row.text(name)
            if text not in _REGULARIZATION:
                raise row.wrong(f"{name} must be one of {', '.join(_REGULARIZATION)}, not {one_line(repr(text), 50)}")
            settings["dropout"], settings["label_smoothing"] = _REGULARIZATION[text]
        elif ours in _INTEGERS:
            settings[ours] = row.integer(name)
        elif ours in _TEXTS:
            settings[ours] = row.text(name)
        elif ours in ("penalty_coefficient", "label_smoothing", "weight_decay", "time_multiplier", "threshold_decay"):
            settings[ours] = row.number(name, 0)
        elif ours == "initial_log_alpha":
            settings[ours] = row.number(name)
    if "dkl_weight_diff" in row:
        settings["penalty_end_step"] = settings["penalty_begin_step"] + row.integer("dkl_weight_diff")
    return settings


def _resnet(row, settings, common):
    [name] = [name for name in row.cells if name.lower() in ("sparsity", "target sparsity", "global sparsity")] or [
        None
    ]
    name = name or ("global_sparsity" if "global_sparsity" in row else None)
    sparsity = 0.0 if name is None else row.number(name, 0, 1)
    if common["technique"] == "none":
        scores = (row.number("Accuracy", 1, 100),)
    elif "Run 1" in row:
        scores = tuple(_accuracy(row, run) for run in _RUNS)
    else:
        scores = (_accuracy(row, "Accuracy" if "Accuracy" in row else "accuracy"),)
    # Magnitude and random pruning give each layer the same sparsity, and the other experiments take such masks.
    uniform = common["technique"] in ("none", "magnitude", "random", "scratch", "lottery")
    yield PublishedResult(
        dataset="ImageNet",
        sparsity=sparsity,
        metric="top-1 accuracy",
        score=sum(scores) / len(scores),
        scores=scores if len(scores) > 1 else (),
        standard_error=standard_error(scores),
        flops=resnet_macs(sparsity) if uniform else None,
        flops_source="rule" if uniform else None,
        settings=settings,
        **common,
    )


def _accuracy(row, column):
    """A fraction as a percentage. It was printed from float32; the number of right images makes it exact."""
    fraction = row.number(column, 0, 1)
    right = round(fraction * _IMAGES)
    return right / (_IMAGES / 100) if abs(fraction * _IMAGES - right) < 0.005 else 100 * fraction


def resnet_macs(sparsity, first=None, last=None):
    """Multiply-accumulates of ResNet-50 whose layers have one sparsity, but for the first and last one if given."""
    rest = (1 - sparsity) * (_MACS - _FIRST - _LAST)
    first = (1 - (sparsity if first is None else first)) * _FIRST
    last = (1 - (sparsity if last is None else last)) * _LAST
    return round(rest + first + last) + _POOLING


def _transformer(row, settings, common):
    hparams = next(name for name in row.cells if name.lower().endswith("hparams"))
    if row.text(hparams) != _HPARAMS[common["technique"]]:
        wanted = _HPARAMS[common["technique"]]
        raise row.wrong(f"{hparams} must be {wanted}, not {one_line(repr(row.text(hparams)), 50)}")
    if "Dataset" in row and row.text("Dataset") != "translate_ende_wmt32k_packed":
        raise row.wrong(f"Dataset must be translate_ende_wmt32k_packed, not {one_line(repr(row.text('Dataset')), 50)}")
    if common["technique"] == "vd":
        columns = [(f"MOSES BLEU:{level}", f"Sparsity:{level}", float(level)) for level in _THRESHOLDS]
    else:
        columns = [(next(name for name in row.cells if name.lower() == "moses bleu"), "Sparsity", None)]
    for bleu, sparsity, threshold in columns:
        yield PublishedResult(
            dataset="WMT14 En-De",
            sparsity=row.number(sparsity, 0, 1) if sparsity in row else 0.0,
            metric="BLEU",
            score=row.number(bleu, 0, 100),
            settings=settings if threshold is None else {**settings, "log_alpha_threshold": threshold},
            **common,
        )
