"""`CostTarget` finds a sparsity from the share of the model's operations or parameters that shall be left."""

from sparsity_tf import distributions
from sparsity_tf.callbacks.base.tied_weights import TiedWeight
from sparsity_tf.checks import check_fraction
from sparsity_tf.deploy.channel_families import graphs_in
from sparsity_tf.deploy.shrunk_cost import ShrunkCost, sparsity_that_meets
from sparsity_tf.layers import flatten_layers
from sparsity_tf.masks import structures


class CostTarget:
    """The share of the dense model's cost that the shrunk model may have.

    Args:
        name: "target_flops" or "target_parameters".
        share: number in (0, 1).
    """

    def __init__(self, name, share):
        self.name, self.share = name, share

    def __repr__(self):
        return f"{self.name}={self.share}"

    def sparsity(self, model, weights, distribution, dense):
        """The smallest sparsity of channels that meets the target.

        Args:
            model: Built Keras model.
            weights: The weights of an algorithm.
            distribution, dense: The arguments of the algorithm.

        Returns:
            Float in [0, 1).

        Raises:
            ValueError: The algorithm prunes nothing that can be shrunk, or not enough to meet the target; or shapes are
                not known.
        """
        if not all(isinstance(weight, TiedWeight) for weight in weights):
            raise ValueError(
                f"`{self.name}` needs a structure that makes the shrunk model smaller, one of {list(structures.TIED)}. "
                f"Received: {self}, structure={weights[0].technique.structure!r}"
            )
        if getattr(distributions.get(distribution), "explicit", False):
            raise ValueError(
                f"`distribution` must not set the sparsity of each weight itself if `{self.name}` is given, which "
                f"sets the sparsity. Use a rule such as 'uniform' or 'erk'. Received: {self}, "
                f"distribution={distribution!r}"
            )

        def counts_at(sparsity):
            targets = distributions.allocate(weights, sparsity, distribution, dense=dense)
            return [number_to_keep(weight, targets[weight.path]) for weight in weights]

        if len(distributions.select_dense(weights, dense)) == len(weights):
            raise ValueError(
                f"`dense` must leave a {weights[0].name} that can be pruned. Received: {self}, dense={dense!r}"
            )
        cost = ShrunkCost(self._network(model, weights), [weight.family for weight in weights])
        measure = cost.flops if self.name == "target_flops" else cost.parameters
        whole = measure()
        try:
            return sparsity_that_meets(measure, self.share * whole, counts_at)
        except ValueError as error:
            raise ValueError(
                f"`{self.name}` can't be met, because {error} of {whole:,}. Give a larger share. Received: {self}"
            ) from None

    def _network(self, model, weights):
        """The functional or sequential model whose cost is counted. In a `Distiller` it is the student."""
        pruned = {id(part.weight.layer) for weight in weights for part in weight.parts}
        found = [graph for graph in graphs_in(model) if pruned & {id(layer) for layer in flatten_layers(graph)}]
        if len(found) > 1:
            names = ", ".join(repr(graph.name) for graph in found)
            raise ValueError(
                f"`{self.name}` is a share of the cost of one network, but the layers to prune belong to several: "
                f"{names}. Use one algorithm for each network, and select its layers with `where`. Received: {self}"
            )
        return found[0]


def number_to_keep(weight, sparsity):
    """How many channels of a `TiedWeight` live at a sparsity."""
    return structures.get(weight.technique.structure).number_to_keep(sparsity, weight.size)


def the_target(target_flops, target_parameters, **sparsities):
    """The `CostTarget` that an algorithm's arguments ask for, or `None`.

    Args:
        target_flops, target_parameters: The arguments of the algorithm: `None` or a share.
        **sparsities: The arguments that set the sparsity directly, by name.

    Raises:
        ValueError: More than one argument was given, or a share that is not in (0, 1).
    """
    given = {"target_flops": target_flops, "target_parameters": target_parameters}
    given = {name: share for name, share in given.items() if share is not None}
    if not given:
        return None
    both = {**given, **{name: value for name, value in sparsities.items() if value is not None}}
    if len(both) > 1:
        raise ValueError(f"Give one of {', '.join(f'`{name}`' for name in both)}. Received: {both}")
    [(name, share)] = given.items()
    check_fraction(name, share)
    return CostTarget(name, share)
