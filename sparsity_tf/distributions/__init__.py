"""How a sparsity over many weights is shared out among them."""

from sparsity_tf.distributions.allocate import (
    BySize,
    Distribution,
    ErdosRenyi,
    ErdosRenyiKernel,
    PerLayer,
    TensorSpec,
    Uniform,
    allocate,
    check_tensors,
    exact_sparsity,
    get,
    names_of,
    select_dense,
    shorten,
)
