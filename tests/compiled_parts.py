"""Functions that the package compiles by itself, on TensorFlow, run uncompiled where a test does not ask for more.

`ops.fused`, `MaskWriter` and the like have XLA compile a small function for every combination of shapes that they meet.
A net is trained for hundreds of thousands of steps, and a test makes three: it spends its time in the compiler. Python
runs the same function on the same tensors in a thousandth of that. Only the package's own functions are meant here, not
the steps of `fit`: whoever says `jit_compile=True` in a test gets XLA.
"""

import contextlib
import functools
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
    """On TensorFlow, steps run as Python calls them: to trace those of a run of some steps takes all its time."""
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

    The end of a pipeline waits for the thread that tunes it. In a worker that has made thousands of pipelines, this wait
    now and then took a minute or two.
    """
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    make, options = tf.data.Dataset.__iter__, tf.data.Options()
    options.autotune.enabled = False

    def __iter__(self):
        return make(self.with_options(options))

    tf.data.Dataset.__iter__ = __iter__
