"""Initial weights for networks that are sparse from the start, with a variance that fits the live connections.

A dense initializer sets the variance by the number of inputs or outputs of a unit. If most of these are masked, the
signal shrinks. The initializers here count only live connections: on average over the tensor (`PerLayerScaled`,
`ScaledConstant` and the three "augmented" initializers) or for each unit (`PerUnitScaled`). `reinitialize` draws new
weights for a model with masks:

```python
model = sparsify(model, "masked")
load_masks(model, "pruned.keras")
initializers.reinitialize(model, "per_unit", seed=0)
```

Sources: Gale, Elsen and Hooker, "The State of Sparsity in Deep Neural Networks" (arXiv 1902.09574: scratch experiments
with augmented initialization); Evci et al., "Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win"
(arXiv 2010.03533: variance of each unit).
"""

import base64
import math

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import seed_of_draw
from sparsity_tf.checks import (
    check_array,
    check_bool,
    check_choice,
    check_fraction,
    check_initializer,
    check_integers,
    check_number,
    check_seed,
)
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.type_names import Initializer, Shape, Tensor

# The standard deviation of a standard normal distribution that is cut off at two standard deviations.
_TRUNCATED_STDDEV = 0.87962566103423978


@keras.saving.register_keras_serializable("sparsity_tf")
class PerLayerScaled(keras.initializers.VarianceScaling):
    """`VarianceScaling`, with the standard deviation divided by the square root of the density.

    Entries are independent. Their variance is scale / (max(1, n) * (1 - sparsity)), where n is the dense number of
    inputs, or of outputs, or the average of both. The number of inputs is the product of the sizes of all axes but
    `output_axes`, the number of outputs the product of all axes but `input_axes`.

    Args:
        sparsity: Fraction of the entries that will be masked, in [0, 1). The initializer itself makes no zeros.
        scale: Positive number.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
        seed: Integer, `keras.random.SeedGenerator` or `None`.
        input_axes: Axes of a weight that index its input units. Default: the last but one.
        output_axes: Axes of a weight that index its output units. Default: the last.

    Raises:
        ValueError: For any other argument. In a call, for a shape that lacks these axes.

    Example:

    ```python
    keras.layers.Dense(300, kernel_initializer=PerLayerScaled(sparsity=0.9, scale=2.0))
    ```
    """

    def __init__(
        self,
        sparsity: float,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | keras.random.SeedGenerator | None = None,
        input_axes: tuple[int, ...] = (-2,),
        output_axes: tuple[int, ...] = (-1,),
    ) -> None:
        check_fraction("sparsity", sparsity)
        _check_scaling(scale, mode, distribution, seed, input_axes, output_axes)
        super().__init__(scale, mode, distribution, seed)
        self.sparsity = float(sparsity)
        self.input_axes, self.output_axes = tuple(input_axes), tuple(output_axes)

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        fan_in = math.prod(shape[axis] for axis in _all_but(self.output_axes, shape))
        fan_out = math.prod(shape[axis] for axis in _all_but(self.input_axes, shape))
        variance = _variance(self, fan_in, fan_out) / (1.0 - self.sparsity)
        return self._entries(shape, math.sqrt(variance), dtype)

    def _entries(self, shape, stddev, dtype):
        return _draw(self, shape, stddev, dtype)

    def get_config(self) -> dict:
        return {"sparsity": self.sparsity, **_scaling_config(self)}


class _Augmented(PerLayerScaled):
    """A `PerLayerScaled` with fixed settings: `settings` is (scale, mode, distribution)."""

    settings = ()
    ranks = ()

    def __init__(self, sparsity: float, seed: int | keras.random.SeedGenerator | None = None) -> None:
        super().__init__(sparsity, *self.settings, seed=seed)

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        if len(shape) not in self.ranks:
            raise ValueError(f"`shape` must have one of {self.ranks} dimensions. Received: shape={tuple(shape)}")
        return super().__call__(shape, dtype)

    def get_config(self) -> dict:
        config = super().get_config()
        return {"sparsity": config["sparsity"], "seed": config["seed"]}


@keras.saving.register_keras_serializable("sparsity_tf")
class SparseGlorotUniform(_Augmented):
    """Uniform in +-sqrt(6 / (nnz / fan_out + nnz / fan_in)), nnz = fan_in * fan_out * (1 - sparsity).

    The augmented initialization of dense layers in *The State of Sparsity*. With sparsity 0 it is Glorot's.

    Args:
        sparsity: Fraction of the entries that will be masked, in [0, 1).
        seed: Integer, `keras.random.SeedGenerator` or `None`.

    Raises:
        ValueError: For any other sparsity. In a call, for a shape without exactly two dimensions.

    Example:

    ```python
    keras.layers.Dense(300, kernel_initializer=SparseGlorotUniform(sparsity=0.9))
    ```
    """

    settings = (1.0, "fan_avg", "uniform")
    ranks = (2,)


@keras.saving.register_keras_serializable("sparsity_tf")
class SparseHeNormal(_Augmented):
    """Normal with standard deviation sqrt(2 / n), n = (kernel positions) * filters * (1 - sparsity).

    The augmented initialization of convolutions in *The State of Sparsity*. Note that n counts outputs.

    Args:
        sparsity: Fraction of the entries that will be masked, in [0, 1).
        seed: Integer, `keras.random.SeedGenerator` or `None`.

    Raises:
        ValueError: For any other sparsity. In a call, for a shape that no convolution kernel has (a kernel has three to
            five dimensions).

    Example:

    ```python
    keras.layers.Conv2D(64, 3, kernel_initializer=SparseHeNormal(sparsity=0.9))
    ```
    """

    settings = (2.0, "fan_out", "untruncated_normal")
    ranks = (3, 4, 5)


@keras.saving.register_keras_serializable("sparsity_tf")
class SparseEmbeddingNormal(_Augmented):
    """Normal with standard deviation (d * (1 - sparsity)) ** -0.5 for a table of shape (vocabulary, d).

    The augmented initialization of embeddings in *The State of Sparsity*.

    Args:
        sparsity: Fraction of the entries that will be masked, in [0, 1).
        seed: Integer, `keras.random.SeedGenerator` or `None`.

    Raises:
        ValueError: For any other sparsity. In a call, for a shape without exactly two dimensions.

    Example:

    ```python
    keras.layers.Embedding(1000, 64, embeddings_initializer=SparseEmbeddingNormal(sparsity=0.9))
    ```
    """

    settings = (1.0, "fan_out", "untruncated_normal")
    ranks = (2,)


@keras.saving.register_keras_serializable("sparsity_tf")
class ScaledConstant(PerLayerScaled):
    """Every entry is +c or -c with equal probability, c = sqrt(scale / (n * (1 - sparsity))), n as in `PerLayerScaled`.

    With the defaults c is the standard deviation of He et al. Source: STR's program (Kusupati et al., arXiv
    2002.03231), which calls it `signed_constant`, and `unsigned_constant` without the signs. (Without signs all units
    of a layer are equal at first, and learn the same unless masks tell them apart.)

    Args:
        signed: Whether the signs are random; if not, every entry is +c.
        sparsity: Fraction of the entries that will be masked, in [0, 1).
        scale, mode, seed: See `PerLayerScaled`.

    Raises:
        ValueError: For any other argument.

    Example:

    >>> values = keras.ops.convert_to_numpy(ScaledConstant(seed=0)((50, 4)))
    >>> sorted({round(float(value), 3) for value in values.ravel()})
    [-0.2, 0.2]
    """

    def __init__(
        self,
        signed: bool = True,
        sparsity: float = 0.0,
        scale: float = 2.0,
        mode: str = "fan_in",
        seed: int | keras.random.SeedGenerator | None = None,
    ) -> None:
        check_bool("signed", signed)
        super().__init__(sparsity, scale, mode, "uniform", seed)
        self.signed = signed

    def _entries(self, shape, stddev, dtype):
        values = ops.full(shape, stddev, dtype or keras.config.floatx())
        return ops.where(keras.random.uniform(shape, seed=self.seed) < 0.5, -values, values) if self.signed else values

    def get_config(self) -> dict:
        config = super().get_config()
        return {"signed": self.signed, **{name: config[name] for name in ("sparsity", "scale", "mode", "seed")}}


@keras.saving.register_keras_serializable("sparsity_tf")
class PerUnitScaled(keras.initializers.VarianceScaling):
    """`VarianceScaling` by the number of live connections of each unit. Masked entries are exactly zero.

    A live entry from unit i to unit j has the variance scale / max(1, n), where n is the number of live entries into j
    ("fan_in"), out of i ("fan_out"), or the average of the two ("fan_avg"). `PerLayerScaled` says which axes index i
    and j. A unit without live entries has only zeros, and a mask without live entries gives zeros everywhere.

    Args:
        mask: Array or tensor of the weight's shape. Entries that are not zero live.
        scale, mode, distribution, seed, input_axes, output_axes: See `PerLayerScaled`.

    Raises:
        ValueError: For any other argument. In a call, for a shape that differs from the shape of the mask.

    Example:

    >>> mask = np.array([[1, 0, 0], [1, 0, 1]])  # Standard deviations [[1, 0, 0], [1, 0, 1.41]].
    >>> values = PerUnitScaled(mask, scale=2.0, mode="fan_in", seed=0)(mask.shape)
    >>> (keras.ops.convert_to_numpy(values) != 0).astype(int)
    array([[1, 0, 0],
           [1, 0, 1]])
    """

    def __init__(
        self,
        mask: Tensor,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | keras.random.SeedGenerator | None = None,
        input_axes: tuple[int, ...] = (-2,),
        output_axes: tuple[int, ...] = (-1,),
    ) -> None:
        _check_scaling(scale, mode, distribution, seed, input_axes, output_axes)
        super().__init__(scale, mode, distribution, seed)
        if isinstance(mask, dict) and set(mask) == {"shape", "bits"}:
            self.mask = _unpack(mask)
        else:
            check_array("mask", mask)
            self.mask = np.asarray(ops.convert_to_numpy(mask)) != 0
        self.input_axes, self.output_axes = tuple(input_axes), tuple(output_axes)
        fan_in = self.mask.sum(_all_but(self.output_axes, self.mask.shape, "mask"), keepdims=True)
        fan_out = self.mask.sum(_all_but(self.input_axes, self.mask.shape, "mask"), keepdims=True)
        self._stddev = np.sqrt(_variance(self, fan_in, fan_out))

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        if tuple(shape) != self.mask.shape:
            raise ValueError(
                f"`shape` must be the shape of the mask, {self.mask.shape}. Received: shape={tuple(shape)}"
            )
        values = _draw(self, shape, self._stddev, dtype)
        return ops.where(self.mask, values, ops.zeros((), values.dtype))

    def get_config(self) -> dict:
        return {"mask": _pack(self.mask), **_scaling_config(self)}


def reinitialize(
    model: keras.layers.Layer, kind: str = "per_unit", initializer: Initializer | None = None, seed: int | None = None
) -> keras.layers.Layer:
    """Draws new weights for a model's masked layers, with variances that fit their masks.

    Masked entries are exactly zero. Masks and all other variables stay as they are. Optimizer slots are not reset.

    Args:
        model: Built Keras model with masked layers (`sparsify(model, "masked")`).
        kind: "per_unit" (`PerUnitScaled`), "per_layer" (`PerLayerScaled` with the present sparsity of each weight) or
            "augmented" ("per_layer" with the settings of `SparseHeNormal` for convolutions and of `SparseGlorotUniform`
            for other kernels). Embedding tables get the settings of `SparseEmbeddingNormal` in every kind.
        initializer: Keras initializer of the `VarianceScaling` family ("he_normal", "glorot_uniform"), from which
            scale, mode and distribution are taken. Default: each layer's own initializer. Not for "augmented".
        seed: Integer, or `None` for a random seed. Each weight draws its own numbers.

    Returns:
        The same model.

    Raises:
        ValueError: For any other argument; if no initializer is given and a layer's own is of another family. The model
            is then unchanged.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.9)
    reinitialize(model, "per_unit", seed=0)
    ```
    """
    check_choice("kind", kind, ("per_unit", "per_layer", "augmented"))
    check_seed("seed", seed)
    if initializer is not None:
        initializer = _check_family("initializer", check_initializer("initializer", initializer))
        if kind == "augmented":
            raise ValueError(f"`initializer` must be None with kind='augmented'. Received: initializer={initializer!r}")
    weights = [weight for weight in get_sparse_weights(model) if weight.technique.name == "masked"]
    if not weights:
        raise ValueError(
            f"`model` must have masked layers and be built; `sparsify(model, 'masked')` makes them. Received: {model!r}"
        )
    settings = [_settings(weight, kind, initializer) for weight in weights]
    generator = keras.random.SeedGenerator(seed)
    for weight, (scale, mode, distribution) in zip(weights, settings, strict=True):
        mask = ops.convert_to_numpy(weight.mask())
        options = (scale, mode, distribution, seed_of_draw(generator), *_axes(weight))
        if kind == "per_unit":
            draw = PerUnitScaled(mask, *options)
        else:
            draw = PerLayerScaled(1.0 - mask.mean() if mask.any() else 0.0, *options)
        values = draw(weight.shape, weight.variable.dtype)
        weight.variable.assign(ops.where(mask, values, ops.zeros((), values.dtype)))
    return model


def _check_scaling(scale, mode, distribution, seed, input_axes, output_axes):
    check_number("scale", scale, above=0)
    check_choice("mode", mode, ("fan_in", "fan_out", "fan_avg"))
    check_choice("distribution", distribution, ("truncated_normal", "normal", "untruncated_normal", "uniform"))
    # A dict may be the config of a `SeedGenerator`.
    if not isinstance(seed, keras.random.SeedGenerator) and not (isinstance(seed, dict) and "class_name" in seed):
        check_seed("seed", seed)
    check_integers("input_axes", input_axes)
    check_integers("output_axes", output_axes)


def _settings(weight, kind, initializer):
    """The settings (scale, mode, distribution) for drawing a weight."""
    layer = weight.layer
    if isinstance(layer, keras.layers.Embedding) and weight.name == "embeddings":
        return SparseEmbeddingNormal.settings
    if kind == "augmented":
        return SparseHeNormal.settings if _spatial_rank(layer) else SparseGlorotUniform.settings
    if initializer is None:
        # In Keras's recurrent layers the initializer of `recurrent_kernel` is `recurrent_initializer`.
        names = (f"{weight.name}_initializer", weight.name.replace("kernel", "initializer"), "depthwise_initializer")
        own = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
        initializer = _check_family("initializer", own, f" as the layer {layer.path!r} has it")
    return initializer.scale, initializer.mode, initializer.distribution


def _check_family(argument, initializer, where=""):
    if not isinstance(initializer, keras.initializers.VarianceScaling) or isinstance(initializer, ScaledConstant):
        raise ValueError(
            f"`{argument}` must be a Keras initializer of the VarianceScaling family, such as 'he_normal'. "
            f"Received: {initializer!r}{where}"
        )
    return initializer


def _spatial_rank(layer):
    return getattr(layer, "rank", 0)


def _axes(weight):
    """The pair (input_axes, output_axes) of a weight. Spatial axes are in neither, depthwise channels are in both."""
    if isinstance(weight.layer, keras.layers.Embedding) and weight.name == "embeddings":
        return (0,), (1,)
    output, spatial = weight.filter_axes, _spatial_rank(weight.layer)
    inputs = tuple(axis for axis in range(spatial, len(weight.shape)) if axis not in output)
    return inputs or (spatial,), output


def _all_but(axes, shape, argument="shape"):
    """The axes of a shape that are not among `axes`."""
    rank = len(shape)
    if rank < 2 or not all(-rank <= axis < rank for axis in axes):
        raise ValueError(
            f"`{argument}` must have at least two dimensions, the input and output axes among them. "
            f"Received: shape={tuple(shape)} for the axes {axes}"
        )
    return tuple(axis for axis in range(rank) if axis not in {a % rank for a in axes})


def _variance(initializer, fan_in, fan_out):
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return initializer.scale / np.maximum(1.0, fans[initializer.mode])


def _draw(initializer, shape, stddev, dtype):
    """Draws independent entries of mean 0. `stddev` is a number, or an array that broadcasts."""
    options = {"dtype": dtype, "seed": initializer.seed}
    if initializer.distribution == "uniform":
        unit = keras.random.uniform(shape, -math.sqrt(3.0), math.sqrt(3.0), **options)
    elif initializer.distribution == "truncated_normal":
        unit = keras.random.truncated_normal(shape, 0.0, 1.0 / _TRUNCATED_STDDEV, **options)
    else:
        unit = keras.random.normal(shape, **options)
    return unit * ops.cast(stddev, unit.dtype)


def _scaling_config(initializer):
    seed = keras.initializers.VarianceScaling.get_config(initializer)["seed"]
    names = ("scale", "mode", "distribution", "input_axes", "output_axes")
    values = {name: getattr(initializer, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()} | {"seed": seed}


def _pack(mask):
    """Packs a mask for JSON: one bit for each entry, in base 64."""
    return {"shape": list(mask.shape), "bits": base64.b64encode(np.packbits(mask).tobytes()).decode()}


def _unpack(packed):
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["bits"]), "uint8"))
    return bits[: math.prod(packed["shape"])].reshape(packed["shape"]).astype(bool)
