"""A callback as plain values that JSON and TOML can hold: `get_config` and `from_config`, as in layers of Keras."""

import collections.abc
import dataclasses
import functools
import inspect
import os
import typing

import keras
import numpy as np

from sparsity_tf import distributions, schedules
from sparsity_tf.checks import check_instance, shown
from sparsity_tf.masks import structures
from sparsity_tf.schedule_base import Schedule

# Arguments that belong to one training, not to the recipe: a config never holds them.
_OF_THE_RUN = ("data",)
# TOML has no null. Where an argument may be `None` and has another default, a config says this word.
_NONE = "none"


class _Unsaved:
    """Stands in a recorded config for a value that plain data can't describe."""

    def __init__(self, value):
        self.text = shown(value)


class Configured:
    """A mixin: the object remembers the arguments of its constructor as plain values.

    The values are those of the call. Later changes of an attribute, and figures that training computes, are not in the
    config.
    """

    _config = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)

    def get_config(self) -> dict:
        """The arguments of the constructor as plain values, which JSON and TOML can hold.

        Schedules, distributions and functions that are registered with Keras become dicts of `class_name` and `config`.
        Arguments that are `None` by default and were not given are left out, and so is `data`, a batch for measuring.
        Where `None` stands in the place of another default, the config says "none".

        Returns:
            Dict, for `from_config`.

        Raises:
            ValueError: An argument is a function or an object that is not registered with Keras.
        """
        found = {}
        for name, value in (self._config or {}).items():
            unsaved = value.text if isinstance(value, _Unsaved) else None
            if unsaved is not None:
                raise ValueError(
                    f"`{name}` must be a plain value, or registered with `keras.saving.register_keras_serializable`, "
                    f"to be part of a config. Received: {name}={unsaved}"
                )
            found[name] = _copy(value)
        return found

    @classmethod
    def from_config(cls, config: dict, data: tuple | None = None) -> typing.Any:
        """Makes the callback that a config describes.

        Args:
            config: What `get_config` returned; JSON or TOML may have held it meanwhile.
            data: The batch for algorithms that measure on one, which a config does not hold.

        Returns:
            A callback of this class.

        Raises:
            ValueError: The config is no dict, or has arguments that the class does not know, or the class refuses a
                value.
        """
        check_instance("config", config, dict)
        parameters = inspect.signature(cls.__init__).parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        unknown = [] if takes_any else sorted(map(str, set(config) - set(parameters)))
        if unknown or "self" in config:
            raise ValueError(
                f"`config` of {cls.__name__} may hold {', '.join(list(parameters)[1:])}. "
                f"Received: {', '.join(unknown or ['self'])}"
            )
        arguments = {name: _revived(value, parameters.get(name)) for name, value in config.items()}
        return cls(**arguments, **({} if data is None else {"data": data}))


def _recording(init):
    """A constructor that also records its arguments, unless the constructor of a subclass has done so."""

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        if self._config is None:
            self._config = _recorded(init, self, args, kwargs)
        init(self, *args, **kwargs)

    return __init__


def _recorded(init, instance, args, kwargs):
    signature = inspect.signature(init)
    try:
        bound = signature.bind(instance, *args, **kwargs)
    except TypeError:  # The call itself will fail and say why.
        return {}
    bound.apply_defaults()
    found = {}
    for name, value in list(bound.arguments.items())[1:]:
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update({key: _plain(one) for key, one in value.items() if one is not None})
        elif name in _OF_THE_RUN or (value is None and parameter.default is None):
            continue
        elif parameter.kind is parameter.VAR_POSITIONAL:
            found.update({name: _Unsaved(value)} if value else {})
        else:
            found[name] = _NONE if value is None else _plain(value)
    return found


def _plain(value):
    """A value as JSON has it, or `_Unsaved`. The constructor has not checked the value yet, so it may be anything."""
    try:
        return _as_plain(value)
    except Exception:  # A strange value is refused by the constructor, whose message says why.
        return _Unsaved(value)


def _as_plain(value):
    if isinstance(value, np.floating):
        return float(str(value))  # The float32 0.9 is 0.9, as everywhere in the package.
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, structures.Elements):
        return value.spec
    if isinstance(value, Schedule):
        return schedules.serialize(value) if type(value).__module__ == schedules.__name__ else _registered(value)
    if isinstance(value, distributions.Distribution):
        return _of_distribution(value)
    if isinstance(value, list | tuple):
        return _whole(value, [_as_plain(one) for one in value])
    if isinstance(value, collections.abc.Mapping):
        found = {str(key): _as_plain(one) for key, one in value.items()}
        return found if not any(isinstance(one, _Unsaved) for one in found.values()) else _Unsaved(value)
    return _registered(value)


def _whole(value, entries):
    return _Unsaved(value) if any(isinstance(one, _Unsaved) for one in entries) else entries


def _of_distribution(value):
    if getattr(distributions, type(value).__name__, None) is not type(value):
        return _registered(value)
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    config = {name: _as_plain(one) for name, one in fields.items() if one is not None}
    return {"class_name": type(value).__name__, "config": config}


def _registered(value):
    """The registered name of a function or object; `_Unsaved` if Keras does not know it."""
    kind = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
    name = keras.saving.get_registered_name(kind)
    if keras.saving.get_registered_object(name) is not kind:
        return _Unsaved(value)
    if kind is value:
        return {"class_name": "function", "config": name}
    return {"class_name": name, "config": value.get_config()} if hasattr(value, "get_config") else _Unsaved(value)


def _revived(value, parameter):
    """The argument that a value of a config stands for."""
    if value == _NONE and parameter is not None and parameter.default is not None:
        return None if type(None) in typing.get_args(parameter.annotation) else value
    if not isinstance(value, dict) or set(value) != {"class_name", "config"}:
        return value
    kind, config = value["class_name"], value["config"]
    if kind == "function":
        return _looked_up(config)
    if isinstance(getattr(distributions, str(kind), None), type):
        return getattr(distributions, kind)(**config)
    if isinstance(kind, str) and ">" in kind:
        return _looked_up(kind).from_config(config)
    return schedules.get(value)


def _looked_up(name):
    found = keras.saving.get_registered_object(name)
    if found is None:
        raise ValueError(
            "`config` must name functions and classes that are registered with Keras: import the module that registers "
            f"it first. Received: {name!r}"
        )
    return found


def _copy(value):
    if isinstance(value, dict):
        return {name: _copy(one) for name, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value
