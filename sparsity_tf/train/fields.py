"""Functions that make a recipe's fields, with default, help text and allowed values. Each field is also a flag."""

import dataclasses
import math
import operator

from sparsity_tf import checks


def choices(field):
    """The values that a field of `Recipe` allows. A function gives them if they can grow, as the techniques can."""
    allowed = field.metadata["choices"]
    return allowed() if callable(allowed) else allowed


def choice(default, choices, help):
    """A field that must have one of several values; `choices` is a tuple, or a function that returns one."""
    return dataclasses.field(default=default, metadata={"choices": choices, "help": help})


def number(default, help, least=None, above=None, most=None, below=None):
    """A field with a finite number within bounds."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    bounds = {word: bound for word, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


def other(default, help):
    """A field that the recipe itself checks; `default` is a value, or a function that makes one."""
    factory = default if callable(default) else lambda: default
    return dataclasses.field(default_factory=factory, metadata={"help": help})


def string(help):
    """A field with a string. `None` leaves the choice to the code that uses the setting."""
    return dataclasses.field(default=None, metadata={"help": help, "string": True})


def like(recipe, name, **changes):
    """Copies a field from another recipe's class, so that several programs share its meaning and help text."""
    field = next(field for field in dataclasses.fields(recipe) if field.name == name)
    metadata = {**field.metadata, **changes}
    if field.default is not dataclasses.MISSING:
        return dataclasses.field(default=field.default, metadata=metadata)
    return dataclasses.field(default_factory=field.default_factory, metadata=metadata)


def named(presets, name):
    """Looks up a recipe by its name.

    Raises:
        ValueError: The name is unknown. The message lists the known names.
    """
    if name not in presets:
        meant = checks.meant(name, presets)
        raise ValueError(f"`config` must be one of {', '.join(presets)}. Received: config={name}{meant}")
    return presets[name]


def check_field(field, value):
    """Raises a ValueError if a value is not allowed. The message names the field, its value and the allowed values."""
    if value is None and field.default is None:
        return
    meta, received = field.metadata, f"Received: {field.name}={value}"
    if "choices" in meta and value not in choices(field):
        allowed = ", ".join(choices(field))
        raise ValueError(f"`{field.name}` must be one of {allowed}. {received}")
    if "string" in meta and not isinstance(value, str):
        raise ValueError(f"`{field.name}` must be a string. {received}")
    if field.type is bool and not isinstance(value, bool):
        raise ValueError(f"`{field.name}` must be true or false. {received}")
    if "bounds" not in meta:
        return
    number = isinstance(value, int if field.type is int else (int, float))
    if (
        not number
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not all(_BOUNDS[word](value, bound) for word, bound in meta["bounds"].items())
    ):
        kind = "an integer" if field.type is int else "a number"
        bounds = " and ".join(f"{word} {bound}" for word, bound in meta["bounds"].items())
        raise ValueError(f"`{field.name}` must be {kind} {bounds}. {received}")


def check_order(recipe, first, last):
    """Raises a ValueError if the setting `last` of a recipe comes before the setting `first`."""
    if getattr(recipe, last) < getattr(recipe, first):
        raise ValueError(
            f"`{last}` must not come before `{first}`. "
            f"Received: {last}={getattr(recipe, last)}, {first}={getattr(recipe, first)}"
        )


def check_copies(recipe):
    """Raises a ValueError if a recipe limits the copies of its checkpoints, but makes none."""
    if recipe.keep_checkpoint_max and not recipe.save_every:
        raise ValueError(
            "`keep_checkpoint_max` needs a `save_every` above 0. "
            f"Received: keep_checkpoint_max={recipe.keep_checkpoint_max}, save_every={recipe.save_every}"
        )


def check_penalty_factors(recipe, penalized):
    """Raises a ValueError for factors that are no numbers, or if the recipe's technique is not `penalized`."""
    factors = recipe.penalty_factors
    if not isinstance(factors, dict) or not all(isinstance(entry, str) for entry in factors):
        raise ValueError(
            "`penalty_factors` must be a dict from layers' names or regular expressions to numbers. "
            f"Received: penalty_factors={checks.shown(factors)}"
        )
    if factors and not penalized:
        raise ValueError(
            f"`penalty_factors` is not used by technique {recipe.technique}, which has no penalty. "
            f"Received: penalty_factors={recipe.penalty_factors}"
        )
    for entry, factor in factors.items():
        checks.check_number(f"penalty_factors[{entry!r}]", factor, least=0)


_BOUNDS = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}
