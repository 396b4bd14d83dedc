"""What makes tests fast on TensorFlow: uncompiled functions and steps, kernels that are kept, pipelines as they are.

`ops.fused`, `MaskWriter` and the like have XLA compile a small function for every combination of shapes that they meet.
A net is trained for hundreds of thousands of steps, and a test makes three: it spends its time in the compiler. Python
runs the same function on the same tensors in a thousandth of that. `install` replaces these functions of the package.
`uncompiled_steps` does the same for every other `tf.function`: the steps of `fit`, even with `jit_compile=True`, and a
function that a test compiles by itself.
"""

import contextlib
import functools
import random
import sys

import keras

# Whether XLA compiles. What was made before, in another test, follows.
enabled = True


class _Part:
    """In the place of a `tf.function` of the package."""

    def __init__(self, function, compile):
        self.function, self._compile = function, compile

    @functools.cached_property
    def compiled(self):
        return self._compile(self.function)

    def __call__(self, *args, **kwargs):
        return (self.compiled if enabled else self.function)(*args, **kwargs)

    def get_concrete_function(self, *args, **kwargs):
        return self.compiled.get_concrete_function(*args, **kwargs) if enabled else self.function


@contextlib.contextmanager
def uncompiled_steps():
    """On TensorFlow, steps run as Python calls them: of a short run, tracing a step takes nearly all the time."""
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def run_compiled(function, *args):
    """On TensorFlow, what a `tf.function` gives when it is compiled, also inside of `uncompiled_steps`."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        return function(*args)
    finally:
        tf.config.run_functions_eagerly(before)


def install():
    """Replaces `tf.function`; once a process, and only on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    make = tf.function

    @functools.wraps(make)
    def function(func=None, *args, jit_compile=None, **options):
        # A test that compiles a function of the package by itself means it.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if jit_compile and caller.startswith("sparsity_tf."):
            part = functools.partial(_Part, compile=functools.partial(make, jit_compile=True, **options))
            return part if func is None else part(func)
        return make(func, *args, jit_compile=jit_compile, **options)

    tf.function = function


def without_autotune():
    """On TensorFlow, pipelines of `tf.data` do not tune themselves.

    The end of a pipeline waits for the thread that tunes it. In a worker that had made thousands of pipelines, this
    wait was now and then a minute or two long.
    """
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    make, options = tf.data.Dataset.__iter__, tf.data.Options()
    options.autotune.enabled = False

    def __iter__(self):
        return make(self.with_options(options))

    tf.data.Dataset.__iter__ = __iter__


def keep_kernels(at_most=200):
    """On TensorFlow, a new seed drops the kernels of eager operations only where one of them may hold random numbers.

    `tf.random.set_seed` makes TensorFlow forget every kernel, because that of a stateful random operation has a place
    in its sequence, and the next test makes all its kernels again. Keras and this package draw with stateless
    operations. Here TensorFlow forgets the kernels only if a stateful one has asked for its seed since the last time,
    and always after one was traced in a function. One seed in `at_most` drops them in any case: each variable has a
    kernel of its own.
    """
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf
    from tensorflow.python.eager import context
    from tensorflow.python.framework import random_seed

    seed_of_an_operation, seed_all = random_seed.get_seed, context.Context._set_global_seed
    drawn, traced, seeds = True, False, 0

    def is_of_a_pipeline():
        """A data set takes its seeds as inputs, and its iterators make the kernels of its functions for themselves."""
        if sys._getframe(2).f_globals.get("__name__", "").startswith("tensorflow.python.data."):
            return True
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        while graph is not None and not getattr(graph, "name", "").startswith("Dataset_"):
            graph = getattr(graph, "outer_graph", None)
        return graph is not None

    def get_seed(op_seed):
        nonlocal drawn, traced
        if not is_of_a_pipeline():
            drawn, traced = True, traced or not tf.executing_eagerly()
        return seed_of_an_operation(op_seed)

    def _set_global_seed(self, seed):
        nonlocal drawn, seeds
        seeds += 1
        if drawn or traced or seeds == at_most or not isinstance(seed, int):
            drawn, seeds = False, 0
            seed_all(self, seed)
        else:
            self._seed, self._rng = seed, random.Random(seed)

    random_seed.get_seed, context.Context._set_global_seed = get_seed, _set_global_seed
