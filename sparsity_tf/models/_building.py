"""Code that all builders share: layers as the sources define them, and the technique, which is applied at the end.

Most of the networks were published in PyTorch, whose convolutions pad the same number of zeros on both sides. Keras's
"same" pads as many zeros as the input size needs, and puts an odd zero last. Both agree for odd kernels at stride 1,
but at stride 2 they look at different pixels. So every strided convolution pads explicitly here.
"""

import math

import keras
from keras import layers

from sparsity_tf.checks import (
    check_bool,
    check_initializer,
    check_instance,
    check_integer,
    check_integers,
    check_number,
    check_regularizer,
)


def kernel_arguments(initializer, regularizer):
    """A function that makes new kernel arguments for each layer: a shared seeded initializer would repeat its draws."""

    def arguments():
        fresh = check_initializer("kernel_initializer", initializer)
        return {
            "kernel_initializer": fresh.clone() if hasattr(fresh, "clone") else fresh,
            "kernel_regularizer": check_regularizer("kernel_regularizer", regularizer),
        }

    return arguments


def apply_technique(model, technique, options, where):
    """Makes the finished model sparse if a technique is given."""
    if technique is None:
        for argument, value in (("technique_options", options), ("where", where)):
            if value is not None:
                raise ValueError(f"`{argument}` needs a `technique`. Received: {argument}={value!r}, technique=None")
        return model
    from sparsity_tf.sparsify import sparsify

    if options is not None:
        check_instance("technique_options", options, dict)
    return sparsify(model, technique, where=where, **(options or {}))


def variance_scaling(scale, mode="fan_in", distribution="untruncated_normal"):
    """`VarianceScaling`. `scale=2` is the normal distribution of He et al.; Keras's own `he_normal` truncates it."""
    return keras.initializers.VarianceScaling(scale, mode, distribution)


def torch_default():
    """PyTorch's default for a kernel: uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    return variance_scaling(1 / 3, "fan_in", "uniform")


def check_width(width):
    """Raises a ValueError unless a multiplier of numbers of units is above 0 and at most 10,000."""
    check_number("width", width, above=0, most=10_000)


def image_input(input_shape, num_classes, flattened=False):
    """Checks the arguments of a classifier and makes its input.

    Args:
        input_shape: Shape of one image, channels last; height and width may be `None`.
        num_classes: Number of classes.
        flattened: Whether the image may have any rank, and must have a known size.

    Returns:
        `keras.KerasTensor`.
    """
    check_integers("input_shape", input_shape, 1, length=None if flattened else 3, unknown=not flattened)
    check_integer("num_classes", num_classes, 1)
    return keras.Input(input_shape, name="image")


def check_multiples(input_shape, factor):
    """Raises a ValueError unless height and width are multiples of `factor`: for networks with a spatial bottleneck."""
    if any(size is None or size % factor for size in input_shape[:2]):
        raise ValueError(
            f"`input_shape` must have a height and a width that are multiples of {factor} with "
            "spatial_bottleneck=True, because maps are halved and restored. "
            f"Received: input_shape={tuple(input_shape)}"
        )


class Layers:
    """The layers of one network, each applied as soon as it is made. Images have their channels last.

    Args:
        kernel_initializer: Initializer of every kernel that gets no other one.
        kernel_regularizer: Keras regularizer of every kernel, or `None`.
        override: The user's initializer for all kernels, or `None` for the initializers of the source.
        uniform_biases: Whether biases start uniform within 1 / sqrt(fan_in), as in PyTorch, instead of at 0.
        epsilon: Epsilon of batch normalisation. (The momentum is 0.9, which PyTorch calls 0.1.)
        affine: Whether batch normalisation has gamma and beta.
    """

    def __init__(
        self,
        kernel_initializer,
        kernel_regularizer=None,
        override=None,
        uniform_biases=False,
        epsilon=1e-5,
        affine=True,
    ):
        # Called once to check the arguments before any layer is built.
        kernel_arguments(override, kernel_regularizer)()
        self._kernel_initializer = kernel_initializer
        self._kernel_regularizer = kernel_regularizer
        self._override = override
        self._uniform_biases = uniform_biases
        check_bool("affine", affine)
        self._epsilon = epsilon
        self._affine = affine

    def conv(self, x, filters, size, strides=1, padding=None, use_bias=False, initializer=None, name=None):
        """A convolution that pads `padding` zeros (default `size // 2`) on every side."""
        x, padding = self._pad(x, size, strides, padding, name)
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            data_format="channels_last",
            name=name,
            **self._kernel(initializer),
            **self._bias(use_bias, size * size * x.shape[-1]),
        )(x)

    def conv_transpose(self, x, filters, size=3, strides=2, name=None):
        """A transposed convolution without bias whose output is `strides` times as large as its input.

        For an odd size it is PyTorch's with `padding=size // 2` and `output_padding=strides - 1`: position i of the
        input adds its kernel to the positions around `strides * i`.
        """
        x = layers.Conv2DTranspose(
            filters,
            size,
            strides=strides,
            padding="valid",
            use_bias=False,
            data_format="channels_last",
            name=name,
            **self._kernel(None),
        )(x)
        first = size // 2
        last = size - strides - first
        crop = layers.Cropping2D(((first, last), (first, last)), data_format="channels_last", name=f"{name}_crop")
        return crop(x)

    def depthwise_conv(self, x, size, strides=1, name=None):
        """A depthwise convolution, padded as `conv`; its initializer is PyTorch's default unless overridden."""
        x, padding = self._pad(x, size, strides, None, name)
        # A filter of a depthwise convolution reads size * size inputs. Keras calls this number the kernel's *fan-out*.
        arguments = self._kernel(variance_scaling(1 / 3, "fan_out", "uniform"))
        return layers.DepthwiseConv2D(
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            data_format="channels_last",
            name=name,
            **{argument.replace("kernel", "depthwise"): value for argument, value in arguments.items()},
        )(x)

    def dense(self, x, units, use_bias=True, initializer=None, max_norm=None, name=None):
        """A dense layer; with `max_norm` the weights into each unit have an L2 norm of at most this number."""
        return layers.Dense(
            int(units),  # Keras refuses numpy's integers.
            use_bias=use_bias,
            kernel_constraint=None if max_norm is None else keras.constraints.MaxNorm(max_norm, axis=0),
            name=name,
            **self._kernel(initializer),
            **self._bias(use_bias, x.shape[-1]),
        )(x)

    def batch_norm(self, x, name, gamma="ones"):
        """Batch normalisation."""
        return layers.BatchNormalization(
            momentum=0.9,
            epsilon=self._epsilon,
            center=self._affine,
            scale=self._affine,
            gamma_initializer=gamma,
            name=name,
        )(x)

    def relu(self, x, name):
        """ReLU."""
        return layers.ReLU(name=name)(x)

    def conv_bn_relu(self, x, filters, size, strides=1, name=None, **arguments):
        """Convolution, batch normalisation `<name>_bn`, ReLU `<name>_relu`."""
        x = self.conv(x, filters, size, strides, name=name, **arguments)
        return self.relu(self.batch_norm(x, f"{name}_bn"), f"{name}_relu")

    def max_pool(self, x, size, strides, padding="valid", name=None):
        """Max-pooling. `padding` is a value of Keras, or the number of zeros on every side of non-negative maps."""
        if isinstance(padding, int):
            # PyTorch pads with -infinity. After a ReLU zeros have the same effect.
            x = layers.ZeroPadding2D(padding, data_format="channels_last", name=f"{name}_pad")(x)
            padding = "valid"
        return layers.MaxPooling2D(size, strides, padding, data_format="channels_last", name=name)(x)

    def global_pool(self, x, keepdims=False):
        """The average over all positions, in a layer called `global_pool`."""
        return layers.GlobalAveragePooling2D(data_format="channels_last", keepdims=keepdims, name="global_pool")(x)

    def flatten(self, x):
        """Puts all features of an example in one axis, in a layer called `flatten`."""
        return layers.Flatten(data_format="channels_last", name="flatten")(x)

    def classifier(self, x, num_classes, kind, initializer=None):
        """Global pooling and the layer `classifier`: "dense", with bias, or "conv", 1x1 without bias."""
        if kind == "dense":
            return self.dense(self.global_pool(x), num_classes, initializer=initializer, name="classifier")
        x = self.global_pool(x, keepdims=True)
        return self.flatten(self.conv(x, num_classes, 1, initializer=initializer, name="classifier"))

    def _pad(self, x, size, strides, padding, name):
        """Pads if no `padding` of Keras does the same. Returns (padded tensor, padding argument of the convolution)."""
        padding = size // 2 if padding is None else padding
        if padding == 0:
            return x, "valid"
        if strides == 1 and padding == size // 2 and size % 2:
            return x, "same"
        return layers.ZeroPadding2D(padding, data_format="channels_last", name=f"{name}_pad")(x), "valid"

    def _kernel(self, initializer):
        chosen = next(one for one in (self._override, initializer, self._kernel_initializer) if one is not None)
        return kernel_arguments(chosen, self._kernel_regularizer)()

    def _bias(self, use_bias, fan_in):
        if not (use_bias and self._uniform_biases):
            return {}
        bound = 1 / math.sqrt(fan_in)
        return {"bias_initializer": keras.initializers.RandomUniform(-bound, bound)}
