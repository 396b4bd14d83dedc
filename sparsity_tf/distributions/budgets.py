"""Budgets record how sparse each weight of a trained network is, so that another training run can use these numbers.

```python
allocate(get_sparse_weights(model), None, inspection.sparsity_budget(trained))
allocate(get_sparse_weights(model), None, budgets.read_csv("STR_Budgets_ResNet50.csv", column="90.23"))
```

A budget is a read-only dict from names to sparsities. It is also a distribution (`base.py`): called with tensors, it
finds the sparsity that belongs to each tensor. So one argument is enough to prune with the budget that a learned method
found ("budget transfer" in Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity", arXiv
2002.03231).
"""

import collections.abc
import csv
import fractions
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparsity_tf.checks import check_fraction, check_instance, check_integer, check_number, check_path
from sparsity_tf.distributions.base import check_tensors, exact_sparsity, names_of, shorten
from sparsity_tf.masks.ranking import number_of_zeros, number_to_keep
from sparsity_tf.type_names import PathLike


class Budget(collections.abc.Mapping):
    """Sparsities by name, in the order of the network.

    Args:
        sparsities: Dict from names to numbers in [0, 1].
        sizes: Dict from the same names to numbers of entries, at least 1; `None` if the sizes are not known.

    Raises:
        ValueError: For any other argument.

    Example:

    >>> budget = Budget({"fc1": 0.95, "fc2": 0.5})
    >>> budget["fc1"]
    0.95
    >>> budget([sparsity_tf.distributions.TensorSpec(name, (10, 10)) for name in budget])
    [0.95, 0.5]
    """

    explicit = True

    def __init__(self, sparsities: Mapping[str, float], sizes: Mapping[str, int] | None = None) -> None:
        right = isinstance(sparsities, collections.abc.Mapping) and sparsities
        if not right or not all(isinstance(name, str) for name in sparsities):
            raise ValueError(f"`sparsities` must be a dict from names. Received: sparsities={sparsities!r}")
        for name, value in sparsities.items():
            check_fraction(f"sparsities[{name!r}]", value, closed=True)
        if sizes is not None:
            check_instance("sizes", sizes, collections.abc.Mapping)
            if list(sizes) != list(sparsities):
                raise ValueError(
                    "`sizes` must have the same names as `sparsities`, in the same order. Received: sizes of "
                    f"{shorten(list(sizes))}, sparsities of {shorten(list(sparsities))}"
                )
            for name, size in sizes.items():
                check_integer(f"sizes[{name!r}]", size, 1)
        self._sparsities = {name: float(value) for name, value in sparsities.items()}
        self.sizes = None if sizes is None else {name: int(size) for name, size in sizes.items()}

    def __getitem__(self, name):
        return self._sparsities[name]

    def __iter__(self):
        return iter(self._sparsities)

    def __len__(self):
        return len(self._sparsities)

    def __repr__(self):
        return f"Budget({self._sparsities}, sizes={self.sizes})"

    def __call__(self, tensors: Sequence[Any], sparsity: float | None = None) -> list[float]:
        """The numbers of `match` as a list, in the order of `tensors`. The global target `sparsity` is not used."""
        return [self[name] for name in self.entries(tensors)]

    def match(self, tensors: Sequence[Any]) -> dict[str, float]:
        """Finds the entry of each tensor.

        * By name, if each entry is named by the path, the layer's path or the layer's name of one tensor, and has the
          size of this tensor;
        * otherwise by order, if there are as many entries as tensors, all sizes agree, and no entry has the name of
          another tensor that it would fit. (So a budget from PyTorch's ResNet-50 fits a model that creates its layers
          in the same order. A model with another order is refused.) A budget without sizes is matched by order only if
          its names are the positions 1, 2, 3, ...

        Args:
            tensors: List of tensors: `get_sparse_weights(model)` or `TensorSpec`s.

        Returns:
            Dict from path to sparsity, in the order of `tensors`.

        Raises:
            ValueError: If neither rule fits. The message lists the entries and tensors that do not fit.
        """
        return {tensor.path: self[name] for tensor, name in zip(tensors, self.entries(tensors), strict=True)}

    def entries(self, tensors: Sequence[Any]) -> list[str]:
        """The name of the entry for each tensor, a list in the order of `tensors`. See `match`."""
        check_tensors(tensors)
        named = [[name for name in self if name in names_of(tensor) and self._fits(name, tensor)] for tensor in tensors]
        flat = [name for found in named for name in found]
        if all(len(found) == 1 for found in named) and sorted(flat) == sorted(self):
            return flat
        problems = self._problems_of_order(tensors, named)
        if problems:
            lost = [name for name in self if name not in flat]
            unnamed = [tensor.path for tensor, found in zip(tensors, named, strict=True) if not found]
            raise ValueError(
                "`tensors` must fit the budget, by name or by order. Received, by name: no tensor for "
                f"{shorten(lost)} and no entry for {shorten(unnamed)}; by order: {shorten(problems)}"
            )
        return list(self)

    def _fits(self, name, tensor):
        return self.sizes is None or self.sizes[name] == math.prod(tensor.shape)

    def _problems_of_order(self, tensors, named):
        if len(self) != len(tensors):
            return [f"{len(self)} entries for {len(tensors)} tensors"]
        if self.sizes is None and list(self) != [str(position + 1) for position in range(len(self))]:
            return ["the budget has no sizes to compare with the tensors"]
        problems = []
        for name, tensor, found in zip(self, tensors, named, strict=True):
            if not self._fits(name, tensor):
                size = math.prod(tensor.shape)
                problems.append(f"{name!r} has {self.sizes[name]} entries and {tensor.path!r} has {size}")
            elif found and name not in found:
                problems.append(
                    f"{tensor.path!r} is in the place of {name!r}, although the budget has an entry of its own for it"
                )
        return problems


def write_csv(path: PathLike, budget: Mapping[str, float]) -> None:
    """Writes a budget, one line a weight: `name,size,sparsity`, fractions in full precision, no total.

    Args:
        path: Path of the file.
        budget: `Budget`, or a dict from names to sparsities such as `allocate` returns. The sizes of a dict stay empty.

    Raises:
        ValueError: If `budget` is not a budget.

    Example:

    ```python
    write_csv("budget.csv", Budget({"fc1": 0.95, "fc2": 0.5}))
    ```
    """
    check_path("path", path)
    check_instance("budget", budget, collections.abc.Mapping)
    if not isinstance(budget, Budget):
        try:
            budget = Budget(budget)
        except ValueError as error:
            raise ValueError(f"`budget`: {error}") from None
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "size", "sparsity"])
        writer.writerows([name, (budget.sizes or {}).get(name, ""), repr(budget[name])] for name in budget)


def write_str_csv(
    path: PathLike, budget: Budget, flops: Mapping[str, float] | None = None, pooling: Mapping[str, float] | None = None
) -> None:
    """Writes a budget in the layout of STR's `STR_Budgets_ResNet50.csv`.

    Percentages have two decimals, as in STR's file. They have more decimals where two would change a count: after
    reading, `masks.number_of_zeros` and `masks.number_to_keep` of `read_csv(path)[name]` give the counts of `budget`.

    Args:
        path: Path of the file.
        budget: `Budget` with sizes. The last entry is the classifier; the line "Backbone" leaves it out.
        flops: Dict from the names of the budget to dense multiply-accumulates; `None` leaves the column empty.
        pooling: Dict from names of pooling layers to their additions, or `None`.

    Raises:
        ValueError: If `budget` is not a budget with sizes, or `flops` lacks one of its names.

    Example:

    ```python
    write_str_csv("budget.csv", Budget({"fc1": 0.95, "fc2": 0.5}, sizes={"fc1": 100, "fc2": 10}))
    ```
    """
    check_path("path", path)
    for name, numbers in (("flops", flops), ("pooling", pooling)):
        if numbers is not None:
            check_instance(name, numbers, collections.abc.Mapping)
            for key, number in numbers.items():
                check_number(f"{name}[{key!r}]", number)
    if not isinstance(budget, Budget) or budget.sizes is None:
        raise ValueError(f"`budget` must be a `Budget` with sizes. Received: budget={budget!r}")
    missing = [name for name in budget if flops is not None and name not in flops]
    if missing:
        raise ValueError(f"`flops` must have the names of the budget. Received none for {shorten(missing)}")
    pooling = pooling or {}

    def total(metric, names, added=0):
        size = sum(budget.sizes[name] for name in names)
        zeros = sum(number_of_zeros(budget[name], budget.sizes[name]) for name in names)
        cost = "" if flops is None else sum(flops[name] for name in names) + added
        return [metric, size, cost, f"{100 * zeros / size:.2f}"]

    names = list(budget)
    additions = sum(pooling.values())
    rows = [total("Overall", names, additions)]
    if len(names) > 1:
        rows.append(total("Backbone", names[:-1], additions))
    for index, name in enumerate(names, start=1):
        cost = "" if flops is None else flops[name]
        percent = _percent(budget[name], budget.sizes[name])
        rows.append([f"Layer {index} - {name}", budget.sizes[name], cost, percent])
    rows += [[f"AP - {name}", 0, cost, 0] for name, cost in pooling.items()]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Metric", "Params", "FLOPs", "Sparsity (%)"])
        writer.writerows(rows)


def _percent(sparsity, size):
    """The shortest percentage, of two decimals or more, that gives the same number of zeros and of live entries."""
    zeros = number_of_zeros(sparsity, size)
    for decimals in range(2, 18):
        whole, rest = divmod(round(fractions.Fraction(100 * zeros, size) * 10**decimals), 10**decimals)
        text = f"{whole}.{rest:0{decimals}d}"
        read = _fraction(f"{text}%")
        # `number_of_zeros` rounds the zeros down, and `number_to_keep` rounds them up. The percentage must give the
        # right count with both, so that every algorithm arrives at the same count.
        if number_of_zeros(read, size) == zeros and number_to_keep(read, size) == size - zeros:
            return text
    raise AssertionError(f"{zeros} of {size} entries are no percentage")


def read_csv(path: PathLike, column: str | int | float | None = None) -> Budget:
    """Reads a budget from a file in one of three layouts. The header tells which:

    * columns `name`, `sparsity` (fractions) and perhaps `size`: the files of `write_csv` and `SparsityTable.to_csv`;
    * `Metric,Params,FLOPs,Sparsity (%),,,...`: STR's budgets. A column is named by its overall sparsity ("90.23"). Rows
      other than layers (overall, backbone, pooling) are left out. Names are PyTorch's ("layer1.0.conv1");
    * `Layer,<method>,<method>,...`: STR's comparison of methods, in percent. Names are positions, "1" to "54".

    Percentages become the exact fraction: 59.8 is 0.598.

    Args:
        path: Path of the file.
        column: String or number that selects one of several budgets in the file; `None` if the file holds one budget.

    Returns:
        A `Budget`, with sizes if the file has them.

    Raises:
        ValueError: For a file in another layout, a name that comes twice, or an unknown or missing `column`. The
            message lists the columns that the file has.

    Example:

    >>> write_csv("budget.csv", Budget({"fc1": 0.95, "fc2": 0.5}))
    >>> read_csv("budget.csv")["fc1"]
    0.95
    """
    check_path("path", path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`path` must be a readable CSV file, UTF-8. Received: {str(path)!r} ({error})") from error
    width = max(map(len, rows), default=0)
    rows = [row + [""] * (width - len(row)) for row in rows]
    columns, entries = _parse(rows, path)
    if (column is None and len(columns) != 1) or (column is not None and str(column) not in columns):
        raise ValueError(f"`column` must be one of {shorten(columns)} for {str(path)!r}. Received: column={column!r}")
    position = 0 if column is None else columns.index(str(column))
    names = [name for name, _, _ in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"`path` must be a file with distinct names. Received: {str(path)!r} with {shorten(names)}")
    try:
        sparsities = {name: _sparsity(values[position]) for name, _, values in entries}
        sizes = {name: int(size) for name, size, _ in entries} if all(size for _, size, _ in entries) else None
        return Budget(sparsities, sizes)
    except ValueError as error:
        raise ValueError(
            f"`path` must be a file with a number for each weight. Received: {str(path)!r} ({error})"
        ) from None


def _parse(rows, path):
    """Returns (names of columns, [(name, size or "", [value, ...]), ...]). `_sparsity` turns values into numbers."""
    header = rows[0] if rows else []
    if "name" in header and "sparsity" in header:
        cells = [dict(zip(header, row, strict=False)) for row in rows[1:]]
        return ["sparsity"], [(row["name"], row.get("size", ""), [row]) for row in cells]
    if header[:4] == ["Metric", "Params", "FLOPs", "Sparsity (%)"]:
        layers = [(re.fullmatch(r"Layer \d+ - (.+)", row[0]), row) for row in rows]
        columns = [v for row in rows if row[0] == "Overall" for v in row[3:]]
        return columns, [(name[1], row[1], [f"{v}%" for v in row[3:]]) for name, row in layers if name]
    if header[:1] == ["Layer"] and len(header) > 1 and all(v.endswith("%") for row in rows[1:] for v in row[1:]):
        return header[1:], [(row[0], "", row[1:]) for row in rows[1:]]
    raise ValueError(
        "`path` must be a file with columns `name` and `sparsity`, or one of STR's budgets. "
        f"Received: {str(path)!r} with the header {shorten(header)}"
    )


def _sparsity(value):
    """The number that a value stands for. A value is a text, or a row as a dict from columns to cells."""
    return _fraction(value if isinstance(value, str) else _from_counts(value))


def _from_counts(row):
    """The sparsity of a row. The counts of a `SparsityTable`, if there are any, give it without a rounding error."""
    if not row.get("nonzeros") or row["sparsity"] == "nan":
        return row["sparsity"]
    size, nonzeros = int(row.get("size") or 0), int(row["nonzeros"])
    if not 0 <= nonzeros <= size or not size:
        raise ValueError(f"{row['name']!r} has {nonzeros} nonzeros of size {size}")
    return repr(exact_sparsity(fractions.Fraction(size - nonzeros, size), size))


def _fraction(text):
    """The number that a text stands for, exact also for a percentage."""
    if not text.endswith("%"):
        return float(text)
    # `Fraction` would also take "1/0", and would compute all digits of 1e999999999 before anyone could refuse it.
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", text[:-1], re.IGNORECASE):
        raise ValueError(f"{text[:50]!r} is no percentage")
    return float(fractions.Fraction(text[:-1]) / 100)
