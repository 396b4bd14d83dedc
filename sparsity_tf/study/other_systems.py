"""Reads the packaged results of STR, sparse momentum and dynamic sparse reparameterization (DSR).

- STR: Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity", arXiv 2002.03231.
- Sparse momentum: Dettmers and Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance",
  arXiv 1907.04840.
- DSR: Mostafa and Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
  Reparameterization", arXiv 1902.05967.
"""

import os
import re

from sparsity_tf.bounded_files import DamagedFileError
from sparsity_tf.study.cells import Row, read_rows, read_table
from sparsity_tf.study.result import PublishedResult, standard_error

SLIP = "the README gives 4.47M parameters; the published sparsities of the layers give 4,775,866"
TIMES_100 = "the file stores accuracies in percent, and their standard errors, times 100"
NOT_ERRORS = "the file is called errors and holds accuracies"


def read_str(folder, source):
    """The networks of STR's README. Weights and operations of ResNet-50 are computed from its published budgets."""
    budgets = _str_budgets(os.path.join(folder, "str", "STR_Budgets_ResNet50.csv"))
    columns = ("model", "technique", "sparsity_percent", "parameters", "top1", "flops", "readme")
    for row in read_rows(os.path.join(folder, source), columns):
        percent, model = row.text("sparsity_percent"), row.text("model")
        parameters, flops, of = _count(row, "parameters"), _count(row, "flops"), "published"
        mended = ()
        if model == "ResNet-50" and percent in budgets:
            if row.text("parameters") == "4.47M":
                mended = (SLIP,)
            (parameters, flops), of = budgets[percent], "layers"
        yield PublishedResult(
            system="str",
            source=source,
            line=row.line,
            model=model,
            dataset="ImageNet",
            technique=row.text("technique"),
            sparsity=round(row.number("sparsity_percent", 0, 100) / 100, 6),
            metric="top-1 accuracy",
            score=row.number("top1", 0, 100),
            flops=flops,
            flops_source=of,
            parameters=parameters,
            mended=mended,
            settings={"readme_commit": row.text("readme")},
        )


def _count(row, column):
    """A number such as "4.09G", as an integer."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", row.text(column))
    if not match:
        raise row.wrong(f"{column} must be a number such as 4.47M or 4.09G, not {row.text(column)!r}")
    return round(float(match[1]) * {"M": 1e6, "G": 1e9}[match[2]])


def _str_budgets(path):
    """Dict from the overall sparsity of a budget to (weights left, multiply-accumulates left).

    The file's header names the first budget "Sparsity (%)" and no other; the line "Overall" has the names.
    """
    header, lines = read_table(path)
    rows = {cells[0]: Row(path, line, dict(enumerate(cells))) for line, cells in lines}
    if header[:4] != ["Metric", "Params", "FLOPs", "Sparsity (%)"] or "Overall" not in rows:
        raise DamagedFileError(path, "it is not one of STR's budgets")
    counted = [row for name, row in rows.items() if name.startswith(("Layer ", "AP "))]
    budgets = {"0": tuple(sum(row.integer(column) for row in counted) for column in (1, 2))}
    for column in range(3, len(header)):
        left = [1 - row.number(column, 0, 100) / 100 for row in counted]
        totals = (sum(share * row.integer(of) for share, row in zip(left, counted, strict=True)) for of in (1, 2))
        budgets[rows["Overall"].text(column)] = tuple(map(round, totals))
    return budgets


_SUMMARY = "Sparsity,Full Dense,error1,Dynamic Sparse,error2,Sparse Momentum,error3,SET,error4,DEEP-R,error5".split(",")
_METHODS = {"Dynamic Sparse": "dsr", "Sparse Momentum": "sparse_momentum", "SET": "set", "DEEP-R": "deepr"}
_COMPRESSION = ("name", "author", "density", "error", "sm SE")
_COMPRESSED_BY = {
    "Sparse Momentum": "sparse_momentum",
    "Single-shot Net. Pruning": "snip",
    "Variational Dropout": "vd",
}


def read_summary(folder, source, model, dataset, scale):
    """A comparison of four dynamic methods and the dense network at several sparsities."""
    mended = (TIMES_100,) if scale < 1 else ()
    rows = read_rows(os.path.join(folder, source), _SUMMARY)
    columns = {"Full Dense": "none", **_METHODS}
    for row in rows:
        for number, (column, technique) in enumerate(columns.items(), start=1):
            dense = technique == "none"
            if dense and row is not rows[0]:
                continue  # Every line repeats the dense network.
            error = row.optional_number(f"error{number}", 0)
            yield PublishedResult(
                system="sparse_momentum",
                source=source,
                line=row.line,
                model=model,
                dataset=dataset,
                technique=technique,
                sparsity=0.0 if dense else row.number("Sparsity", 0, 1),
                metric="top-1 accuracy",
                score=round(scale * row.number(column, 0), 6),
                standard_error=None if error is None else round(scale * error, 10),
                mended=mended,
            )


def read_compression(folder, source, model):
    """Errors on MNIST of networks that other papers report, beside those of sparse momentum."""
    for row in read_rows(os.path.join(folder, source), _COMPRESSION):
        name = row.text("name")
        yield PublishedResult(
            system="sparse_momentum",
            source=source,
            line=row.line,
            model=model,
            dataset="MNIST",
            technique=_COMPRESSED_BY.get(name, name),
            sparsity=round(1 - row.number("density", 0, 100) / 100, 6),
            metric="top-1 accuracy",
            score=round(100 - row.number("error", 0, 100), 6),
            standard_error=row.optional_number("sm SE", 0),
            settings={"author": row.text("author")},
        )


def read_sensitivity(folder, source, model):
    """The influence of momentum or of the prune rate on CIFAR-10. The file does not say how sparse the networks are."""
    setting = "momentum" if "momentum_" in source else "prune_rate"
    variants = ("sparse", "dense") if setting == "momentum" else ("cosine", "linear")
    columns = [setting, *(f"{one} {what}" for one in variants for what in ("median", "mean", "SE"))]
    for row in read_rows(os.path.join(folder, source), columns):
        for variant in variants:
            settings = {setting: row.number(setting, 0, 1), "median": _error(row, f"{variant} median")}
            if setting == "prune_rate":
                settings["decay"] = variant
            dense = variant == "dense"
            yield PublishedResult(
                system="sparse_momentum",
                source=source,
                line=row.line,
                model=model,
                dataset="CIFAR-10",
                technique="none" if dense else "sparse_momentum",
                sparsity=0.0 if dense else None,
                metric="top-1 accuracy",
                score=_error(row, f"{variant} mean"),
                standard_error=round(100 * row.number(f"{variant} SE", 0), 6),
                settings=settings,
            )


def _error(row, column):
    """The accuracy in percent that belongs to an error, a fraction."""
    return round(100 * (1 - row.number(column, 0, 1)), 6)


def read_imagenet_logs(folder, source):
    """The last epochs of the ImageNet logs in sparse momentum's repository."""
    for row in read_rows(os.path.join(folder, source), ("model", "recipe", "density", "top1", "top5")):
        yield PublishedResult(
            system="sparse_momentum",
            source=source,
            line=row.line,
            model=row.text("model"),
            dataset="ImageNet",
            technique="sparse_momentum",
            sparsity=round(1 - row.number("density", 0, 1), 8),
            metric="top-1 accuracy",
            score=row.number("top1", 0, 100),
            settings={"recipe": row.text("recipe"), "top5_accuracy": row.number("top5", 0, 100)},
        )


_DSR_METHODS = {"dynamic": "dsr", "prune": "magnitude", "set": "set", "static": "static", "deepr": "deepr"}
_DSR_MODELS = {"cf10": ("WRN-28-2", "CIFAR-10"), "mnist": ("MNIST-MLP", "MNIST")}


def read_dsr_runs(folder, source):
    """Five accuracies at each sparsity, of DSR or of a method that its authors compared it with."""
    path = os.path.join(folder, source)
    method, data = re.fullmatch(r"(\w+)_errors_(\w+)\.txt", os.path.basename(source)).groups()
    model, dataset = _DSR_MODELS[data]
    with open(path, encoding="utf-8") as file:
        first, *lines = file.read().splitlines()
    match = re.search(r"Sparsity = \[([\d.,]+)\]$", first)
    levels = match[1].split(",") if match else []
    if len(levels) != len(lines):
        raise DamagedFileError(path, "its first line must list one sparsity for each other line")
    for number, (level, line) in enumerate(zip(levels, lines, strict=True), start=2):
        row = Row(path, number, dict(enumerate(line.split())))
        scores = tuple(round(row.number(column, 0, 100), 6) for column in row.cells)
        if len(scores) != 5:
            raise row.wrong(f"it must hold 5 accuracies, not {len(scores)}")
        yield PublishedResult(
            system="dsr",
            source=source,
            line=number,
            model=model,
            dataset=dataset,
            technique=_DSR_METHODS[method],
            sparsity=float(level),
            metric="top-1 accuracy",
            score=sum(scores) / len(scores),
            scores=scores,
            standard_error=standard_error(scores),
            mended=(NOT_ERRORS,),
        )


def read_dsr_imagenet(folder, source):
    """DSR's ResNet-50, as the paper of RigL confirms it."""
    for row in read_rows(os.path.join(folder, source), ("model", "technique", "sparsity", "top1")):
        yield PublishedResult(
            system="dsr",
            source=source,
            line=row.line,
            model=row.text("model"),
            dataset="ImageNet",
            technique=row.text("technique"),
            sparsity=row.number("sparsity", 0, 1),
            metric="top-1 accuracy",
            score=row.number("top1", 0, 100),
        )
