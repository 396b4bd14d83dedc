"""The base class of all sparse layers, and functions that list the sparse parts of a model.

* `SparseLayer` holds the code that all sparse layers share: options, variables, penalties, saving;
* functions that list the layers and the sparse weights of a model.

A public layer is a technique (`technique.py`) applied to a kind (`kinds.py`): `VDDense` is `SparseDense` with
`technique_class = VariationalDropout`.
"""

import inspect

import keras
from keras import ops

from sparsity_tf.backend import LayerHooks, forward_pass, own_variables, set_autocast, sublayers, unlocked, untrack
from sparsity_tf.checks import check_layer
from sparsity_tf.layers import saved_variables
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, deserialize_option
from sparsity_tf.user_warning import warn_user

# (technique name, stock Keras class) -> sparse class; filled by SparseLayer.__init_subclass__, read by `sparsify`.
LAYER_CLASSES = {}
# technique name or alias -> Technique class
TECHNIQUES = {}


def _register(layer_class, technique):
    methods = sorted(name for name in technique.option_names() if hasattr(Technique, name))
    if methods:
        raise ValueError(f"Options of {technique.__name__} have names that `Technique` needs itself: {methods}")
    names = (technique.name, *technique.aliases)
    for name in names:
        other = TECHNIQUES.get(name, technique)
        if other is not technique and not _defined_again(other, technique):
            raise ValueError(f"There is a technique {name!r} already: {other}. Received: {technique}")
    for key, other in list(LAYER_CLASSES.items()):
        # These layers belong to an earlier definition of the technique.
        if other.technique_class is not technique and _defined_again(other.technique_class, technique):
            del LAYER_CLASSES[key]
    TECHNIQUES.update(dict.fromkeys(names, technique))
    LAYER_CLASSES[technique.name, layer_class.keras_class] = layer_class
    if layer_class.__module__.startswith("sparsity_tf."):
        keras.saving.register_keras_serializable("sparsity_tf")(layer_class)


def _defined_again(old, new):
    """Whether `new` is a newer definition of `old`: a notebook cell was run twice, or a module was reloaded."""
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def _check_kind(layer_class):
    """Raises a TypeError unless a class with sparse weights calls `apply_weight` and defines `filter_axes`."""
    name, names = layer_class.__name__, layer_class.sparse_weight_names
    if layer_class.keras_class is None:
        raise TypeError(
            f"{name} must have the Keras layer that it makes sparse among its bases, after `SparseLayer`: "
            f"`class {name}(SparseLayer, keras.layers.Dense)`. Received: bases {_names(layer_class.__bases__)}"
        )
    if isinstance(names, tuple | list) and not names:
        return  # The layer's parts hold the weights, or it has bound weights only.
    example = names[0] if isinstance(names, tuple | list) else "kernel"
    if layer_class.filter_axes is SparseLayer.filter_axes:
        raise TypeError(
            f"{name} must define `filter_axes(self, name={example!r})`: the axes of a sparse weight that index output "
            f"units, a tuple such as `(1,)` for the kernel of a dense layer. Received: sparse_weight_names={names}"
        )
    if not _calls_apply_weight(layer_class):
        raise TypeError(
            f"{name} must ask for its sparse weights with `apply_weight`; otherwise it computes with the dense "
            f"weights. In `def call(self, inputs, training=False)`, call `self.apply_weight({example!r}, linear, "
            "inputs, training)`, where `linear` is a function of (inputs, kernel). Received: no method that calls "
            f"`apply_weight`; `call` is the method of {_owner(layer_class, 'call')}"
        )


def _names(classes):
    return [one.__name__ for one in classes]


def _owner(layer_class, method):
    return next(base.__name__ for base in layer_class.__mro__ if method in vars(base))


def _calls_apply_weight(layer_class):
    """Whether the code of a sparse class, its kinds or mixins names `apply_weight`."""
    of_keras = set(layer_class.keras_class.__mro__)
    own = [base for base in layer_class.__mro__ if base not in of_keras and base not in SparseLayer.__mro__]
    return any(_names_apply_weight(value) for base in own for value in vars(base).values())


def _names_apply_weight(value):
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else value
    if not inspect.iscode(code):
        return False
    return "apply_weight" in code.co_names or any(_names_apply_weight(constant) for constant in code.co_consts)


class SparseLayer(LayerHooks):
    """Mixin of all sparse layers, placed before the Keras layer class in the bases.

    A subclass is a kind. It names its sparse weights in `sparse_weight_names`, applies each of them in `call` through
    `apply_weight`, and says in `filter_axes` which axes of a weight index output units. A subclass of a kind that sets
    `technique_class` is a layer ready for use: `sparsify` puts it in the place of the kind's `keras_class`. The
    `keras_class` is the first base that is a layer and not sparse; it may be a layer of your own.

    Raises:
        TypeError: When a class with a `technique_class` is defined that lists sparse weights but has no `filter_axes`,
            or has no method that calls `apply_weight`. Such a layer would compute with the dense weights.

    Example:

    ```python
    class Scale(keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(input_shape[-1],), name="kernel")

        def call(self, inputs):
            return inputs * self.kernel


    class SparseScale(SparseLayer, Scale):
        def call(self, inputs, training=False):
            return self.apply_weight("kernel", keras.ops.multiply, inputs, training)

        def filter_axes(self, name="kernel"):
            return (0,)


    @keras.saving.register_keras_serializable("my_package")
    class MaskedScale(MaskedLayer, SparseScale):
        pass
    ```
    """

    technique_class = None
    keras_class = None
    sparse_weight_names = ("kernel",)
    # Names of the small weights that the technique masks together with whole output units: a bias, gamma, beta.
    bound_weight_names = ()
    # Names of the variables that the technique added.
    technique_variables = ()
    # Whether `enable_lora` works: an adapter needs a mask that lies on the sum of kernel and adapter.
    takes_lora = False
    # The last forward pass in which the layer was called in training mode; see `forward_pass`.
    _trained_in = None
    # Names of attributes that hold layers to make sparse together with this one, e.g. the cell of a recurrent layer.
    sparse_part_names = ()
    # While a recurrent cell prepares a call: the draws that its weights have in common, by name. Otherwise `None`.
    shared_draws = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.keras_class is None:
            of_layers = (base for base in cls.__mro__ if issubclass(base, keras.Layer))
            cls.keras_class = next((base for base in of_layers if not issubclass(base, SparseLayer)), None)
        technique = cls.technique_class
        if technique is None:
            return
        _check_kind(cls)
        cls.__signature__ = _joint_signature(cls.keras_class, technique)
        registered = LAYER_CLASSES.get((technique.name, cls.keras_class))
        # `sparsify` goes on using a public layer, also if the user has made a subclass of it.
        if registered is None or registered.technique_class is not technique or _defined_again(registered, cls):
            _register(cls, technique)

    def __init__(self, *args, **kwargs):
        names = self.technique_class.option_names()
        options = {name: deserialize_option(kwargs.pop(name)) for name in names if name in kwargs}
        if kwargs.get("lora_rank") is not None and not self.takes_lora:
            raise ValueError(
                f"{type(self).__name__} does not take LoRA adapters. Received: lora_rank={kwargs['lora_rank']}"
            )
        self.technique = self.technique_class(**options)
        super().__init__(*args, **kwargs)
        if getattr(self.dtype_policy, "quantization_mode", None) is not None:
            # Keras would call `quantized_call`, which ignores the technique.
            raise ValueError(
                f"{type(self).__name__} computes in floating point: `dtype` must not be a quantized policy. "
                f"Received: dtype={self.dtype_policy.name!r}"
            )

    def build(self, input_shape=None):
        """Creates the Keras layer's variables, then the technique's."""
        super().build(input_shape)
        self.build_technique()

    def build_technique(self):
        """Adds the technique's variables to a layer whose own variables exist."""
        technique, before = self.technique, {variable.name for variable in own_variables(self)}
        for name in self.sparse_weight_names:
            if getattr(self, name, None) is None:
                raise ValueError(
                    f"`sparse_weight_names` of {type(self).__name__} must name weights that `build` creates and "
                    f"stores in attributes of the same names. Received: {name!r} with the variables {sorted(before)}"
                )
        try:
            if technique.stochastic:
                self.add_seed_generator()
            for weight in (SparseWeight(self, n) for n in (*self.sparse_weight_names, *self.bound_weight_names)):
                # The technique computes in float32 and casts the result itself.
                set_autocast(weight.variable, False)
                technique.build(weight)
            if technique.penalized:
                self.penalty_weight = self.add_weight(
                    name="penalty_weight",
                    shape=(),
                    initializer=keras.initializers.Constant(technique.penalty_weight),
                    dtype="float32",
                    trainable=False,
                    autocast=False,
                )
        finally:
            self.technique_variables = tuple(v.name for v in own_variables(self) if v.name not in before)

    @property
    def sparse_parts(self):
        """List of the layers that are made sparse together with this one and hold its sparse weights."""
        return [getattr(self, name) for name in self.sparse_part_names]

    def add_seed_generator(self):
        """Makes the generator of the technique's noise."""
        self.seed_generator = keras.random.SeedGenerator(self.technique.seed)

    def remove_seed_generator(self):
        """Removes the generator when the layer becomes plain again."""
        if not hasattr(self, "seed_generator"):
            return  # The layer isn't built.
        with unlocked(self):
            untrack(self, self.seed_generator)
        del self.seed_generator

    @classmethod
    def reason_against(cls, layer):
        """Why a layer of class `keras_class` can't become one of this class, or `None` if it can."""
        return None

    @property
    def sparse_weights(self):
        """List of `SparseWeight`, one for each sparse weight; empty before the layer is built."""
        return [SparseWeight(self, name) for name in self.sparse_weight_names] if self.built else []

    @property
    def bound_weights(self):
        """List of `SparseWeight`: a bias, gamma or beta whose entries are zero where a whole output unit is.

        They are no kernels, so counts of sparse weights leave them out.
        """
        return [SparseWeight(self, name) for name in self.bound_weight_names] if self.built else []

    def apply_weight(self, name, linear, inputs, training, select=None):
        """Applies sparse weight `name` through the technique. In training the layer's penalty becomes due."""
        outputs = self.technique.apply(SparseWeight(self, name), linear, inputs, training, select)
        if training and self.technique.penalized:
            self._trained_in = forward_pass()
        return outputs

    def bound_value(self, name, training):
        """The tensor that a call uses for weight `name`: masked if the technique masks it, else the variable."""
        if name not in self.bound_weight_names:
            return getattr(self, name)
        return self.apply_weight(name, lambda _, value: value, None, training)

    # The penalty is computed when Keras collects the losses of a forward pass, as regularizers are, and not in the
    # call. A tensor that is computed inside a loop over time (on JAX also under rematerialization) can't be used
    # outside it. A shared layer's penalty counts once, however often the layer is called.
    def _own_losses(self, losses):
        if self._trained_in is None or self._trained_in is not forward_pass():
            return losses
        penalties = [self.technique.penalty(weight) for weight in self.sparse_weights]
        return [ops.multiply(self.penalty_weight, sum(penalties)), *losses]

    def _forget_own_losses(self):
        self._trained_in = None

    def enable_lora(self, *args, **kwargs):
        raise ValueError(
            f"{type(self).__name__} {self.name!r} does not take LoRA adapters, because they would fill its zeros: "
            "only masked layers keep their zeros with adapters. Convert the model with `sparsity_tf.to_dense` first, "
            "and give the dense model masks, for example with `sparsity_tf.prune`."
        )

    def _check_quantization(self, mode):
        raise ValueError(
            f"{type(self).__name__} {self.name!r} can't be quantized: convert the model with "
            f"`sparsity_tf.to_dense(model)` first, and quantize the result. Received: mode={mode!r}"
        )

    def _check_export(self):
        if self.technique.export_refusal is not None:
            text = (
                f"{type(self).__name__} {self.name!r} can't be exported as it is, because "
                f"{self.technique.export_refusal}. Convert the model with `sparsity_tf.to_dense(model)` first, and "
                "export the result."
            )
            # `TFLiteConverter.from_keras_model` swallows this error and then fails with another, so the text is also a
            # warning.
            warn_user(text)
            raise ValueError(text)

    def filter_axes(self, name="kernel"):
        """Axes of weight `name` that index output units. Fixing these axes selects one "filter"."""
        raise TypeError(f"{type(self).__name__} has no filters.")

    def group_axes(self, name="kernel"):
        """The named kinds of groups of weight `name`: dict from name to the axis whose index numbers the groups."""
        return {}

    def position_axes(self, rank):
        """Axes of an output of the given rank that index positions (time, space), not the batch or the units."""
        return tuple(range(1, rank - 1))

    def get_config(self):
        return {**super().get_config(), **self.technique.get_config()}

    def save_own_variables(self, store):
        saved_variables.save(self, self._own_variables(), store)

    def load_own_variables(self, store):
        saved_variables.load(self, self._own_variables(), store)

    def _own_variables(self):
        variables = own_variables(self)
        if self.technique.stochastic and self.built:
            # Keras does not save the counters of seed generators. Without them a resumed run would draw the same noise
            # again.
            variables.append(self.seed_generator.state)
        return variables


def _joint_signature(keras_class, technique):
    """The signature that `help()` and editors show: the Keras layer's arguments, then the technique's."""
    layer = list(inspect.signature(keras_class).parameters.values())
    options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(technique).parameters.values()]
    names = {p.name for p in options}
    layer = [p for p in layer if p.name not in names]
    keywords = [p for p in layer if p.kind is inspect.Parameter.VAR_KEYWORD]
    return inspect.Signature([p for p in layer if p not in keywords] + options + keywords)


def flatten_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Lists a model and all layers inside it, each once, parents before children, in the order of their creation.

    Nested models, wrappers, recurrent cells and the projections inside `MultiHeadAttention` are included. (Keras's own
    `_flatten_layers` reverses the order below the first level.)

    Args:
        model: Keras model or layer.

    Returns:
        List of layers.

    Example:

    >>> [layer.name for layer in flatten_layers(model)][-3:]
    ['flatten...', 'hidden', 'logits']
    """
    check_layer("model", model)
    layers, seen = [], set()

    def visit(layer):
        if id(layer) not in seen:
            seen.add(id(layer))
            layers.append(layer)
            for sublayer in sublayers(layer):
                visit(sublayer)

    visit(model)
    return layers


def get_sparse_weights(model: keras.layers.Layer) -> list[SparseWeight]:
    """Lists the sparse weights of a model or layer.

    Args:
        model: Keras model or layer, of any kind; nested models and composite layers are entered.

    Returns:
        List of `SparseWeight`, in the order of `flatten_layers`; a layer that is used several times is listed once.

    Example:

    >>> model = sparsity_tf.sparsify(model, "masked")
    >>> [(weight.path, weight.size) for weight in sparsity_tf.get_sparse_weights(model)]
    [('conv/kernel', 36), ('hidden/kernel', 2304), ('logits/kernel', 160)]
    """
    weights = []
    for layer in flatten_layers(model):
        weights.extend(getattr(layer, "sparse_weights", ()))
    return weights


def get_masked_parts(model: keras.layers.Layer) -> list[SparseWeight]:
    """Lists the sparse weights of a model or layer together with its masked biases, gammas and betas.

    Args:
        model: Keras model or layer.

    Returns:
        List of `SparseWeight`: for each layer its `sparse_weights`, as in `get_sparse_weights(model)`, then its
        `bound_weights`.

    Example:

    >>> model = sparsity_tf.sparsify(model, "masked", structure="channel", where=["conv"])
    >>> [part.path for part in get_masked_parts(model)]
    ['conv/kernel', 'conv/bias']
    """
    weights = []
    for layer in flatten_layers(model):
        weights.extend([*getattr(layer, "sparse_weights", ()), *getattr(layer, "bound_weights", ())])
    return weights


def get_penalty_weights(model: keras.layers.Layer) -> list[keras.Variable]:
    """Lists the `penalty_weight` variables of a model or layer.

    Args:
        model: Keras model or layer.

    Returns:
        List of scalar float32 `keras.Variable`, one for each built layer whose technique adds a penalty to the loss.

    Example:

    >>> model = sparsity_tf.sparsify(model, "l0", penalty_weight=1 / 60000)
    >>> len(get_penalty_weights(model))
    3
    """
    variables = []
    for layer in flatten_layers(model):
        if isinstance(layer, SparseLayer) and layer.technique.penalized and layer.sparse_weights:
            variables.append(layer.penalty_weight)
    return variables
