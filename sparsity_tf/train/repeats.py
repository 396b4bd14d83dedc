"""Runs that differ in the seed only: `--repeats` of a program makes them one after the other, and summarizes them."""

import dataclasses
import os

import keras

from sparsity_tf.bounded_files import one_line
from sparsity_tf.train import run_folder, summary, trainer


def run(task, recipe, folder, count, overwrite=False):
    """Makes several runs of a recipe with the seeds `recipe.seed`, `recipe.seed + 1`, ...

    Each run is an ordinary one, in the folder `seed-SEED` of `folder`. A run that has finished is skipped, also if its
    network diverged or collapsed, and an unfinished one is continued. A finished run that lacks an analysis which the
    recipe asks for (`bench`, `features`) is analysed, but not trained. At the end `summary.csv` in `folder` holds mean,
    standard error and 95 % interval, which are printed as well.

    Args:
        task: The `Task`.
        recipe: The recipe.
        folder: Folder for the folders of the runs; it is made if missing.
        count: Number of runs.
        overwrite: Whether to remove these runs first, finished or not.

    Returns:
        A sentence that says how many networks diverged or collapsed, or `None`.

    Raises:
        ValueError: `folder` is that of a run, a run in it has other settings, several workers train, or as for
            `trainer.prepare`.
        FileNotFoundError, ModuleNotFoundError: As for `trainer.prepare`.
    """
    if recipe.strategy == "multiworker":
        raise ValueError(
            "`repeats` must not be given with strategy=multiworker, whose workers would have to agree which runs have "
            f"finished: start one run for each seed. Received: repeats={count}"
        )
    run_folder.check_free(folder, "`repeats` makes a folder for each run: give another --output_dir.")
    recipes = [dataclasses.replace(recipe, seed=recipe.seed + k) for k in range(count)]
    folders = [os.path.join(folder, f"seed-{one.seed}") for one in recipes]
    if not overwrite:
        for one, own in zip(recipes, folders, strict=True):
            run_folder.check_settings(own, one)
    collapsed = 0
    for number, (one, own) in enumerate(zip(recipes, folders, strict=True), 1):
        print(f"{'' if number == 1 else chr(10)}run {number} of {count}, seed {one.seed}, in {own}", flush=True)
        before = None if overwrite else _finished(own)
        missing = run_folder.missing_analyses(own, one) if isinstance(before, summary.Run) else []
        if missing:
            print(f"finished before, but it has no {' and no '.join(missing)}: made now", flush=True)
        elif before is not None:
            said = before.reason if isinstance(before, summary.LeftOut) else "its figures are in the summary"
            print(f"finished before: {said}")
            collapsed += isinstance(before, summary.LeftOut)
            continue
        # Networks of the runs before must not fill the memory.
        keras.backend.clear_session()
        resume = not overwrite and os.path.exists(os.path.join(own, run_folder.RECIPE))
        result = trainer.train(trainer.prepare(task, one, own, resume, overwrite))
        collapsed += bool(result.collapsed)
    found = summary.summarize(folders)
    path = os.path.join(folder, summary.SUMMARY)
    found.to_csv(path)
    print(f"\n{found}\nin {path}", flush=True)
    return f"{collapsed} of {count} networks diverged or collapsed" if collapsed else None


def _finished(folder):
    """A `Run`, or a `LeftOut` for a network that diverged or collapsed; `None` if the run must be made or continued."""
    if not os.path.exists(os.path.join(folder, run_folder.RESULTS)):
        return None
    before = summary.read_run(folder)
    if isinstance(before, summary.Run) or not before.reason.startswith("damaged"):
        return before
    print(f"reported anew: {one_line(before.reason)}")
    return None
