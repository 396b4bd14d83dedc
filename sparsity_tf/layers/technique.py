"""The base class of all techniques: a technique is one sparsification method.

A technique gives a weight extra variables, a value in training, a value at inference and, if it needs one, a penalty.
It never looks at how a layer applies its kernel: that is the work of the kinds (`kinds.py`).
"""

import inspect
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import stored_variable
from sparsity_tf.checks import check_initializer, check_number, is_number
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.type_names import Tensor


class Technique:
    """Base class: the variables, values and penalty that a sparsification method adds to a weight tensor.

    A technique is a configured value: its constructor takes keyword options only, checks them, and stores them under
    their names. It holds no tensors: its variables live on the layer. To add a technique, subclass this class, override
    `value` and any other method that needs it, and combine the technique with the kinds:

    ```python
    class HardThreshold(Technique):
        name = "hard_threshold"

        def __init__(self, cutoff=0.01):
            self.cutoff = cutoff

        def value(self, weight, select=None):
            w = weight.tensor(select)
            return ops.where(ops.abs(w) > self.cutoff, w, 0)


    @keras.saving.register_keras_serializable("my_package")
    class HardThresholdDense(SparseDense):
        technique_class = HardThreshold


    sparsity_tf.sparsify(model, "hard_threshold", cutoff=0.1)
    ```
    """

    name = None
    aliases = ()
    # Whether the technique adds a term to the training loss, multiplied by the layer's `penalty_weight`.
    penalized = False
    # Whether the technique draws random numbers in training. If so, the layer gets a `seed_generator`.
    stochastic = False
    # Whether `sparsify` gives each layer a `seed` of its own, counted up from the technique's.
    seed_per_layer = False
    # Why a layer of the technique can't be exported as it is. `None` if converters store the plain kernel.
    export_refusal = None

    def build(self, weight: SparseWeight) -> None:
        """Creates the technique's variables for `weight` with `weight.add_variable`."""

    def release(self, weight: SparseWeight) -> None:
        """Undoes the changes of `build` to the weight's own variable, when the layer becomes plain again."""

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The dense tensor that inference uses, exact zeros included.

        Args:
            weight: `SparseWeight`.
            select: Function that takes a tensor of the weight's shape and returns the part that this call needs, e.g.
                the rows that an embedding looks up. It is applied before any arithmetic. `None` for the whole tensor.

        Returns:
            Tensor of the shape of `select(weight)`, in float32 or, if that is wider, in the variable's dtype.
        """
        raise TypeError(f"{type(self).__name__} must define `value(weight, select)`.")

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The tensor that training uses. By default it equals the value at inference."""
        return self.value(weight, select)

    def variable_of(self, weight: SparseWeight) -> keras.Variable:
        """The trainable variable behind a weight: the dense variable of the Keras layer, unless a bank replaces it."""
        return stored_variable(weight.layer, weight.name)

    def shape_of(self, weight: SparseWeight) -> tuple[int, ...]:
        """The shape of a weight, a tuple of integers."""
        return tuple(self.variable_of(weight).shape)

    def stored_of(self, weight: SparseWeight) -> int | None:
        """How many numbers hold a weight at inference; `None` if these are its entries that are not zero."""
        return None

    def mask(self, weight: SparseWeight) -> Tensor:
        """Bool tensor: which entries are live at inference."""
        return ops.not_equal(self.value(weight), 0)

    def threshold(self, weight: SparseWeight) -> float | np.ndarray | None:
        """The threshold (float or numpy array) that decides which entries are zero; `None` if there is none."""
        return None

    def penalty(self, weight: SparseWeight) -> Tensor:
        """Scalar tensor: the penalty of one weight, not yet times `penalty_weight`. Only if `penalized`."""
        raise TypeError(f"{type(self).__name__} has no penalty.")

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Applies the weight to the inputs of a call.

        Args:
            weight: `SparseWeight`.
            linear: The kind's linear operation, a function of (inputs, kernel).
            inputs: The call's inputs. `None` for a lookup, whose `linear` returns the kernel unchanged.
            training: Bool.
            select: As in `value`.

        Returns:
            The pre-activation output, without the bias.
        """
        kernel = self.training_value(weight, select) if training else self.value(weight, select)
        return linear(inputs, ops.cast(kernel, weight.layer.compute_dtype))

    def over_time(
        self, weight: SparseWeight, linear: Callable[[Tensor | None, Tensor], Tensor], batch_size: int | Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        """The way training applies a recurrent layer's input kernel, if it is not a product with one tensor.

        All random numbers are drawn here, once for all time steps of the sequences.

        Args:
            weight: `SparseWeight`.
            linear: As in `apply`.
            batch_size: Integer or scalar tensor, number of sequences.

        Returns:
            Function that takes the inputs of one step, `(batch, features)`, or of all steps, `(batch, time, features)`,
            and returns the pre-activation without the bias. `None` (the default) if the kernel of `apply` is all that
            training needs.
        """
        return None

    def assign_mask(self, weight: SparseWeight, mask: Tensor) -> None:
        """Sets which entries are live. Only a technique whose mask is a variable supports this."""
        raise ValueError(
            f"The mask of {weight.path!r} can't be assigned: in technique {self.name!r} it follows from the weights. "
            "Use technique 'masked' for masks that are set from outside."
        )

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the constructor's options."""
        return tuple(inspect.signature(cls).parameters)

    def get_config(self) -> dict:
        """The options as a serialisable dict."""
        config = {}
        for name in self.option_names():
            option = getattr(self, name)
            if hasattr(option, "get_config"):
                option = keras.saving.serialize_keras_object(option)
            config[name] = option
        return config

    @classmethod
    def from_config(cls, config: dict) -> "Technique":
        """The inverse of `get_config`."""
        return cls(**{name: deserialize_option(option) for name, option in config.items()})

    def __repr__(self):
        options = ", ".join(f"{name}={_short_repr(getattr(self, name))}" for name in self.option_names())
        return f"{type(self).__name__}({options})"


def _short_repr(option):
    if not hasattr(option, "get_config"):
        return repr(option)
    values = (f"{name}={value!r}" for name, value in option.get_config().items() if value is not None)
    return f"{type(option).__name__}({', '.join(values)})"


def initializer_or_number(name, value, default=None):
    """Makes a Keras initializer from a number (a constant), or from anything that Keras accepts and can save.

    Args:
        name: The argument's name, for the message.
        value: The value that the user gave for the argument.
        default: The value to use if `value` is `None`.

    Raises:
        ValueError: Keras knows no such initializer, or can't save it (an array, an object without a `get_config`).
    """
    value = default if value is None else value
    if is_number(value):
        check_number(name, value)
        return keras.initializers.Constant(float(value))
    known = value is None or isinstance(value, str | dict) or inspect.isfunction(value)
    if not known and not hasattr(value, "get_config"):
        raise ValueError(
            f"`{name}` must be a Keras initializer, its name or config, a function or a number. "
            f"Received: {name}={value!r} ({type(value).__name__}), which can't be saved with a model"
        )
    return check_initializer(name, value)


def deserialize_option(option):
    """Rebuilds one option from the form in which `get_config` stores it."""
    if isinstance(option, dict) and "class_name" in option:
        return keras.saving.deserialize_keras_object(option)
    return option
