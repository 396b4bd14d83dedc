"""What `jit_compile=True` means on the backend that runs."""

import keras

# XLA on TensorFlow and JAX. On torch it is `torch.compile`, which needs up to a minute for a model on a CPU: there the
# shared tests run uncompiled, and `tests/callbacks/test_on_torch.py` compiles once.
XLA = keras.config.backend() != "torch"
# Where a step is compiled because it is taken often: TensorFlow's graph is enough, on JAX nothing else compiles.
JAX = keras.config.backend() == "jax"
