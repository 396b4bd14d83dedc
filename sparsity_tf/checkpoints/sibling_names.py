"""How the variables of one layer are called in checkpoints: the weight's name from a variable's beside it."""

# Names of the weight beside a variable that has no prefix of its own. Keras keeps some of them
# under an attribute with an underscore, which is how object-based checkpoints name them.
_WEIGHTS = ("kernel", "weights", "embeddings", "_kernel", "_embeddings", "depthwise_kernel")


def leaf(alias):
    """The last part of a name, without the underscore of a private attribute."""
    return alias.rpartition("/")[2].removeprefix("_")


def is_variable(alias, variable):
    """Whether a name is that of a variable: "a/threshold" or "a/b_threshold"."""
    return leaf(alias) == variable or alias.endswith("_" + variable)


def base(alias, variable):
    """The alias without its ending: "a/b/" of "a/b/log_sigma2", "a/w" of "a/w_aux"."""
    # Also "a/b/" of "a/b/_kernel", the attribute that Keras keeps a kernel under.
    return alias.removesuffix("_aux").removesuffix(variable).removesuffix("_")


def with_leaf(base, leaves):
    """Names beside `base`: "a/b/" + leaf, or "a/w" + "_" + leaf."""
    separator = "" if base == "" or base.endswith("/") else "_"
    return [base + separator + leaf for leaf in leaves]


def weight_names(base):
    """Names that the weight may have: "a/b/kernel", ... beside "a/b/"; "a/w", "a/w_kernel", ..."""
    if base == "" or base.endswith("/"):
        return with_leaf(base, _WEIGHTS)
    return [base, *with_leaf(base, ("kernel", "weights"))]
