"""Warnings of runs that can't, or did not, do everything that an algorithm was told to do."""

from sparsity_tf.backend import inner_optimizer
from sparsity_tf.user_warning import warn_user

# Sparsities are quotients of counts. A difference of less than one weight in a billion is no difference.
TOLERANCE = 1e-9


def warn_at_start(algorithm, epoch, params):
    """Warns if the `fit` that begins is too short for the schedule. Without a known length there is no warning.

    Args:
        algorithm: `MaskAlgorithm`, started.
        epoch: Number of the epoch that begins.
        params: The `params` that `fit` gives to callbacks, a dict.
    """
    epochs, steps_per_epoch = params.get("epochs"), params.get("steps")
    if not algorithm.scheduled or not epochs or not steps_per_epoch:
        return
    batches = inner_optimizer(algorithm._optimizer).gradient_accumulation_steps or 1
    message = algorithm.left_undone(algorithm.count() + (epochs - epoch) * steps_per_epoch // batches)
    if message is not None:
        warn_user(f"{type(algorithm).__name__} {message}")


def of_schedule(algorithm, end):
    """Says which part of its schedule an algorithm leaves undone if training ends at `end`: a sentence or `None`."""
    count, last, aim = algorithm.count(), algorithm._last, algorithm.aim()
    if last is not None and count >= last:
        # A continued run may be past its last update. A second `fit` is, if its own length set the schedule's end.
        again = algorithm.end_step is None and algorithm._epoch == 0
        return _over(algorithm) if again and algorithm.grows else of_loop(algorithm)
    # An update before an epoch belongs to the step before it, and no update follows the last epoch.
    shift = int(algorithm._at_epoch_begin)
    # In a continued run the last update may already have happened.
    continued = algorithm._epoch > 0 and algorithm.due(0, count - shift) is not None
    due = algorithm.due(count - shift, end - shift)
    if due is not None and algorithm._too_late(due, due):
        due = algorithm.due(count - shift, due - 1)
    if due is None and not continued:
        return (
            f"will not change the masks: its schedule (begin_step={algorithm._first}, end_step={last}, "
            f"frequency={algorithm.frequency!r}) has no step before the end of training, step {end}. Give a smaller "
            "`begin_step` or `frequency`, or train for longer."
        )
    if aim is not None and last is not None and last > end:
        return (
            f"will not reach its {aim}: its schedule ends at `end_step` {last}, and training "
            f"ends at step {end}. Give an earlier `end_step`, or train for longer."
        )
    return None


def of_loop(algorithm):
    """As `of_schedule`, for a loop whose end is not known: it may be past a training that `prepare` was told about."""
    ends = algorithm._last, algorithm._total_steps
    return _over(algorithm) if algorithm.grows and all(ends) and algorithm.count() >= max(ends) else None


def _over(algorithm):
    return (
        f"will not change the masks: its schedule ends at step {algorithm._last}, but the optimizer has already taken "
        f"{algorithm.count()} steps. Give a later `end_step`, or compile the model anew, so that the count begins at 0."
    )


def warn_if_over(algorithm):
    """Warns if a loop of the user's own begins after the end of the schedule and of the training."""
    message = of_loop(algorithm) if algorithm.scheduled else None
    if message is not None:
        warn_user(f"{type(algorithm).__name__} {message}")


def warn_at_end(algorithm, in_fit):
    """Warns if the sparsity is below the goal, or if the loop missed an update that was due.

    Args:
        algorithm: `MaskAlgorithm`, started and measured.
        in_fit: Whether training ran in `fit`, which calls the updates itself.
    """
    name, goal, step = type(algorithm).__name__, algorithm.goal(), algorithm.count()
    due = None if in_fit else algorithm.due(algorithm._seen, step)
    missed = "" if due is None else f" An update was due at step {due}: call `update(model)` after each step."
    if goal is not None and algorithm.sparsity < goal - TOLERANCE:
        end = "" if algorithm._last is None else f", and its schedule ends at `end_step` {algorithm._last}"
        warn_user(
            f"{name} ended at a sparsity of {algorithm.sparsity:.4f}, below its target sparsity of {goal:.4f}: the "
            f"optimizer has taken {step} steps{end}.{missed}"
        )
    elif missed:
        warn_user(f"{name} did not make all updates of the masks.{missed}")
    elif in_fit and _never_stepped(algorithm, step):
        warn_user(
            f"{name} did not change the masks, because `model.optimizer` took no step. If the model has a "
            "`train_step` of its own, it must train the weights with `model.optimizer`."
        )


def _never_stepped(algorithm, step):
    """Whether an epoch passed without a step of the optimizer. (Rewinding sets the count back, but changes masks.)"""
    moved = sum(algorithm.dropped.values()) + sum(algorithm.grown.values())
    return algorithm.scheduled and algorithm._epoch_ended and not moved and step == algorithm._began_at


def warn_without_gradient(algorithm, step):
    """Warns that a continued run leaves out an update."""
    warn_user(
        f"{type(algorithm).__name__} leaves out the update of step {step}: it needs the gradient of that step, and "
        "the file of the interrupted run does not hold gradients. To avoid this, give `compile` a smaller "
        "`steps_per_execution`: masks then change inside the epoch."
    )


def warn_of_other_masks(algorithm, found, wanted):
    """Warns that the model keeps its earlier masks, although they are less sparse than the algorithm asks for."""
    warn_user(
        f"{type(algorithm).__name__}(sparsity={algorithm.target_sparsity}) keeps the masks that the model already "
        f"has. Their sparsity is {found:.4f}, not {wanted:.4f}. New masks are made only for a model in which no "
        "weight is masked yet."
    )
