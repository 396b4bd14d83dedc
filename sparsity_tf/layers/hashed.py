"""HashedNets (Chen et al., ICML 2015, arXiv 1504.04788): many positions of a kernel share one stored number.

A layer stores a bank b of K numbers instead of a kernel of n weights. The weight at position p of the kernel is

    w_p = xi(p) b[h(p)]

with two hash functions: h gives one of the K numbers, and xi a sign. They depend on the position and the layer's seed
alone, so a file holds the seed beside the bank. The gradient of a number of the bank is the sum of xi(p) g_p over its
positions.

The network computes with dense kernels. What is small is the number of parameters, not the number of operations.
"""

import fractions
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import delete_variable, restore_kernel, stored_variable
from sparsity_tf.checks import check_bool, check_choice, check_integer, check_number
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Tensor

ASSIGNMENTS = ("hash", "balanced")
# The name under which a layer saves its pattern beside its bank: the seed as two words, then assignment and signs.
_SEED = "hash_seed"


def shared_positions(size: int, count: int, assignment: str, seed: int) -> np.ndarray:
    """The number of the bank that each position of a kernel reads.

    The result is part of the file format: networks in files must find the same numbers again. So it is computed by
    integer arithmetic of this module, and not by a generator that may change with numpy.

    Args:
        size: Number of positions n of the flattened kernel.
        count: Number of numbers K in the bank, 1 <= K.
        assignment: "hash": each position draws its number, independently of the others. "balanced": the positions, in
            a random order, are dealt out in turn, so each number has floor(n / K) or ceil(n / K) positions.
        seed: Integer of at least 0.

    Returns:
        int32 array of `size` numbers below `count`.
    """
    bits = _hash_of_positions(size, seed, 0)
    if assignment == "hash":
        return ((bits.astype("uint64") * np.uint64(count)) >> np.uint64(32)).astype("int32")
    found = np.empty(size, "int32")
    found[np.argsort(bits, kind="stable")] = np.arange(size) % count
    return found


def signs_of_positions(size: int, seed: int) -> np.ndarray:
    """The sign xi of each position: int8 array of 1 and -1. It is a part of the file format, too."""
    return np.where(_hash_of_positions(size, seed, 1) >> np.uint32(31), np.int8(-1), np.int8(1))


def _hash_of_positions(size, seed, use):
    """A word of 32 bits for each position. `use` tells apart the hash functions of one seed."""
    key = np.zeros(1, "uint32")
    for word in (*_words(seed), use):
        key = _mix(key + np.uint32(word) + np.uint32(0x3C6EF372))
    return _mix(_mix(np.arange(size, dtype="uint32") + key) ^ _mix(key ^ np.uint32(0x1B873593)))


def _words(seed):
    """The 64 bits of a seed that the hash functions use, as two words: the lower first."""
    return np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], "uint32")


def _options_word(technique):
    """What else than the seed decides the pattern, as a word."""
    return ASSIGNMENTS.index(technique.assignment) + 2 * technique.signs


def _mix(x):
    """A bijection of 32-bit words. Every input bit changes every output bit (C. Wellons, "lowbias32", 2018)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _look_up(bank, index, signs):
    return ops.take(bank, index, axis=0) * signs, (bank, index, signs)


def _sum_over_positions(upstream, bank, index, signs):
    return ops.segment_sum(upstream * signs, index, num_segments=bank.shape[0]), None, None


# The same as `_look_up`, with a dense gradient. The gradient of `take` names all positions, which optimizers sort.
_fused_look_up = fused(_look_up, _sum_over_positions)


class Hashed(Technique):
    """A kernel whose weights share the numbers of a small bank: HashedNets.

    The bank takes the place of the kernel's variable: a kernel of n weights has round(n / `compression`) trainable
    numbers, at least one. Each number starts as the value of one of its positions in the kernel, so the weights have
    the distribution of the kernel's initializer. Train such a network from the start: of a trained kernel only these
    values remain. The kernel's regularizer acts on the bank. Biases are not hashed.

    No weight is zero, so sparsities are 0. `sparsity_tf.inspection.sparsity_table` shows the numbers stored, and its
    compression is weights / numbers stored. `sparsity_tf.to_dense` writes all weights out.

    Args:
        compression: n / K, a number of at least 1.
        assignment: "hash" (the paper: every position draws a number of the bank), or "balanced" (every number has the
            same number of positions, up to one: "tied" in the program of DSR, Mostafa and Wang 2019).
        signs: Whether a second hash gives each position a sign, as in the paper. (DSR's program has no signs.)
        seed: Integer of at least 0, the seed of both hash functions. `sparsify` counts it up from layer to layer, so
            layers of one shape share their numbers in different patterns. Layers that you make yourself have the
            pattern of the seed that you give them.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, Hashed(compression=8), where=["hidden"])
    print(sparsity_tf.inspection.sparsity_table(model))
    ```
    """

    name = "hashed"
    aliases = ("hashednet",)
    # LiteRT drops the bias and the activation of a layer whose kernel is computed.
    export_refusal = "the exported model would compute its kernel from the bank in every call"
    seed_per_layer = True

    def __init__(self, compression: float = 8.0, assignment: str = "hash", signs: bool = True, seed: int = 0) -> None:
        check_number("compression", compression, least=1)
        check_choice("assignment", assignment, ASSIGNMENTS)
        check_bool("signs", signs)
        check_integer("seed", seed, 0)
        self.compression = compression
        self.assignment = assignment
        self.signs = bool(signs)
        self.seed = int(seed)  # A config can't hold numpy's integers.
        # The seed before `sparsify` counted it up for a layer: the seed of all layers in files that hold no seeds.
        self.common_seed = self.seed
        # Once the bank has taken its place: the shape of the kernel, and for each position the number that it reads and
        # its sign.
        self._shape = self._index = self._signs = None

    @property
    def holds_bank(self) -> bool:
        """Whether the bank has taken the place of the kernel's variable: the layer is built."""
        return self._shape is not None

    def bank_size(self, size: int) -> int:
        """The number K of stored numbers for a kernel of `size` weights: round(size / compression), at least 1."""
        check_integer("size", size, 0)
        return max(round(size / fractions.Fraction(str(self.compression))), 1)

    def build(self, weight: SparseWeight) -> None:
        kernel, shape = weight.variable, weight.shape
        if kernel.constraint is not None:
            raise ValueError(
                "`kernel_constraint` must be None, because the weights of a hashed layer share their numbers. "
                f"Received: kernel_constraint={kernel.constraint!r} for {weight.path!r}"
            )
        count = self.bank_size(weight.size)
        weight.add_variable(
            "bank",
            shape=(count,),
            initializer=lambda shape, dtype=None: self._first_values(kernel, count),
            regularizer=kernel.regularizer,
            dtype=kernel.dtype,
        )
        # Fresh values for this layer alone: `sparsify` gives each layer a shallow copy of one technique.
        self._shape = shape
        self._index, self._signs = self._index_and_signs(weight.size, count)
        delete_variable(weight.layer, weight.name)

    def set_seed(self, weight: SparseWeight, seed: int) -> None:
        """Gives a built layer the pattern of another seed: the pattern of the file from which its bank comes.

        A function that was compiled before this goes on with the old pattern. So call it on a new model only.
        """
        if seed != self.seed:
            self.seed = seed
            self._index, self._signs = self._index_and_signs(weight.size, self.variable_of(weight).shape[0])

    def _index_and_signs(self, size, count):
        signs = signs_of_positions(size, self.seed) if self.signs else np.ones(size, "int8")
        return shared_positions(size, count, self.assignment, self.seed), signs

    def _first_values(self, kernel, count):
        """The value of one position for each number of the bank, up to the sign."""
        tensor = ops.reshape(ops.convert_to_tensor(kernel), (-1,))
        size = int(tensor.shape[0])
        index, signs = self._index_and_signs(size, count)
        positions = np.arange(count) % size  # A number that no position reads may have any value.
        numbers, first = np.unique(index, return_index=True)
        positions[numbers] = first
        return ops.take(tensor, positions, axis=0) * ops.cast(signs[positions], tensor.dtype)

    def release(self, weight: SparseWeight) -> None:
        value, regularizer = self.value(weight), weight.variable.regularizer
        self._shape = self._index = self._signs = None
        restore_kernel(weight.layer, value, regularizer)

    def variable_of(self, weight: SparseWeight) -> keras.Variable:
        return stored_variable(weight.layer, weight.name) if self._shape is None else weight.extra_variable("bank")

    def shape_of(self, weight: SparseWeight) -> tuple[int, ...]:
        return super().shape_of(weight) if self._shape is None else self._shape

    def stored_of(self, weight: SparseWeight) -> int | None:
        return self.variable_of(weight).shape[0] if self.holds_bank else None

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self._expanded(weight, lambda *tensors: _look_up(*tensors)[0], select)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self._expanded(weight, _fused_look_up, select)

    def _expanded(self, weight, look_up, select):
        bank = ops.cast(weight.extra("bank"), weight.tensor_dtype)
        value = look_up(bank, ops.convert_to_tensor(self._index), ops.cast(self._signs, bank.dtype))
        value = ops.reshape(value, self._shape)
        return value if select is None else select(value)


class HashedLayer:
    """Mixin of the hashed layers, placed before the kind: the attribute `kernel` is the tensor of all weights.

    Example:

    >>> layer = HashedDense(10, compression=5)
    >>> layer.build((None, 20))
    >>> tuple(layer.kernel.shape), tuple(layer.bank.shape)
    ((20, 10), (40,))
    """

    technique_class = Hashed

    @property
    def kernel(self) -> Tensor:
        if self.technique.holds_bank:
            return self.technique.value(SparseWeight(self, "kernel"))
        return super().kernel

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.technique.holds_bank:
            store[_SEED] = np.array([*_words(self.technique.seed), _options_word(self.technique)], "uint32")

    def load_own_variables(self, store: Any) -> None:
        names = set(store.keys())
        if self.technique.holds_bank and _SEED in names:
            saved = np.asarray(store[_SEED], "uint32")
            if not np.array_equal(saved[:2], _words(self.technique.seed)):
                raise ValueError(
                    f"`seed` of layer {self.name!r} must be the seed in the file, because the bank belongs to its "
                    f"pattern: {int(saved[0]) + (int(saved[1]) << 32)}. Received: seed={self.technique.seed}"
                )
            if len(saved) > 2 and saved[2] != _options_word(self.technique):
                raise ValueError(
                    f"`assignment` and `signs` of layer {self.name!r} must be those in the file, because the bank "
                    f"belongs to its pattern: {ASSIGNMENTS[saved[2] & 1]!r} and {bool(saved[2] >> 1)}. Received: "
                    f"assignment={self.technique.assignment!r}, signs={self.technique.signs}"
                )
        elif self.technique.holds_bank and "bank" in names:
            # In files without seeds all layers of a call of `sparsify` have one.
            self.technique.set_seed(SparseWeight(self, "kernel"), self.technique.common_seed)
        super().load_own_variables({name: store[name] for name in names if name != _SEED})

    @classmethod
    def reason_against(cls, layer: keras.layers.Layer) -> str | None:
        if getattr(layer, "kernel_constraint", None) is not None:
            return "its kernel_constraint can't act on weights that share their numbers"
        return super().reason_against(layer)


class HashedDense(HashedLayer, kinds.SparseDense):
    """`keras.layers.Dense` whose weights share numbers. Also takes the arguments of `Hashed`."""


class HashedEinsumDense(HashedLayer, kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` whose weights share numbers. Also takes the arguments of `Hashed`."""


class HashedConv1D(HashedLayer, kinds.SparseConv1D):
    """`keras.layers.Conv1D` whose weights share numbers. Also takes the arguments of `Hashed`."""


class HashedConv2D(HashedLayer, kinds.SparseConv2D):
    """`keras.layers.Conv2D` whose weights share numbers. Also takes the arguments of `Hashed`."""


class HashedConv3D(HashedLayer, kinds.SparseConv3D):
    """`keras.layers.Conv3D` whose weights share numbers. Also takes the arguments of `Hashed`."""
