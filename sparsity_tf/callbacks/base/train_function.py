"""Runs algorithms right after the optimizer's step, before any callback sees the step.

If masks changed in `on_train_batch_end`, the result would depend on the order of the callbacks: a `ModelCheckpoint`
before the algorithm would save the weights from before the change. So the model's train function itself calls the
algorithms. `fit` looks the train function up anew at every step.
"""

from sparsity_tf.backend import between_steps, build_for_data
from sparsity_tf.callbacks.base.gradient_tap import open_taps


class TrainFunction:
    """A model's train function, followed by the algorithms that change masks.

    Args:
        model: The Keras model.
        function: The model's own train function.
    """

    def __init__(self, model, function):
        self.model = model
        self.function = function
        self.algorithms = []
        # The train function for steps that need no gradient. It is traced without taps, at its first call.
        self.untapped = None

    def start_anew(self, force=False):
        """Replaces the model's `make_train_function`, which `fit` and `train_on_batch` call first.

        If algorithms are still installed at this call, an earlier `fit` was interrupted. These algorithms end now.
        `fit` and `train_on_batch` never force a new function. If a callback does, in the middle of `fit`, the
        algorithms go on.
        """
        if force:
            return retrace(self.model)
        for algorithm in list(self.algorithms):
            remove(self.model, algorithm)
            algorithm.detach()
        return self.model.make_train_function(force)

    def __call__(self, *args):
        waiting = [algorithm for algorithm in self.algorithms if algorithm.waits_for_model]
        if waiting:
            # Only TensorFlow's `fit` starts with an unbuilt model. Its train function gets an iterator over the data.
            build_for_data(self.model, args[0].element_spec)
            for algorithm in waiting:
                algorithm.begin()
        steps = self.model.steps_per_execution
        result = self._for_next(steps)(*args)
        due = [algorithm for algorithm in self.algorithms if algorithm.may_be_due(steps)]
        if not due:
            return result
        return between_steps(self.model, result, lambda: self._update(due))

    def _for_next(self, steps):
        """Chooses the train function for the next steps.

        If no algorithm needs a gradient in these steps, the function without the branch that keeps gradients is chosen.
        In a small network that branch takes a few hundredths of a step.
        """
        wanted = any(algorithm.may_keep_gradient(steps) for algorithm in self.algorithms)
        if not open_taps(self.model.optimizer, wanted) or wanted:
            return self.function
        if self.untapped is None:
            self.make_untapped()
        return self.untapped

    def make_untapped(self):
        """Makes the function for the steps that keep no gradient; it is traced at its first call."""
        before = self.model.train_function
        _make_train_function(self.model)
        self.untapped, self.model.train_function = self.model.train_function, before

    def _update(self, algorithms):
        for algorithm in algorithms:
            algorithm.update(self.model)


def install(model, algorithm):
    """Lets an algorithm follow each call of the model's train function, until `remove`.

    Args:
        model: Keras model, in `fit`.
        algorithm: Callback with `may_keep_gradient(steps)`, called before each call of the function with the number of
            steps in it; `may_be_due(steps)`, called after it; `update(model)`, called if that returned true; and
            `detach()`, called after an interrupted `fit`. If its `waits_for_model` is true, the model is built before
            the first call, and `begin()` is called then.
    """
    function = model.train_function
    if not isinstance(function, TrainFunction):
        function = TrainFunction(model, function)
        model.train_function, model.make_train_function = function, function.start_anew
    function.algorithms.append(algorithm)
    if open_taps(model.optimizer, True):
        # The function is made now, before a step runs: on several devices JAX reads the layouts of the variables, and
        # during an epoch `fit` holds their values itself.
        function.make_untapped()


def remove(model, algorithm):
    """Undoes `install`."""
    function = _installed(model)
    if function is None:
        return
    function.algorithms = [other for other in function.algorithms if other is not algorithm]
    if not function.algorithms:
        del model.make_train_function
        if model.train_function is function:
            model.train_function = function.function


def _installed(model):
    """The `TrainFunction` of a model, or `None`."""
    # Look at `make_train_function`, not at `train_function`: `compile` and `sparsify` drop the latter.
    return getattr(vars(model).get("make_train_function"), "__self__", None)


def algorithms(model):
    """The list of the algorithms that follow the model's train function now."""
    function = model.train_function
    return list(function.algorithms) if isinstance(function, TrainFunction) else []


def retrace(model):
    """Makes the model's train function anew. Decisions that are made while it is traced are then made again."""
    function = _installed(model)
    _make_train_function(model)
    if function is not None:
        function.function, function.untapped = model.train_function, None
        if open_taps(model.optimizer, True):
            function.make_untapped()
        model.train_function = function


def _make_train_function(model):
    """Lets Keras make the model's train function, and makes sure that it will be traced.

    `jax.jit` looks traces up by function, and all bound methods `model.train_step` are equal. So a function that Keras
    makes from the method would run the trace of the function before it. Here it is made from a new function.
    """
    attributes = vars(model)
    of_user, step = attributes.get("train_step"), model.train_step
    attributes["train_step"] = lambda *args: step(*args)
    try:
        type(model).make_train_function(model, force=True)
    finally:
        del attributes["train_step"]
        if of_user is not None:
            attributes["train_step"] = of_user
