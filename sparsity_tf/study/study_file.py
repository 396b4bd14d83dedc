"""Reads study files: `read_study`. A bad file gives all its errors at once, each with its line."""

import difflib
import importlib
import json
import math
import os
import re
import sys

from absl import flags

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_path, shown
from sparsity_tf.study import programs
from sparsity_tf.study.plan import Method, Study, combinations, values_of
from sparsity_tf.study.selection import names_for
from sparsity_tf.train import callback_settings, run_folder
from sparsity_tf.type_names import PathLike

_KEYS = tuple("program config seeds metric threads trials tune_seeds settings axes tune methods".split())
_OF_METHOD = ("name", "config", "callback", "without", "axes", "tune")
_MOST_RUNS = 100_000


class StudyFileError(ValueError):
    """A study file can't be used.

    Args:
        problems: List of sentences; each begins with the path of the file and the number of a line.

    Example:

    >>> str(StudyFileError(["a.toml:3: `seeds` must be a list of different integers. Received: seeds=[]"]))
    'a.toml:3: `seeds` must be a list of different integers. Received: seeds=[]'
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_study(path: PathLike) -> Study:
    """Reads a study file and checks every run in it.

    Args:
        path: A TOML file. `docs/guides/studies.md` describes its keys.

    Returns:
        `Study`.

    Raises:
        StudyFileError: The file is no TOML, or something in it can't be used. The message has a line for each error,
            with the number of the line in the file.
        OSError: The file can't be read.

    Example:

    ```python
    text = '''
    program = "classifier"
    config = "lenet300_magnitude"
    seeds = [0, 1, 2]
    [settings]
    validation_split = 0.1
    [axes]
    final_sparsity = [0.8, 0.95]
    [tune]
    learning_rate = [0.1, 0.03]
    '''
    with open("mine.toml", "w") as file:
        file.write(text)
    runs = read_study("mine.toml").runs()
    print(len(runs), runs[0].label)
    ```
    """
    check_path("path", path)
    path = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read()
    # Python has a reader of TOML since 3.11; before that, this package requires tomli.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        text = content.decode("utf-8-sig")
        data = toml.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r"\(at line (\d+), ", str(error))
        raise StudyFileError([f"{path}:{found[1] if found else 1}: no TOML: {one_line(error)}"]) from error
    reader = _Reader(path, data, _lines_of(text))
    study = reader.study()
    if reader.problems:
        raise StudyFileError([f"{path}:{line}: {message}" for line, message in sorted(reader.problems)])
    return study


def _lines_of(text):
    """Dict from the path of a key in a TOML text (a tuple, tables of an array counted) to the number of its line."""
    found, prefix, counts = {(): 1}, (), {}
    for number, line in enumerate(text.splitlines(), 1):
        if array := re.match(r"\s*\[\[\s*([\w\"'.-]+)\s*\]\]", line):
            name = _names(array[1])
            counts[name] = counts.get(name, -1) + 1
            prefix = (*name, counts[name])
        elif table := re.match(r"\s*\[\s*([\w\"'.-]+)\s*\]\s*(#.*)?$", line):
            name = _names(table[1])
            prefix = (name[0], counts[name[:1]], *name[1:]) if name[:1] in counts else name
        elif key := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            path = (*prefix, *_names(key[1]))
            for length in range(len(prefix) + 1, len(path) + 1):
                found.setdefault(path[:length], number)
            continue
        else:
            continue
        found.setdefault(prefix, number)
    return found


def _names(text):
    return tuple(name.strip("\"' ") for name in text.split("."))


class _Reader:
    """Makes a `Study` from the content of a file, and collects all that is wrong with it.

    Attributes:
        problems: Set of pairs (number of the line, message).
    """

    def __init__(self, path, data, lines):
        self.path, self.data, self.lines = path, data, lines
        self.problems = set()

    def wrong(self, place, message):
        """Notes an error at the nearest known place: a tuple of keys."""
        while place not in self.lines:
            place = place[:-1]
        self.problems.add((self.lines[place], one_line(message)))

    def study(self):
        self._check_keys(self.data, _KEYS, ())
        program = self._choice("program", programs.PROGRAMS)
        seeds = self._get("seeds", list, [0])
        right = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
        if not seeds or not right or len(set(seeds)) < len(seeds):
            self.wrong(("seeds",), f"`seeds` must be a list of different integers. Received: seeds={shown(seeds)}")
            seeds = [0]
        tune_seeds = self._tune_seeds(seeds)
        threads, trials = (self._count(name) for name in ("threads", "trials"))
        methods = self._methods()
        for name in ("tune_seeds", "trials"):
            if self.data.get(name) and not any(method.tune for method in methods):
                self.wrong((name,), f"`{name}` needs settings in [tune], or in `tune` of a method, to choose from")
        if program is None:
            return None
        metric = self._choice("metric", names_for(program), names_for(program)[0])
        name = os.path.splitext(os.path.basename(self.path))[0]
        study = Study(name, program, tuple(methods), tuple(seeds), metric, threads, trials, tune_seeds)
        if sum(_count_of(one) for one in methods) * len(seeds) > _MOST_RUNS:
            self.wrong((), f"The study must make at most {_MOST_RUNS:,} runs.")
        elif metric is not None:
            self._check_runs(study)
        return study

    def _get(self, name, kind, default):
        value = self.data.get(name, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            what = {list: "a list", dict: "a table", str: "a string"}[kind]
            self.wrong((name,), f"`{name}` must be {what}. Received: {name}={shown(value)}")
            return default
        return value

    def _choice(self, name, allowed, default=None):
        value = self.data.get(name, default)
        if value in allowed:
            return value
        self.wrong((name,), f"`{name}` must be one of {', '.join(allowed)}. Received: {name}={shown(value)}")
        return None

    def _tune_seeds(self, seeds):
        chosen = self._get("tune_seeds", list, [])
        if not all(type(seed) is int and seed in seeds for seed in chosen) or len(set(chosen)) < len(chosen):
            self.wrong(
                ("tune_seeds",),
                f"`tune_seeds` must be different ones of the seeds {shown(seeds)}. "
                f"Received: tune_seeds={shown(chosen)}",
            )
            return ()
        if chosen and "trials" in self.data:
            self.wrong(("tune_seeds",), "`tune_seeds` belongs to a grid, `trials` to a search: leave one of them out")
        return tuple(chosen)

    def _count(self, name):
        value = self.data.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self.wrong((name,), f"`{name}` must be an integer of at least 1. Received: {name}={shown(value)}")
            return None
        return value

    def _check_keys(self, table, known, place):
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                advice = f"{hint}It may hold {', '.join(known)}; settings of the runs stand in [settings]."
                self.wrong((*place, name), f"A study has no key `{name}`: {advice}")

    def _methods(self):
        shared = {kind: self._values(self._get(kind, dict, {}), (kind,), kind != "settings") for kind in _SHARED}
        for name in sorted({*shared["settings"]} & {*shared["axes"], *shared["tune"]}):
            self.wrong(("settings", name), f"`{name}` must stand in settings, or in axes or tune, not in both")
        tables = self._get("methods", list, [])
        if not tables:
            return [self._method({}, ("config",), shared)]
        methods = []
        for number, table in enumerate(tables):
            place = ("methods", number)
            if not isinstance(table, dict):
                self.wrong(("methods",), f"`methods` must be tables: [[methods]]. Received: {shown(table)}")
                continue
            method = self._method(table, place, shared)
            # Some file systems don't tell capital letters from small ones.
            if method.name.lower() in [one.name.lower() for one in methods]:
                self.wrong(place, f"`name` must differ from that of another method. Received: name={method.name!r}")
            methods.append(method)
        return methods

    def _method(self, table, place, shared):
        own = {kind: table.get(kind, {}) for kind in ("axes", "tune")}
        for kind, values in own.items():
            if not isinstance(values, dict):
                self.wrong((*place, kind), f"`{kind}` must be a table. Received: {kind}={shown(values)}")
                values = {}
            own[kind] = self._values(values, (*place, kind), True)
        without = table.get("without", [])
        if not isinstance(without, list) or not set(map(str, without)) <= {
            *self._get("axes", dict, {}),
            *self._get("tune", dict, {}),
        }:
            self.wrong(
                (*place, "without"),
                "`without` must be a list of names in [axes] or [tune], which the method leaves out. "
                f"Received: without={shown(without)}",
            )
            without = []
        axes, tune = (
            {**{name: values for name, values in shared[kind].items() if name not in without}, **own[kind]}
            for kind in ("axes", "tune")
        )
        # A method's own table of one kind takes a setting out of the shared table of the other.
        axes = {name: values for name, values in axes.items() if name not in own["tune"] or name in own["axes"]}
        tune = {name: values for name, values in tune.items() if name not in own["axes"] or name in own["tune"]}
        settings = dict(self._callback(table, place))
        given = {name: value for name, value in table.items() if name not in _OF_METHOD}
        settings |= self._values(given, place, False)
        for name in sorted({*axes} & {*tune}):
            self.wrong((*place, "tune", name), f"`{name}` must stand in axes or in tune, not in both")
        for name in sorted({*settings} & {*axes, *tune}):
            self.wrong((*place, name), f"`{name}` has one value here and several in axes or tune: name it in `without`")
        settings = {**{k: v for k, v in shared["settings"].items() if k not in {*axes, *tune}}, **settings}
        config = table.get("config", self.data.get("config"))
        if not isinstance(config, str):
            self.wrong(place, "`config` must be the name of a preset, for the study or for each method")
        name = table.get("name", settings.get("technique", str(config)))
        if not isinstance(name, str) or not name.strip():
            self.wrong((*place, "name"), f"`name` must be a string. Received: name={shown(name)}")
        return Method(str(name), str(config), settings, axes, tune, self.lines.get(place, 1))

    def _callback(self, table, place):
        """The settings that make the callback of a method."""
        if "callback" not in table:
            return {}
        try:
            return callback_settings.of_config(table["callback"])
        except ValueError as error:
            self.wrong((*place, "callback"), error)
            return {}

    def _values(self, table, place, several):
        """The entries of a table of settings, or of lists of their values (`several`)."""
        found = {}
        for name, value in table.items():
            if name in programs.OF_THE_STUDY:
                self.wrong((*place, name), f"`{name}` must not be a setting: the study gives it to each run")
            elif several and isinstance(value, dict) and place[-1] == "tune":
                self._check_range(name, value, place)
                found[name] = value
            elif several and not (isinstance(value, list) and value and _differ(value)):
                self.wrong(
                    (*place, name), f"`{name}` must be a list of different values. Received: {name}={shown(value)}"
                )
            else:
                found[name] = value
        return found

    def _check_range(self, name, value, place):
        """Checks a range of a search, such as `{low = 0.01, high = 0.3, log = true}`."""
        low, high = (value.get(end) for end in ("low", "high"))
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (low, high))
        known = set(value) <= {"low", "high", "log"} and isinstance(value.get("log", False), bool)
        if not numbers or not known or not low < high or (value.get("log") and low <= 0):
            self.wrong(
                (*place, name),
                f"`{name}` must be a range such as {{low = 0.01, high = 0.3, log = true}}. Received: {shown(value)}",
            )
            value |= {"low": 0, "high": 1}
        if self._count("trials") is None:
            self.wrong((*place, name), f"`{name}` is a range, which needs `trials`, the number of settings to try")

    def _check_runs(self, study):
        """Makes the recipe of every run. Runs with one seed stand for those with another."""
        recipes = {}
        for number, method in enumerate(study.methods):
            place = ("methods", number) if "methods" in self.data else ()
            for axes in combinations(method.axes):
                for tuned in combinations(method.tune):
                    run = study.repeats(method, axes, tuned)[0]
                    recipe = self._recipe(study, run, place)
                    if recipe is None:
                        continue
                    same = recipes.setdefault(json.dumps(run_folder.as_plain(recipe), sort_keys=True), run)
                    if same is not run:
                        self.wrong(place, f"two runs of the study are the same: {same.label}; and {run.label}")
                    if problem := _unfit_to_choose(study, run, recipe):
                        self.wrong(("metric",), problem)
                        return

    def _recipe(self, study, run, place):
        """The recipe of a run; `None` if it has errors. A setting with an error is left out, to find the next error."""
        arguments, sound = list(run.arguments), True
        while True:
            try:
                recipe = programs.recipe_of(study.program, arguments)
                return recipe if sound else None
            except flags.UnrecognizedFlagError as error:
                names = [error.flagname]
                where = self._place_of(error.flagname, place)
                self.wrong(where, f"{study.program} has no setting `{error.flagname}`")
            except (flags.Error, ValueError) as error:
                named = re.findall(r"`(\w+)`|--(\w+)=|flag --(\w+)", str(error))
                names = [next(filter(None, found)) for found in named]
                where = next((one for name in names if (one := self._place_of(name, place)) in self.lines), place)
                self.wrong(where, error)
            left = [one for one in arguments if one.startswith("--config=") or one[2:].partition("=")[0] not in names]
            # Without its technique the run would be another one, whose errors mean nothing.
            if len(left) == len(arguments) or "technique" in names:
                return None
            arguments, sound = left, False

    def _place_of(self, name, place):
        """Where the file says a setting of the runs of a method."""
        own = [(*place, name), (*place, "axes", name), (*place, "tune", name)] if place else []
        shared = [(kind, name) for kind in _SHARED] + [(name,)]
        return next((one for one in (*own, *shared) if one in self.lines), (*place, name))


def _unfit_to_choose(study, run, recipe):
    """Says why a run has no figure on validation data, or a reported one that is not independent of it; or `None`."""
    if study.program == "classifier" and not recipe.validation_split:
        return (
            f"`metric` {study.metric} needs `validation_split` above 0 in [settings]: nothing is held out to choose "
            f"by. Received: validation_split=0.0 ({run.label})"
        )
    if study.metric.startswith("best.") and not recipe.keep_best:
        return (
            f"`metric` {study.metric} needs `keep_best` = true in [settings]. Received: keep_best=false ({run.label})"
        )
    if study.program == "translator" and run.tuned and recipe.bleu == "validation":
        return (
            "`bleu` must be test in [settings] if there are settings to tune: the pairs that choose must not give the "
            f"score. Received: bleu='validation' ({run.label})"
        )
    return None


def _count_of(method):
    """The number of combinations of a method's axes and settings to tune."""
    return math.prod(len(values_of(entry)) for entry in (*method.axes.values(), *method.tune.values()))


_SHARED = ("settings", "axes", "tune")


def _differ(values):
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    return len(set(texts)) == len(texts)
