"""Warnings of runs that leave undone what an algorithm was told to do."""

import warnings

from sparsity_tf.backend import inner_optimizer

# Sparsities are quotients of counts: half a weight of a billion is no difference.
_TOLERANCE = 1e-9


def warn_at_start(algorithm, epoch, params):
    """Warns if the `fit` that begins is too short for the schedule; its length must be known.

    Args:
        algorithm: `MaskAlgorithm`, started.
        epoch: Number of the epoch that begins.
        params: What `fit` tells callbacks, a dict.
    """
    epochs, steps_per_epoch = params.get("epochs"), params.get("steps")
    if not algorithm.scheduled or not epochs or not steps_per_epoch:
        return
    batches = inner_optimizer(algorithm._optimizer).gradient_accumulation_steps or 1
    message = algorithm.left_undone(algorithm.count() + (epochs - epoch) * steps_per_epoch // batches)
    if message is not None:
        _warn(f"{type(algorithm).__name__} {message}")


def of_schedule(algorithm, end):
    """What an algorithm on a schedule leaves undone in a training that ends at a step: a sentence, or `None`."""
    count, last, aim = algorithm.count(), algorithm._last, algorithm.aim()
    if last is not None and count >= last:
        return None
    # An update before an epoch belongs to the step before, and none follows the last epoch.
    shift = int(algorithm._at_epoch_begin)
    # A run that is continued may have its last update behind it.
    continued = algorithm._epoch > 0 and algorithm.due(0, count - shift) is not None
    if algorithm.due(count - shift, end - shift) is None and not continued:
        return (
            f"will not change the masks: its schedule (begin_step={algorithm._first}, end_step={last}, "
            f"frequency={algorithm.frequency!r}) has no step that comes before training ends at step {end}. Give "
            "smaller numbers, or train for longer."
        )
    if aim is not None and last is not None and last > end:
        return (
            f"will not reach its {aim}: its schedule ends at `end_step` {last}, and training "
            f"ends at step {end}. Give an earlier `end_step`, or train for longer."
        )
    return None


def warn_at_end(algorithm, in_fit):
    """Warns if the sparsity is below the goal, or an update is due that the loop did not ask for.

    Args:
        algorithm: `MaskAlgorithm`, started and measured.
        in_fit: Whether `fit` called for the updates.
    """
    name, goal, step = type(algorithm).__name__, algorithm.goal(), algorithm.count()
    due = None if in_fit else algorithm.due(algorithm._seen, step)
    missed = "" if due is None else f" An update was due at step {due}: call `update(model)` after each step."
    if goal is not None and algorithm.sparsity < goal - _TOLERANCE:
        end = "" if algorithm._last is None else f", and its schedule ends at `end_step` {algorithm._last}"
        _warn(
            f"{name} ended at a sparsity of {algorithm.sparsity:.4f}, below its final sparsity of {goal:.4f}: the "
            f"optimizer has taken {step} steps{end}.{missed}"
        )
    elif missed:
        _warn(f"{name} left out updates of the masks.{missed}")
    elif in_fit and _never_stepped(algorithm, step):
        _warn(
            f"{name} did not change the masks: it follows the steps that `model.optimizer` counts, and that took none. "
            "A `train_step` must train the weights with the model's own optimizer."
        )


def _never_stepped(algorithm, step):
    """Whether epochs went by without a step of the optimizer. (Rewinding sets its count back, after masks changed.)"""
    moved = sum(algorithm.dropped.values()) + sum(algorithm.grown.values())
    return algorithm.scheduled and algorithm._epoch_ended and not moved and step == algorithm._began_at


def warn_without_gradient(algorithm, step):
    """Warns that a run which was continued leaves an update out."""
    _warn(
        f"{type(algorithm).__name__} leaves out the update that belongs to step {step}: the gradient of that step is "
        "not in the file that the run continues from. With fewer `steps_per_execution` masks change inside the epoch."
    )


def warn_of_other_masks(algorithm, found, wanted):
    """Warns that masks which the model had before stay, although they are less sparse than asked for."""
    _warn(
        f"{type(algorithm).__name__}(sparsity={algorithm.target_sparsity}) keeps the masks that the model has: their "
        f"sparsity is {found:.4f}, not {wanted:.4f}. Only a model whose masks are all full gets new ones."
    )


def _warn(message):
    # The frames above belong to Keras or to this package.
    warnings.warn(message, stacklevel=3)
