"""Callbacks as plain data and back: what a study, a preset and user code say of an algorithm is the same dict."""

from typing import Any

import keras

from sparsity_tf.callbacks.base.configured import Configured
from sparsity_tf.checks import check_instance, shown

PACKAGE = "sparsity_tf"


def serialize(callback: Configured) -> dict:
    """Turns a callback of this package, or a registered one of your own, into plain values for JSON and TOML.

    Args:
        callback: A callback with `get_config`. A class of your own must be registered with
            `keras.saving.register_keras_serializable`.

    Returns:
        `{"class_name": ..., "config": ...}`, which `deserialize` turns back into an equal callback. The config does not
        hold `data`.

    Raises:
        ValueError: The class is not registered, or an argument can't be saved.

    Example:

    >>> serialize(PenaltyRamp(num_examples=60000, end_step=500))["config"]["num_examples"]
    60000
    """
    kind = type(callback)
    name = keras.saving.get_registered_name(kind)
    if not isinstance(callback, Configured) or keras.saving.get_registered_object(name) is not kind:
        raise ValueError(
            "`callback` must be of a class that is registered with `keras.saving.register_keras_serializable` and has "
            f"`get_config`. Received: callback={shown(callback)}"
        )
    return {"class_name": name.removeprefix(f"{PACKAGE}>"), "config": callback.get_config()}


def deserialize(config: dict, data: tuple | None = None) -> Any:
    """Makes the callback that `serialize` described.

    Args:
        config: Dict of `class_name`, such as "RigL", and `config`, the arguments; `config` may be left out.
        data: The batch for algorithms that measure on one (`SNIP`, `GraSP`), which a config does not hold.

    Returns:
        The callback.

    Raises:
        ValueError: The class is not known, or it refuses an argument.

    Example:

    >>> deserialize({"class_name": "RigL", "config": {"sparsity": 0.8, "end_step": 1000}})
    RigL(sparsity=0.8, end_step=1000)
    """
    check_instance("config", config, dict)
    name, arguments = config.get("class_name"), config.get("config", {})
    unknown = sorted(set(map(str, config)) - {"class_name", "config"})
    if unknown:
        raise ValueError(f"`config` may hold class_name and config. Received: {', '.join(unknown)}")
    kind = None
    if isinstance(name, str):
        kind = keras.saving.get_registered_object(name if ">" in name else f"{PACKAGE}>{name}")
    if not (isinstance(kind, type) and issubclass(kind, Configured)):
        from sparsity_tf import callbacks

        known = sorted(key for key in callbacks.__all__ if _is_callback(getattr(callbacks, key)))
        raise ValueError(
            f"`class_name` of `config` must be one of {', '.join(known)}, or the registered name of a callback of your "
            f"own. Received: class_name={shown(name)}"
        )
    return kind.from_config(arguments, data)


def _is_callback(value):
    return isinstance(value, type) and issubclass(value, Configured)


def register(names: list, namespace: dict) -> None:
    """Registers the callbacks among the public names of a module with Keras, under the name of this package."""
    for name in names:
        if _is_callback(namespace[name]):
            keras.saving.register_keras_serializable(PACKAGE, name)(namespace[name])
