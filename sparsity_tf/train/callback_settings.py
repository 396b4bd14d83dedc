"""The settings of a recipe that make a given callback: user code, a preset and a study say the same thing.

`sparsity_settings.make` turns settings into a callback. `of_config` goes the other way, from the dict that
`sparsity_tf.callbacks.serialize` returns.
"""

import inspect

from sparsity_tf import callbacks
from sparsity_tf.checks import check_instance
from sparsity_tf.train import sparsity_settings

# Arguments that the run supplies: its seed, the number of its steps, a file in its folder.
_OF_THE_RUN = ("seed", "steps_per_round", "snapshot")


def of_config(config):
    """The settings of a recipe whose run trains with a callback.

    Args:
        config: Dict of `class_name` and `config`, as `sparsity_tf.callbacks.serialize` returns it. Its class must be an
            algorithm of the training programs.

    Returns:
        Dict: `technique`, the settings that the algorithm takes, `where`, and `technique_options` with its other
        arguments. `seed` is left out, because the recipe has one for the whole run.

    Raises:
        ValueError: The class is no algorithm of the training programs, or a value can't be a setting.

    Example:

    >>> of_config({"class_name": "RigL", "config": {"sparsity": 0.8, "end_step": 1000}})
    {'technique': 'rigl', 'final_sparsity': 0.8, 'end_step': 1000}
    """
    check_instance("callback", config, dict)
    found = {one.callback.__name__: name for name, one in reversed(sparsity_settings.ALGORITHMS.items())}
    name, arguments = config.get("class_name"), config.get("config", {})
    if not isinstance(name, str) or name not in found:
        raise ValueError(
            f"`callback` must have a class_name of {', '.join(sorted(found))}. Received: class_name={name!r}"
        )
    check_instance("callback", arguments, dict)
    kind, by_setting = sparsity_settings.ALGORITHMS[found[name]]
    # A misspelt argument, or a value that the class refuses, is an error here and not after the data are read.
    parameters = inspect.signature(kind).parameters
    steps = {"steps_per_round": 2**31} if "steps_per_round" in parameters else {}
    data = ([0.0], [0.0]) if "data" in parameters else None
    callbacks.deserialize({"class_name": name, "config": {**arguments, **steps}}, data)
    settings = {argument: setting for setting, argument in by_setting.items()}
    if "final_sparsity" in settings:
        settings.setdefault("sparsity", "final_sparsity")  # Another name of the same argument.
    result, options = {"technique": found[name]}, {}
    for argument, value in arguments.items():
        if argument in _OF_THE_RUN or value == parameters[argument].default:
            continue
        if argument == "where" or argument in settings:
            result[settings.get(argument, "where")] = _as_setting(argument, value)
        else:
            options[argument] = value
    return {**result, "technique_options": options} if options else result


def _as_setting(argument, value):
    """The text or number of a recipe that becomes the argument."""
    right = isinstance(value, int | float | str)
    if argument == "frequency" and right:
        return str(value)
    if argument in ("where", "dense") and isinstance(value, list):
        return "|".join(f"(?:{one})" for one in value) if argument == "where" else ",".join(value)
    if argument == "distribution" and isinstance(value, dict) and set(value) != {"class_name", "config"}:
        return ",".join(f"{name}={sparsity}" for name, sparsity in value.items())
    if not right or (value == "none" and argument == "redistribution"):
        raise ValueError(
            f"`{argument}` of a callback must be a number or a name to be a setting of a training program. "
            f"Received: {argument}={value!r}"
        )
    return value
