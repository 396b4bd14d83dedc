"""Recognises by their names the tensors of a checkpoint that make weights sparse, and finds the tensors beside them.

`sparsity.py` lists the names for each technique, and counts the zeros.
"""

import numpy as np

from sparsity_tf.checkpoints.checkpoint import CheckpointError
from sparsity_tf.checkpoints.sibling_names import base, is_variable, leaf, weight_names, with_leaf
from sparsity_tf.layers.group_variational_dropout import GROUPS

# Weights that discovering wirings may make sparse: the second belongs to recurrent layers, the last two to separable
# convolutions.
_KERNELS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")
# The first sparse weight of a layer. Only the variables of further weights begin with the name of their weight.
_FIRST_KERNELS = ("kernel", "depthwise_kernel")


class SparseTensors:
    """The names of an open checkpoint, read by the naming rules.

    Args:
        checkpoint: `Checkpoint`.

    Attributes:
        notes: List of sentences for the report: what was left out or assumed.
    """

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.notes = []

    def by_technique(self):
        """Dict from the names of tensors that make weights sparse to their techniques.

        A name that ends in "_aux" may belong to one of two techniques. Its value is "_aux": see `choose`.
        """
        found = {name: self._technique(name) for name in self.checkpoint.names()}
        return {name: kind for name, kind in found.items() if kind is not None}

    def _technique(self, name):
        """The technique that the variable `name` belongs to; "_aux" if only the other tensors can tell."""
        aliases = self.checkpoint.aliases(name)
        if self._is_group(name):
            return None  # It is counted with the weights of its group.
        for ending, technique in (
            ("mask", "magnitude_pruning"),
            ("log_sigma2", "variational_dropout"),
            ("log_alpha", "l0_regularization"),
            ("_aux", "_aux"),
        ):
            if any(alias.endswith(ending) for alias in aliases):
                return technique
        for kernel in _KERNELS:
            if any(leaf(alias) == kernel for alias in aliases):
                return self._technique_of_kernel(name, kernel)
        variable = self.threshold_variable(name)
        if variable is not None:
            # Magnitude pruning keeps a threshold beside each mask.
            if self.beside(name, variable, lambda base: with_leaf(base, ("mask",))):
                return None
            # "threshold" is a common name. A threshold without a weight beside it is not one of this package's.
            if variable == "threshold" and not self.beside(name, variable, weight_names):
                self.note(f"'{name}' ignored: no weight beside it")
                return None
            return "soft_threshold"
        return None

    def choose(self, found, technique):
        """The part of `by_technique`'s dict that belongs to `technique` ("auto": all), with "_aux" resolved."""
        if technique == "random_pruning":
            technique = "magnitude_pruning"
        kinds = set(found.values())
        probabilistic = kinds & {"variational_dropout", "l0_regularization"}
        if technique in ("variational_dropout", "l0_regularization"):
            if "_aux" in kinds and probabilistic and technique not in probabilistic:
                raise CheckpointError(
                    f"`sparsity_technique` does not fit checkpoint '{self.checkpoint.path}': beside its _aux tensors "
                    f"lie tensors of {', '.join(probabilistic)}, not of {technique}"
                )
            aux = technique
        elif technique == "auto" and "_aux" in kinds:
            if len(probabilistic) != 1:
                raise CheckpointError(
                    f"`sparsity_technique` must be given for checkpoint '{self.checkpoint.path}': its tensors ending "
                    "in _aux may be from variational_dropout or from l0_regularization"
                )
            (aux,) = probabilistic
        else:
            aux = None
        resolved = {name: aux if kind == "_aux" else kind for name, kind in found.items()}
        return {name: kind for name, kind in resolved.items() if kind is not None and technique in ("auto", kind)}

    def _is_group(self, name):
        """Whether `name` is the log sigma^2 of a group variable: the group's mean is beside it."""
        return any(
            is_variable(alias, f"{group}_log_sigma2") and self.checkpoint.shape(mean) == self.checkpoint.shape(name)
            for alias in self.checkpoint.aliases(name)
            for group in GROUPS
            for mean in self.checkpoint.find(alias.removesuffix("log_sigma2") + "mean")
        )

    def groups_of(self, name):
        """The group variables of the weight whose log sigma^2 is `name`: pairs of log sigma^2 and mean, two names."""
        shape = self.checkpoint.shape(name)

        def variables(base):
            names = with_leaf(base, [f"{group}_log_sigma2" for group in GROUPS])
            # Both kernels of a recurrent layer have the same gates, whose variables are beside the first kernel.
            layer = base[: base.rfind("/") + 1]
            return [*names, f"{layer}gate_log_sigma2"]

        for group in self.beside(name, "log_sigma2", variables):
            if self._is_group(group) and broadcast_shape(self.checkpoint.shape(group), shape) == shape:
                [mean] = self.beside(group, "log_sigma2", lambda base: with_leaf(base, ["mean"]))
                yield group, mean

    def threshold_variable(self, name):
        """The name of the threshold that `name` is, "raw_threshold" or "threshold"; otherwise `None`."""
        for variable in ("raw_threshold", "threshold"):
            if any(is_variable(alias, variable) for alias in self.checkpoint.aliases(name)):
                return variable
        return None

    def _technique_of_kernel(self, name, kernel):
        """Recognises the techniques that have no variable beside the kernel by the arguments of the layer."""
        others = ("mask", "log_sigma2", "log_alpha", "raw_threshold", "threshold")
        prefix = "" if kernel in _FIRST_KERNELS else f"{kernel}_"
        if self.beside(name, kernel, lambda base: [base + prefix + other for other in others]):
            return None
        tensors, option = self.sparsity_of_kernel(name)
        if tensors or option is not None:
            explores = not tensors and self.checkpoint.layer_option(name, "exploration") is not None
            return "top_kast" if explores else "discovering_wirings"
        if any(alias.endswith(f"/vars/{kernel}") for alias in self.checkpoint.aliases(name)):
            # Files number the variables of Keras's own layers; those of this package's layers have names.
            self.note(
                f"'{name}' is counted as dense. If its layer chooses its zeros by an argument (discovered wirings, "
                "Top-KAST, SR-STE), the argument is not in this file: give the .keras file"
            )
        return None

    def sparsity_of_kernel(self, name):
        """The tensor and the layer's argument that may hold the sparsity of kernel `name`."""
        beside = [
            tensor for kernel in _KERNELS for tensor in self.beside(name, kernel, lambda base: [base + "sparsity"])
        ]
        scalars = [tensor for tensor in beside if self.checkpoint.shape(tensor) == ()]
        return scalars, self.checkpoint.layer_option(name, "sparsity")

    def weight_of(self, name, variable, equal_shape=False):
        """The one weight beside `name`. If several tensors could be the weight, it raises instead of choosing one."""
        tried = self.beside(name, variable, weight_names, existing=False)
        present = self.beside(name, variable, weight_names)
        fitting = present
        if equal_shape:
            shape = self.checkpoint.shape(name)
            fitting = [weight for weight in present if self.checkpoint.shape(weight) == shape]
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            problem = f"has several candidates for the weight: {', '.join(fitting)}"
        elif present:
            shapes = ", ".join(f"{weight} {self.checkpoint.shape(weight)}" for weight in present)
            problem = f"{self.checkpoint.shape(name)} has another shape than its weight: {shapes}"
        elif shared := [sibling for sibling in tried if len(self.checkpoint.find(sibling)) > 1]:
            problem = f"is in a file without names of layers, with several tensors {shared[0]!r}: give the .keras file"
        else:
            problem = f"has no partner tensor. Tried: {', '.join(tried)}"
        raise CheckpointError(f"'{name}' in '{self.checkpoint.path}' {problem}")

    def beside(self, name, variable, names_of, existing=True):
        """Tensors in the same layer as `name` (under any alias) that have one of the names `names_of(base)`."""
        result = {}
        for alias in self.checkpoint.aliases(name):
            if not alias.endswith((variable, "_aux")):
                continue  # a name such as "variables/6" does not tell the layer
            for sibling in names_of(base(alias, variable)):
                matches = self.checkpoint.find(sibling)
                if not existing:
                    result[sibling] = None
                elif len(matches) == 1:  # a name that several layers share identifies none of them
                    result[matches[0]] = None
        return list(result)

    def note(self, note):
        """Adds a sentence to `notes`, once."""
        if note not in self.notes:
            self.notes.append(note)


def broadcast_shape(*shapes):
    """The shape that shapes broadcast to, or `None` if they do not fit."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None
