"""Reads the scores of the 49 checkpoints of State of Sparsity, from the list that this package keeps of them.

The README of the original repository links the checkpoints and gives their scores. Their names hold their settings.
"""

from sparsity_tf.study.cells import read_rows
from sparsity_tf.study.result import PublishedResult
from sparsity_tf.study.state_of_sparsity import SYSTEM, resnet_macs

_COLUMNS = (
    "model,technique,sparsity,score,metric,name,target_sparsity,begin_step,end_step,frequency,penalty_schedule,ramp_start,"
    "ramp_length,penalty_weight,dropout,label_smoothing,log_alpha_threshold,url"
).split(",")
_TECHNIQUES = {
    "Magnitude Pruning": "magnitude",
    "Magnitude Pruning (extended/non-uniform)": "magnitude_nonuniform",
    "Random Pruning": "random",
    "Variational Dropout": "vd",
    "L0 Regularization": "l0",
}
_DISAGREES = "rn50_random_pruning.csv gives {} for these settings"
_NOTES = {
    "standard_random_cumulative_0.7_8000_40000_8000_0.1": _DISAGREES.format(72.218),
    "standard_random_cumulative_0.95_0_40000_2000_0.0": _DISAGREES.format(58.084),
    "standard_random_cumulative_0.98_20000_40000_8000_0.0": _DISAGREES.format(43.996),
    "variational_dropout_0.95_40000_100000_3.90269184267e-07_0.1": (
        "rn50_variational_dropout.csv has no row with these settings"
    ),
}


def read_checkpoints(path, source):
    """The results of the published checkpoints; `source` is the name that they get for their file."""
    results = []
    for row in read_rows(path, _COLUMNS):
        technique, resnet = _TECHNIQUES[row.text("technique")], row.text("model") == "ResNet-50"
        sparsity, target = row.number("sparsity", 0, 1), row.optional_number("target_sparsity", 0, 1)
        flops = None
        if resnet and technique in ("magnitude", "random"):
            flops = resnet_macs(sparsity)
        elif technique == "magnitude_nonuniform":
            flops = resnet_macs(target, first=0.0, last=0.8)
        note = _NOTES.get(row.text("name"))
        results.append(
            PublishedResult(
                system=SYSTEM,
                source=source,
                line=row.line,
                model=row.text("model"),
                dataset="ImageNet" if resnet else "WMT14 En-De",
                technique=technique,
                sparsity=sparsity,
                metric="top-1 accuracy" if resnet else "BLEU",
                score=row.number("score", 0, 100),
                flops=flops,
                flops_source=None if flops is None else "rule",
                settings=_settings(row, technique),
                checkpoint=row.text("name"),
                url=row.text("url"),
                notes=(note,) if note else (),
            )
        )
    return results


def _settings(row, technique):
    settings = {}
    for name in ("target_sparsity", "dropout", "label_smoothing", "log_alpha_threshold"):
        settings[name] = row.optional_number(name)
    for name in ("begin_step", "end_step", "frequency"):
        settings[name] = row.integer(name) if row.cells[name] else None
    settings["penalty_coefficient"] = row.optional_number("penalty_weight")
    settings["penalty_schedule"] = row.cells["penalty_schedule"] or None
    if technique in ("vd", "l0"):
        # The ResNets' names have the first and the last step of the ramp, the Transformers' its first and its length.
        begin, end = settings.pop("begin_step"), settings.pop("end_step")
        if begin is None:
            begin = row.integer("ramp_start")
            end = begin + row.integer("ramp_length")
        settings |= {"penalty_begin_step": begin, "penalty_end_step": end}
    return {name: value for name, value in settings.items() if value is not None}
