"""Which runs a study makes, a round at a time: `rounds`.

The whole grid is one round. With `tune_seeds` it is two: every combination with those seeds, then the best combination
of each row with the other seeds.

With `trials`, a search takes the place of the grid: Optuna proposes the settings to tune. For each row of the table
Optuna's TPE sampler proposes one combination a round. All rows and seeds of a round run at once, on any engine. The
proposals stand in `trials.json` in the folder of the study, so a second start goes on where the first was stopped. A
search draws the same proposals again, because each round has a seed of its own.
"""

import json
import os
import statistics
import zlib

from sparsity_tf.bounded_files import DamagedFileError, read_json
from sparsity_tf.extras import import_optional
from sparsity_tf.study import progress, selection
from sparsity_tf.study.plan import combinations
from sparsity_tf.train import run_folder

TRIALS = "trials.json"


def planned_runs(study, folder):
    """The runs of a study that are known so far, a list: the grid, or the proposals of a search.

    With `tune_seeds`, the runs with the other seeds are known as soon as the settings of their row are chosen.
    """
    if study.trials is None:
        return [run for method, axes in _rows(study) for run in _of_grid(study, folder, method, axes)]
    proposed = _read(folder)
    return [
        run
        for method, axes in _rows(study)
        for tuned in proposed.get(_key(method, axes), [])
        for run in study.repeats(method, axes, tuned)
    ]


def count_runs(study):
    """The number of runs that a study makes in the end."""
    if study.trials is None:
        runs = study.runs()
        later = len(study.seeds) - len(study.tune_seeds) if study.tune_seeds else 0
        tuned_rows = sum(bool(method.tune) for method, _ in _rows(study))
        return sum(study.chooses_by(run) for run in runs) + later * tuned_rows
    return sum((study.trials if method.tune else 1) * len(study.seeds) for method, _ in _rows(study))


def rounds(study, folder):
    """Yields the runs of each round, a list, to be made before the next one is asked for."""
    if study.trials is None:
        first = [run for run in study.runs() if study.chooses_by(run)]
        yield first
        if study.tune_seeds:
            begun = {run.folder for run in first}
            yield [run for run in planned_runs(study, folder) if run.folder not in begun]
        return
    for number in range(study.trials):
        proposed = _read(folder)
        for method, axes in _rows(study):
            of_row = proposed.setdefault(_key(method, axes), [])
            if len(of_row) <= number and (method.tune or not number):
                of_row.append(_propose(study, folder, method, axes, of_row))
        with run_folder.writing(os.path.join(folder, TRIALS)) as file:
            json.dump(proposed, file, indent=2)
        yield [
            run
            for method, axes in _rows(study)
            for tuned in proposed[_key(method, axes)][number : number + 1]
            for run in study.repeats(method, axes, tuned)
        ]


def _rows(study):
    return [(method, axes) for method in study.methods for axes in combinations(method.axes)]


def _of_grid(study, folder, method, axes):
    """The known runs of a row, in the order of the grid."""
    runs = study.of(method, axes)
    if not study.tune_seeds or not method.tune:
        return runs
    found = progress.of_study(folder, [run for run in runs if study.chooses_by(run)])
    chosen = None
    if all(one.settled for one in found):
        chosen = selection.best_of(selection.by_settings(found), study.choice)
    return [run for run in runs if study.chooses_by(run) or run.tuned == chosen]


def _key(method, axes):
    return json.dumps([method.name, axes], sort_keys=True, default=str)


def _read(folder):
    path = os.path.join(folder, TRIALS)
    if not os.path.exists(path):
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise DamagedFileError(path, "it must hold a JSON object")
    return found


def _propose(study, folder, method, axes, earlier):
    """The next combination of a row, a dict. Optuna learns from the earlier ones."""
    if not method.tune:
        return {}
    optuna = import_optional("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = zlib.crc32(f"{_key(method, axes)} {len(earlier)}".encode())
    trials = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    space = {name: _distribution(optuna, entry) for name, entry in method.tune.items()}
    for tuned in earlier:
        value = _value(study, folder, method, axes, tuned)
        if value is not None:
            trials.add_trial(optuna.trial.create_trial(params=_texts(tuned, method), distributions=space, value=value))
    asked = trials.ask(space).params
    return {name: json.loads(value) if isinstance(method.tune[name], list) else value for name, value in asked.items()}


def _distribution(optuna, entry):
    if isinstance(entry, list):
        # Optuna's categories are plain values; a setting may be a list.
        return optuna.distributions.CategoricalDistribution([json.dumps(one) for one in entry])
    kind = "Int" if isinstance(entry["low"], int) and isinstance(entry["high"], int) else "Float"
    return getattr(optuna.distributions, f"{kind}Distribution")(entry["low"], entry["high"], entry.get("log", False))


def _texts(tuned, method):
    return {name: json.dumps(one) if isinstance(method.tune[name], list) else one for name, one in tuned.items()}


def _value(study, folder, method, axes, tuned):
    """The mean of the figure that chooses, over the seeds; `None` if a network broke or a run has not ended."""
    found = progress.of_study(folder, study.repeats(method, axes, tuned))
    values = [study.choice.chosen_by.of(one.results) for one in found if one.state == "finished"]
    return statistics.fmean(values) if len(values) == len(found) and None not in values else None
