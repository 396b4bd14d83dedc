"""Do the tests notice small wrong edits? One-token edits by cosmic-ray, each run against the tests of its module.

    python -m tests.campaigns.mutate --cases=50 masks budgets     # 50 seeded edits of each
    python -m tests.campaigns.mutate --cases=0 --all              # every edit of every module of `MODULES`

(In the root of the repository; `make mutants` does the same with `.venv`.) An edit replaces an operator, comparison,
number, `True`, `and`, ... as cosmic-ray's operators do. A sample takes one edit of every place in the file before it
takes a second, and edits of functions' bodies before the others.

Importing TensorFlow costs seconds, so that a process for each edit is too dear. This program imports Keras once and
forks. A first fork runs the tests without edits and records the lines that each test runs. A second one imports the
package, collects the tests and forks again for each edit; there the functions get the code of the edited source. (An
edit of a line that imports run, such as a constant of the module, gets a fork that imports the edited source.) An edit
is run against the tests that run its line: one case of every test function first, the fastest at the head, up to
`--patience` processor seconds of tests. The first failure ends the fork. A test that runs into the time limit (an
endless loop) is a failure, too. A line that no test runs is not noticed. Before the edits, the module as it is goes the
same ways and must pass.

Edits that change no behaviour are listed with a reason in `mutants_equivalent.md` and are not run. The program prints
every other edit that no test noticed, then one line of figures for each module. Its exit status is 1 if fewer than
`--floor` percent of the edits of a module were noticed.
"""

import argparse
import ast
import collections
import functools
import gc
import importlib.machinery
import itertools
import linecache
import os
import pathlib
import pickle
import random
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import types

import hypothesis
import parso  # noqa: F401  (cosmic-ray's operators fail to load unless parso comes first)
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# One thread each: the edits share the machine, and a fork takes no threads along.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  (reads the environment)

ROOT = pathlib.Path(__file__).resolve().parents[2]
EQUIVALENTS = pathlib.Path(__file__).with_name("mutants_equivalent.md")

# The modules that compute, and the tests that are to notice an edit (pytest arguments).
MODULES = {
    "backend/layers": ["tests/test_backend.py"],
    "backend/tensors": ["tests/test_backend.py", "tests/masks/test_ranking.py"],
    "backend/training": ["tests/test_backend.py", "tests/callbacks/test_dynamic.py"],
    "masks/ranking": ["tests/masks/test_ranking.py"],
    "distributions/allocate": ["tests/distributions/test_allocate.py"],
    "distributions/base": ["tests/distributions/test_allocate.py"],
    "distributions/families": ["tests/distributions/test_allocate.py"],
    "masks/matrices": ["tests/one_shot", "tests/callbacks/test_srigl.py"],
    "one_shot/layer_hessian": ["tests/one_shot/test_methods.py"],
    "one_shot/optimal_brain_surgeon": ["tests/one_shot"],
    "one_shot/refit": ["tests/one_shot/test_methods.py"],
    "one_shot/scores": ["tests/test_prune.py", "tests/one_shot/test_methods.py"],
    "one_shot/selection": ["tests/test_prune.py", "tests/one_shot/test_methods.py"],
    "one_shot/sparse_gpt": ["tests/one_shot"],
    "one_shot/synflow": ["tests/one_shot/test_methods.py"],
    "regularizers": ["tests/test_regularizers.py"],
    "ops/top_k": ["tests/masks/test_ranking.py"],
    "masks/structures": ["tests/masks/test_structures.py"],
    "schedules": ["tests/test_schedules.py"],
    "distributions/budgets": ["tests/distributions/test_budgets.py", "tests/tools/test_budget.py"],
    "layers/l0": ["tests/layers/test_l0.py"],
    "layers/variational_dropout": ["tests/layers/test_variational_dropout.py"],
    "layers/soft_threshold": ["tests/layers/test_soft_threshold.py"],
    "layers/group_variational_dropout": ["tests/layers/test_group_variational_dropout.py"],
    "layers/structured_bayesian": ["tests/layers/test_structured_bayesian.py"],
    "layers/masked": ["tests/layers/test_masked.py", "tests/layers/test_lora.py"],
    "layers/discovering_wirings": ["tests/layers/test_discovering_wirings.py"],
    "layers/sr_ste": ["tests/layers/test_sr_ste.py"],
    "layers/top_kast": ["tests/layers/test_top_kast.py"],
    "layers/powerpropagation": ["tests/layers/test_powerpropagation.py"],
    "layers/movement": ["tests/layers/test_movement.py"],
    "layers/soft_movement": ["tests/layers/test_soft_movement.py"],
    "layers/activation": ["tests/layers/test_activation.py"],
    "layers/fast_grnn": ["tests/layers/test_fast_grnn.py"],
    "layers/technique": [
        "tests/layers/test_technique.py",
        "tests/layers/test_l0.py",
        "tests/layers/test_variational_dropout.py",
    ],
    "layers/kinds": [
        "tests/layers/test_kinds.py",
        "tests/layers/test_masked.py",
        "tests/layers/test_l0.py",
        "tests/layers/test_variational_dropout.py",
    ],
    "layers/recurrent_kinds": ["tests/layers/test_recurrent.py", "tests/layers/test_kinds.py"],
    "inspection/flops": ["tests/inspection/test_flops.py"],
    "inspection/layer_operations": ["tests/inspection/test_flops.py"],
    "callbacks/criteria": ["tests/callbacks/test_dynamic.py", "tests/callbacks/test_drop_and_grow.py"],
    "callbacks/pruning": [
        "tests/callbacks/test_pruning.py",
        "tests/callbacks/test_bad_arguments.py",
        "tests/callbacks/test_tied_structures.py",
        "tests/callbacks/test_together.py",
    ],
    "callbacks/dynamic": [
        "tests/callbacks/test_dynamic.py",
        "tests/callbacks/test_drop_and_grow.py",
        "tests/callbacks/test_silent_runs.py",
    ],
    "callbacks/dynamic_reparameterization": ["tests/callbacks/test_dynamic_reparameterization.py"],
    "callbacks/iterative_pruning": ["tests/callbacks/test_iterative_pruning.py"],
    "callbacks/acdc": ["tests/callbacks/test_acdc.py"],
    "callbacks/granet": ["tests/callbacks/test_granet.py"],
    "callbacks/mest": ["tests/callbacks/test_mest.py"],
    "callbacks/slimming": ["tests/callbacks/test_slimming.py"],
    "callbacks/sparsity_ramp": ["tests/callbacks/test_sparsity_ramp.py"],
    "callbacks/srigl": ["tests/callbacks/test_srigl.py"],
    "callbacks/narang_pruning": ["tests/callbacks/test_narang_pruning.py"],
    "callbacks/one_shot": ["tests/callbacks/test_one_shot.py"],
    "callbacks/penalty_ramp": ["tests/callbacks/test_penalty_ramp.py"],
    "callbacks/sparse_momentum": ["tests/callbacks/test_sparse_momentum.py"],
    "callbacks/sparsity_monitor": ["tests/callbacks/test_sparsity_monitor.py"],
    "callbacks/base/update_schedule": [
        "tests/callbacks/base/test_update_schedule.py",
        "tests/callbacks/test_bad_arguments.py",
        "tests/callbacks/test_conditions.py",
        "tests/callbacks/test_pruning.py",
        "tests/callbacks/test_together.py",
    ],
    "callbacks/base/weight_view": [
        "tests/callbacks/base/test_weight_view.py",
        "tests/callbacks/test_dynamic.py",
        "tests/callbacks/test_pruning.py",
    ],
    "callbacks/base/optimizer_slots": [
        "tests/callbacks/base/test_optimizer_slots.py",
        "tests/callbacks/test_dynamic.py",
    ],
}

# Operators that need arguments.
_SKIPPED = {"core/VariableReplacer", "core/VariableInserter"}
# A comparison of values by identity: Python's small numbers and interned strings make it a matter of luck.
_IDENTITY = re.compile("(Eq|Lt|LtE|Gt|GtE)_Is(Not)?$")
# Memory that a fork may take beyond its parent's, in bytes: an edit may ask for an array of any size.
_MEMORY = 8 << 30

# Exit status of a fork in which this program itself failed.
_BROKEN = 99

Mutant = collections.namedtuple("Mutant", "line operator old new source")


def places(source):
    """Every one-token edit of a module: for each place in the file, a list of (line, operator's name, occurrence)."""
    nodes, spared = list(ast_nodes(get_ast(source))), _spared(source)
    found = collections.defaultdict(list)
    for name in sorted(operator_names()):
        if name in _SKIPPED or _IDENTITY.search(name):
            continue
        operator = get_operator(name)()
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(starts):
            if not any(first <= start < last for first, last in spared):
                found[start].append((start[0], name, occurrence))
    return [found[start] for start in sorted(found)]


def _spared(source):
    """Spans of source that no test of behaviour on one backend can or should pin.

    Raised messages, annotations, `__repr__`, the `strict` of `zip`, and comparisons with a backend's name.
    """
    spared = []
    for node in ast.walk(ast.parse(source)):
        names = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        backend = isinstance(node, ast.Compare) and {"tensorflow", "jax", "torch"} & set(map(str, names))
        named = getattr(node, "name", None) == "__repr__" or getattr(node, "arg", None) == "strict"
        if isinstance(node, ast.Raise) or named or backend:
            spared.append(node)
        spared += [getattr(node, field, None) for field in ("annotation", "returns")]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in spared if n]


def sample(source, cases, seed):
    """`cases` edits of a module (0: all), one of every place in random order before a second of any."""
    rng, found = random.Random(seed), places(source)
    shuffled = [rng.sample(place, len(place)) for place in rng.sample(found, len(found))]
    turns = range(max(map(len, shuffled), default=0))
    drawn = [place[turn] for turn in turns for place in shuffled if turn < len(place)]
    # Each of the lines that imports run costs an import of the package: they come last.
    drawn.sort(key=lambda edit: run_by_import(source, edit[0]))
    valid = (mutant for mutant in (_mutant(source, *edit) for edit in drawn) if _is_python(mutant.source))
    return list(itertools.islice(valid, cases or None))


def _is_python(source):
    try:
        return bool(compile(source, "", "exec"))
    except SyntaxError:
        return False


def _mutant(source, line, operator, occurrence):
    edited = mutate_code(source, get_operator(operator)(), occurrence)
    before, after = source.splitlines(), edited.splitlines()
    changed = [pair for pair in itertools.zip_longest(before, after, fillvalue="") if pair[0] != pair[1]]
    if len(before) != len(after):  # A decorator is gone.
        changed = [(before[line - 1], "")]
    old, new = (" ".join(" ".join(lines).split()) for lines in zip(*changed, strict=True))
    return Mutant(line, operator.removeprefix("core/"), old, new, edited)


def equivalents():
    """The edits of `mutants_equivalent.md`: a set of (module, line before, line after or "*" for every edit)."""
    return set(re.findall(r"^- `([^`]+)`: `([^`]+)` -> `([^`]+)`: \S", EQUIVALENTS.read_text("utf-8"), re.MULTILINE))


class Recorder:
    """pytest plugin: the lines of the package that each test runs, and how long the test takes."""

    def __init__(self, paths):
        self.paths = set(map(str, paths))
        self.record = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        lines = set()

        def local(frame, event, _):
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return local

        def trace(frame, event, _):
            return local if frame.f_code.co_filename in self.paths else None

        start = time.process_time()
        threading.settrace(trace)
        sys.settrace(trace)
        yield
        sys.settrace(None)
        threading.settrace(None)
        self.record[item.nodeid] = lines, time.process_time() - start


class Forks:
    """pytest plugin: in place of running the collected tests, forks for each edit and runs the edit's tests there.

    Args:
        path: The module that is edited.
        source: Its source.
        edits: List of (edited source, names of tests in the order in which to run them, limit in seconds).
        imported: Whether the imported module is the edited one already.
        report: Called with (index of an edit, its status), 0 if no test failed.
    """

    def __init__(self, path, source, edits, imported, report):
        self.path, self.source, self.edits = str(path), source, edits
        self.imported, self.report = imported, report
        self.record = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        functions = collections.defaultdict(list)
        for thing in gc.get_objects():
            if isinstance(thing, types.FunctionType) and thing.__code__.co_filename == self.path:
                functions[thing.__code__].append(thing)
        for edited, names, limit in self.edits:
            tests = [items[name] for name in names]
            self.record.append(forked(limit, self._run, session, functions, edited, tests))
            if self.record[-1] == _BROKEN:
                pytest.exit("an edit could not be run", _BROKEN)
            self.report(len(self.record) - 1, self.record[-1])
        return True

    def _run(self, session, functions, edited, tests):
        if not self.imported:
            before, after = (_by_place(_code(source, self.path)) for source in (self.source, edited))
            # An edit can take a comprehension away, in which case fewer are left.
            for place in before.keys() & after.keys():
                for function in functions[before[place]]:
                    function.__code__ = after[place]
        for item, following in itertools.zip_longest(tests, tests[1:]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return 1
        return 0


def _code(source, path):
    """Every code object of a source, outer ones first. Sets what `inspect.getsource` (TensorFlow's autograph) reads."""
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    found = [compile(source, path, "exec")]
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def _by_place(codes):
    """Code objects by (name, line, how many of that name and line came before)."""
    found, counts = {}, collections.Counter()
    for code in codes:
        place = code.co_name, code.co_firstlineno
        found[place, counts[place]] = code
        counts[place] += 1
    return found


def forked(limit, function, *arguments):
    """Exit status of a fork that returns `function(*arguments)`, or minus the signal that ended the fork."""
    child = os.fork()
    if not child:
        status = _BROKEN
        try:
            # Of the processor's time, so that a busy machine does not count; and a limit for who waits for ever.
            signal.setitimer(signal.ITIMER_PROF, limit)
            signal.alarm(60 * limit)
            used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
            status = function(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_pytest(tests, plugin, path=None, source=None, limit=3600):
    """Runs pytest in a fork, where the module at `path` is imported from `source`.

    Returns:
        Tuple: pytest's exit status, the `record` of the plugin and the text that was printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, record = pathlib.Path(folder, "output"), pathlib.Path(folder, "record")
        status = forked(limit, _run_pytest, tests, plugin, path, source, output, record)
        recorded = pickle.loads(record.read_bytes()) if record.exists() else None
        return status, recorded, output.read_text("utf-8", "replace")


def _run_pytest(tests, plugin, path, source, output, record):
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self, name):
        return _code(source, self.path)[0] if self.path == str(path) else original(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code
    # A failure is all that counts: it need not be made small, and no file remembers it.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    checks = list(hypothesis.HealthCheck)
    profile = {"phases": phases, "suppress_health_check": checks, "deadline": None, "derandomize": True}
    hypothesis.settings.register_profile("mutants", database=None, **profile)
    hypothesis.settings.load_profile("mutants")
    arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore"]
    status = int(pytest.main([*arguments, *tests], plugins=[plugin]))
    record.write_bytes(pickle.dumps(plugin.record))
    return status


@functools.cache
def record(test):
    """Runs a test file without any edit. Returns a dict from test to (its lines of every module, seconds)."""
    status, recorded, output = run_pytest([test], Recorder(map(path_of, MODULES)))
    if status:
        raise SystemExit(f"{test} must pass without any edit (status {status})\n{output[-3000:]}")
    return recorded


def path_of(module):
    return ROOT / "sparsity_tf" / f"{module}.py"


def run_by_import(source, line):
    """Whether a line is outside of every function's body."""
    return not any(first <= line <= last for first, last in _bodies(source))


@functools.cache
def _bodies(source):
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [(function.body[0].lineno, function.end_lineno) for function in functions]


@functools.cache
def _statements(source):
    """First and last line of every statement, of those that hold others up to the first of these; inner ones first."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    inner = [getattr(node, "body", [None])[0] for node in statements]
    spans = [(n.lineno, i.lineno - 1 if i else n.end_lineno) for n, i in zip(statements, inner, strict=True)]
    return sorted(spans, key=lambda span: span[1] - span[0])


def lines_of(source, line):
    """The lines of the statement that a line is part of: the interpreter names only some of them."""
    found = (set(range(first, last + 1)) for first, last in _statements(source) if first <= line <= last)
    return next(found, {line})


def covering(module, source, line, everywhere, patience):
    """The tests that run a line (`everywhere`: all) and their seconds; one case of every test function comes first."""
    recorded = {name: entry for test in MODULES[module] for name, entry in record(test).items()}
    own = {(str(path_of(module)), own) for own in lines_of(source, line)}
    seconds, cases, turns = {}, collections.Counter(), {}
    for name, (lines, took) in sorted(recorded.items(), key=lambda entry: entry[1][1]):
        if everywhere or own & lines:
            function = name.split("[")[0]
            turns[name], seconds[name] = cases[function], took
            cases[function] += 1
    chosen, total = [], 0
    for name in sorted(turns, key=turns.get):
        if chosen and total + seconds[name] > patience:
            break
        chosen.append(name)
        total += seconds[name]
    return chosen, total


def run_edits(module, mutants, patience):
    """Runs edits of one module and prints those that no test noticed. Returns the number of the others."""
    path, files, out = path_of(module), MODULES[module], os.dup(1)
    source = path.read_text("utf-8")

    def edit_of(mutant):
        """What `Forks` takes, and whether imports run the line."""
        everywhere = run_by_import(source, mutant.line)
        tests, seconds = covering(module, source, mutant.line, everywhere, patience)
        return (mutant.source, tests, int(5 * seconds) + 20), everywhere

    def statuses(mutants, edits, imported):
        def report(index, status):
            mutant, (_, tests, _) = mutants[index], edits[index]
            if not status and mutant is not control:
                line = f"- `{module}`: `{mutant.old}` -> `{mutant.new}`: line {mutant.line}, {len(tests)} tests\n"
                os.write(out, line.encode())

        edited = (path, edits[0][0]) if imported else ()
        status, found, output = run_pytest(files, Forks(path, source, edits, imported, report), *edited)
        if status == _BROKEN or found is None and not imported:
            raise SystemExit(f"{module}: the edits could not be run\n{output[-3000:]}")
        return found or [status]

    # The module as it is, by either way, must pass: else every edit would seem to be noticed.
    control = Mutant(1, "none", "", "", source)
    edit, _ = edit_of(control)
    inside, found = [(control, edit)], []
    if statuses([control], [edit], True) != [0]:
        raise SystemExit(f"{module}: the tests must pass in a fork that no edit has been made in")
    for mutant in mutants:
        edit, everywhere = edit_of(mutant)
        if everywhere:
            found += statuses([mutant], [edit], True)
        else:
            inside.append((mutant, edit))
    unedited, *others = statuses(*map(list, zip(*inside, strict=True)), False)
    if unedited:
        raise SystemExit(f"{module}: the tests must pass with functions that got their own code")
    return sum(status != 0 for status in found + others)


def campaign(module, cases, seed, patience):
    """Runs the edits of one module. Returns the numbers of noticed, run and listed edits."""
    known = equivalents()
    drawn = sample(path_of(module).read_text("utf-8"), cases, seed)
    run = [mutant for mutant in drawn if not {(module, mutant.old, new) for new in (mutant.new, "*")} & known]
    return run_edits(module, run, patience), len(run), len(drawn) - len(run)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []], metavar="module", help="names in `MODULES`")
    parser.add_argument("--all", action="store_true", help="every module")
    parser.add_argument("--cases", type=int, default=50, help="edits a module; 0: all")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--floor", type=float, default=90, help="least percent of edits to be noticed in a module")
    parser.add_argument(
        "--patience", type=float, default=20, help="processor seconds of tests that an edit has to survive"
    )
    settings = parser.parse_args(argv)
    os.chdir(ROOT)
    failed = False
    for module in MODULES if settings.all else settings.modules:
        start = time.perf_counter()
        noticed, run, listed = campaign(module, settings.cases, settings.seed, settings.patience)
        failed |= 100 * noticed < settings.floor * run
        print(
            f"{module}: {noticed} of {run} edits noticed ({100 * noticed / max(run, 1):.0f} %), {listed} listed as "
            f"equivalent, seed {settings.seed}, {keras.backend.backend()}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
