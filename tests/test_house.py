"""Rules of the house that can be checked by reading the sources: nothing of the package is imported here.

Every exception is listed with its reason, and a list that is longer than it need be fails, too: whoever mends an
exception takes it off the list.
"""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sparsity_tf"


@functools.cache
def modules():
    """Dict name of a module -> its file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@functools.cache
def tree(module):
    return ast.parse(modules()[module].read_text())


def room(module):
    """The part of the package that a module belongs to: `layers` of `sparsity_tf.layers.l0`; "" of the package."""
    return ".".join(module.split(".")[1:2])


# Rule 1: nothing outside `backend/` asks which backend runs or names what is private in Keras.

OUTSIDE_BACKEND = [module for module in modules() if room(module) != "backend"]
# What only TensorFlow has: its readers and data sets, `tf.distribute`, TensorBoard. Such modules import TensorFlow (in
# functions, or are imported there), and are asked for nothing of it on other backends.
USES_TENSORFLOW = {
    "sparsity_tf.callbacks.sparsity_monitor": "summaries for TensorBoard",
    "sparsity_tf.checkpoints.tensorflow_files": "checkpoints of TensorFlow",
    "sparsity_tf.datasets.batches": "tf.data",
    "sparsity_tf.datasets.images.file_batches": "tf.data",
    "sparsity_tf.datasets.images.imagenet": "tf.data",
    "sparsity_tf.datasets.images.imagenet_crops": "tf.data",
    "sparsity_tf.datasets.numbered": "tf.data",
    "sparsity_tf.datasets.images.image_data": "TFDS",
    "sparsity_tf.datasets.text.parallel_corpus": "TFDS",
    "sparsity_tf.deploy.export": "files that TensorFlow writes",
    "sparsity_tf.deploy.litert": "LiteRT's converter",
    "sparsity_tf.deploy.runtimes": "files that TensorFlow runs",
    "sparsity_tf.ops.hashed_noise": "the random numbers of TensorFlow",
    "sparsity_tf.train.classifier.evaluation": "tf.distribute",
    "sparsity_tf.train.log": "summaries for TensorBoard",
    "sparsity_tf.train.strategy": "tf.distribute",
}
# Public methods of `collections.namedtuple`, whatever they look like.
PUBLIC_UNDERSCORES = {"_asdict", "_fields", "_make", "_replace"}


@functools.cache
def imported(module):
    """The full names that a module imports: of the modules, and of what it takes from them; a list."""
    names = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_optional":
            names += [name.value for name in node.args[:1] if isinstance(name, ast.Constant)]
    return names


def backend_questions(module):
    """What in a module depends on the backend: `keras.backend.backend()`, and imports of JAX and torch."""
    found = [name for name in imported(module) if name.partition(".")[0] in ("jax", "torch")]
    found += [name for name in imported(module) if name in ("keras.backend.backend", "keras.config.backend")]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and node.attr == "backend":
            # `keras.backend.backend`; but `keras.backend.standardize_dtype` asks nothing.
            if ast.unparse(node.value) in ("keras.backend", "keras.config", "backend", "config"):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Constant) and node.value == "KERAS_BACKEND":
            found.append(f"line {node.lineno}: the environment variable {node.value}")
    return found


# Module -> why it may.
ASKS = {
    "sparsity_tf.deploy.export": "`torch.export`, of files for torch",
    "sparsity_tf.extras": "a missing backend is said before Keras can be imported",
}


def test_nothing_outside_backend_asks_which_backend_runs():
    assert {module for module in OUTSIDE_BACKEND if backend_questions(module)} == set(ASKS)


def test_tensorflow_is_named_only_by_modules_for_what_tensorflow_alone_has():
    users = {m for m in OUTSIDE_BACKEND if any(name.partition(".")[0] == "tensorflow" for name in imported(m))}
    assert users == set(USES_TENSORFLOW)


# Functions whose second argument is the name of an attribute.
ATTRIBUTES = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_UNDERSCORES


def own_names(module):
    """The names that a module defines: functions, classes, variables, and the attributes of `self` that it sets."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


@functools.cache
def names_of_room(name):
    return {own for module in modules() if room(module) == name for own in own_names(module)}


def private_names(module):
    """The private attributes that a module names: list of (line, object, attribute)."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.lineno, ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ATTRIBUTES:
            holder, name = node.args[:2]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield node.lineno, ast.unparse(holder), name.value
            elif isinstance(name, ast.JoinedStr) and ast.unparse(name)[2:].startswith("_"):
                yield node.lineno, ast.unparse(holder), ast.unparse(name)


def foreign_names(module):
    """Private names that no file of the module's room defines: they belong to objects of others, such as Keras's."""
    for line, holder, name in private_names(module):
        if name not in names_of_room(room(module)):
            yield f"line {line}: {holder}.{name}"


def test_nothing_outside_backend_names_what_is_private_in_keras():
    found = {module: list(foreign_names(module)) for module in OUTSIDE_BACKEND}
    for module in OUTSIDE_BACKEND:
        found[module] += [name for name in imported(module) if name.startswith("keras.src")]
        found[module] += [
            node.value
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Constant) and str(node.value).startswith("keras.src")
        ]
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code,count",
    [
        ("layer._tracker.unlock()", 1),
        ("self._tracker.unlock()", 1),
        ("getattr(model, '_functional', None)", 1),
        ("getattr(layer, f'_{name}')", 1),
        ("layer._call_signature = 1", 1),
        ("class A:\n def _mine(self): self._size = self._mine(); other._size = grown._replace(a=1)", 0),
    ],
)
def test_the_check_of_private_names_finds_them(code, count, monkeypatch):
    monkeypatch.setitem(globals(), "tree", lambda module: ast.parse(code))
    monkeypatch.setitem(globals(), "names_of_room", lambda room: {"_mine", "_size"})
    assert len(list(foreign_names(PACKAGE))) == count


# Imports run downwards, without circles.

# From the ground up; a room imports from floors below its own, wherever in the file the import stands. (Rooms on one
# floor don't know each other.)
FLOORS = [
    ["atomic_files", "backend", "bounded_files", "call_repr", "checks", "extras", "help_text", "type_names"],
    ["quiet_programs", "text_table", "user_warning"],
    ["ops", "schedule_base"],
    ["masks", "schedules"],
    ["distributions"],
    ["layers"],
    ["initializers", "matching", "regularizers"],
    ["sparsify_report"],
    ["sparsify"],
    ["models"],
    ["decoding", "inspection"],
    ["to_dense"],
    ["deploy"],
    ["callbacks"],
    ["one_shot"],
    ["prune_report"],
    ["prune", "refresh_statistics"],
    ["checkpoints", "datasets"],
    ["load_masks"],
    [""],  # the package itself: `import sparsity_tf`
    ["train"],
    ["study"],
    ["tools"],
]
# Other spellings of commands: `python -m sparsity_tf.train.bleu` is `python -m sparsity_tf.tools.bleu`.
ALIASES = {
    "sparsity_tf.checkpoint_sparsity",
    *(f"sparsity_tf.train.{n}" for n in ("bleu", "budget", "convert", "evaluate", "import_checkpoint", "summarize")),
    "sparsity_tf.train.translate",
}
# Modules of `tools` that are no commands.
SHARED_BY_COMMANDS = {"sparsity_tf.tools", "sparsity_tf.tools.command", "sparsity_tf.tools.translation"}
COMMANDS = {
    module
    for module in modules()
    if module in ALIASES or module.endswith(".__main__") or room(module) == "tools" and module not in SHARED_BY_COMMANDS
}
# Module -> (the modules that it may import although they stand above it, the reason).
UPWARDS = {
    "sparsity_tf": (
        {"sparsity_tf.study"},
        "for editors only; `import sparsity_tf` imports it when it is first used",
    ),
    "sparsity_tf.sparsify": (
        {"sparsity_tf.deploy.channel_families"},
        "which layers a channel ties is known from the graph, which `deploy` reads",
    ),
}
# Command -> the modules that import it although it is a command.
IMPORTED_COMMANDS = {
    "sparsity_tf.tools.convert": {"sparsity_tf.tools.import_checkpoint"},
}


def floor(module):
    top = module in COMMANDS
    return len(FLOORS) - 1 if top else next(n for n, rooms in enumerate(FLOORS) if room(module) in rooms)


def modules_imported(module, lazily=True):
    """The modules of the package that a module imports; without `lazily` those that it needs to be imported itself."""

    def imports_in(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child
            elif lazily or not isinstance(child, ast.FunctionDef | ast.Lambda):
                yield from imports_in(child)

    for node in imports_in(tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in names]
        yield from (name for name in names if name.partition(".")[0] == PACKAGE)


def test_every_room_has_a_floor():
    rooms = {room(module) for module in modules() if module not in ALIASES}
    assert sorted(name for rooms in FLOORS for name in rooms) == sorted(rooms)


def test_imports_run_downwards_between_rooms():
    upwards = {}
    for module in modules():
        above = {
            other
            for other in modules_imported(module)
            if floor(other) >= floor(module) and room(other) != room(module) and module not in COMMANDS
        }
        if above:
            upwards[module] = above
    assert upwards == {module: above for module, (above, _) in UPWARDS.items()}


def test_no_circle_of_imports():
    graph = {module: set(modules_imported(module, lazily=False)) for module in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # raises `CycleError` with the circle


def test_a_command_is_imported_by_no_module():
    importers = {command: set() for command in COMMANDS - ALIASES}
    for module in modules():
        for other in modules_imported(module):
            if other in importers and module not in ALIASES:
                importers[other].add(module)
    assert {command: found for command, found in importers.items() if found} == IMPORTED_COMMANDS


# Rule 2: models never mention sparsity.

SPARSITY = {"sparsify", "technique", "technique_options", "where"}
OF_SPARSITY = {"callbacks", "distributions", "layers", "masks", "sparsify"}
TECHNIQUE_ARGUMENT = "the builder takes `technique` and hands it to `sparsify`"
MODELS_WITH_SPARSITY = {
    "_building": TECHNIQUE_ARGUMENT,
    "alexnet": TECHNIQUE_ARGUMENT,
    "char_rnn": TECHNIQUE_ARGUMENT,
    "cifar_resnet": TECHNIQUE_ARGUMENT,
    "fast_grnn": "the recurrent layer, which Keras does not have; and the builder takes `technique`",
    "i1k_resnet": TECHNIQUE_ARGUMENT,
    "lenet": TECHNIQUE_ARGUMENT,
    "mlp": TECHNIQUE_ARGUMENT,
    "mobilenet": TECHNIQUE_ARGUMENT,
    "resnets": TECHNIQUE_ARGUMENT,
    "spatial_blocks": "its spatial masks are layers of activations, not of weights",
    "text_lstm": TECHNIQUE_ARGUMENT,
    "transformer": TECHNIQUE_ARGUMENT,
    "vgg": TECHNIQUE_ARGUMENT,
    "wide_resnets": TECHNIQUE_ARGUMENT,
}


def mentions_sparsity(module):
    names = {node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(tree(module)) if isinstance(node, ast.arg | ast.keyword)}
    return bool(names & SPARSITY) or any(room(other) in OF_SPARSITY for other in modules_imported(module))


def test_models_never_mention_sparsity():
    of_models = [module for module in modules() if room(module) == "models"]
    assert {module.rpartition(".")[2] for module in of_models if mentions_sparsity(module)} == set(MODELS_WITH_SPARSITY)


# Rule 4: a program is a task; only the trainer trains.


def fits(module):
    """Lines of a module that call a method `fit`, or a method of Keras models that trains a batch."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("fit", "train_on_batch"):
                yield f"line {node.lineno}: {ast.unparse(node.func)}"


def test_only_the_trainer_calls_fit():
    assert {module for module in modules() if list(fits(module))} == {f"{PACKAGE}.train.trainer"}


PROGRAMS = ("classifier", "language_model", "text_classifier", "translator")


def test_what_programs_share_knows_no_program():
    """A program imports the trainer; neither the trainer nor another program imports it, but for a recipe's fields."""
    programs = {name: f"{PACKAGE}.train.{name}" for name in PROGRAMS}
    for module in modules():
        if room(module) != "train":
            continue
        own = next((program for program in programs.values() if module.startswith(program)), None)
        for other in modules_imported(module):
            of = next((program for program in programs.values() if other.startswith(program)), None)
            assert of in (None, own) or other == f"{programs['classifier']}.recipe", f"{module} imports {other}"


# Files that can be read in one sitting.

LINES = 450
# The list of all layers: every technique adds a dozen lines.
LONGER = {"sparsity_tf.layers": 460}


def test_no_file_is_long():
    lengths = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    assert {module for module, length in lengths.items() if length > LINES} == set(LONGER)
    assert {module for module, length in lengths.items() if length > LONGER.get(module, LINES)} == set()
