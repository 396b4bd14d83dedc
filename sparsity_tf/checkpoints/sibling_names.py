"""Names of the variables of one layer in checkpoints: finds a weight's name from the name of its mask, and so on."""

# Names that a layer's weight may have. Keras keeps some weights under an attribute that begins with an
# underscore, and object-based checkpoints use the attribute's name.
_WEIGHTS = ("kernel", "weights", "embeddings", "_kernel", "_embeddings", "depthwise_kernel")


def leaf(alias):
    """The last part of a name, without the leading underscore of a private attribute."""
    return alias.rpartition("/")[2].removeprefix("_")


def is_variable(alias, variable):
    """Whether a name ends in `variable`: "a/threshold" and "a/b_threshold" do for "threshold"."""
    return leaf(alias) == variable or alias.endswith("_" + variable)


def base(alias, variable):
    """The alias without the variable's name: "a/b/log_sigma2" gives "a/b/", "a/w_aux" gives "a/w"."""
    # "a/b/_kernel" gives "a/b/", too: `_kernel` is the attribute under which Keras keeps a kernel.
    return alias.removesuffix("_aux").removesuffix(variable).removesuffix("_")


def with_leaf(base, leaves):
    """The names of the variables `leaves` of the layer at `base`: "a/b/" + leaf, or "a/w" + "_" + leaf."""
    separator = "" if base == "" or base.endswith("/") else "_"
    return [base + separator + leaf for leaf in leaves]


def weight_names(base):
    """Names that the weight at `base` may have: for "a/b/" "a/b/kernel", ...; for "a/w" "a/w", "a/w_kernel", ..."""
    if base == "" or base.endswith("/"):
        return with_leaf(base, _WEIGHTS)
    return [base, *with_leaf(base, ("kernel", "weights"))]
