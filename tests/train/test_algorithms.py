"""Every algorithm that moves masks trains from flags, each flag reaches it, and a stopped run continues to the bit."""

import json
import shutil

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks, layers, schedules
from sparsity_tf.train import log, run_folder, setting_texts
from sparsity_tf.train import sparsity_settings as algorithms
from sparsity_tf.train.classifier import pictures, presets
from tests.train.runs import classify, recipe_of, weights_of, write_digits

pytestmark = pytest.mark.tensorflow

# Other names of techniques.
ALIASES = {"gmp", "snfs", "vd", "l0", "str", "dnw", "srste", "topkast", "powerprop", "movement_pruning", "hashednet"}
ALIASES |= {"soft_movement_pruning"}
SGD = ("--optimizer=sgd", "--learning_rate=0.05")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda model, folder: [])


def command(digits, output_dir, technique, *more):
    """Flags of a short run: eight steps an epoch, in as many calls, which takes the least time to trace."""
    return [
        "--config=lenet300_dense",
        f"--technique={technique}",
        f"--data_dir={digits}",
        f"--output_dir={output_dir}",
        "--batch_size=8",
        "--epochs=3",
        "--jit_compile=false",
        "--steps_per_execution=1",
        *SGD,
        *more,
    ]


def make(*flags, steps=8, folder=None):
    batch = np.zeros((4, 28, 28, 1), np.float32), np.arange(4, dtype=np.int32)
    return algorithms.make(recipe_of("--config=lenet300_dense", *flags), steps, lambda: batch, folder)


def test_every_algorithm_of_the_package_is_a_technique():
    exported = {value for value in vars(callbacks).values() if isinstance(value, type)}
    moving = {value for value in exported if issubclass(value, callbacks.MaskAlgorithm)}
    assert {row.callback for row in algorithms.ALGORITHMS.values()} == moving - {
        callbacks.MaskAlgorithm,
        callbacks.DropAndGrow,
    }
    assert not set(algorithms.ALGORITHMS) & set(layers.TECHNIQUES)


def settings_of_a_short_run(technique):
    """The flags without which a technique does not train, or changes no mask, in sixteen steps."""
    taken = algorithms.settings_of(technique)
    values = {"final_sparsity": 0.5, "frequency": 2, "rounds": 1}
    if technique == "narang":
        values.update(begin_step=1, end_step=15)
    if technique == "slimming":
        return ["--model=mnist_mlp", "--final_sparsity=0.5"]
    return [f"--{name}={value}" for name, value in values.items() if name in taken]


# One of each family: no technique, a mask, gradients that are needed, a redistribution, several rounds, a noise, gates,
# a threshold and scores. `make test-all` has them all.
FAMILIES = {"none", "magnitude", "rigl", "sparse_momentum", "lottery", "log_normal_dropout", "hard_concrete"}
FAMILIES |= {"soft_threshold", "discovering_wirings"}


def every_technique():
    names = sorted({*algorithms.ALGORITHMS, *layers.TECHNIQUES, "none"} - ALIASES)
    return [pytest.param(name, marks=[] if name in FAMILIES else [pytest.mark.slow]) for name in names]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("technique", every_technique())
def test_diverged_run_is_called_so_under_every_technique(technique, digits, tmp_path, capsys):
    """Also where an algorithm stumbles over weights that are not finite, in the middle of an epoch."""
    rate = ("--learning_rate=1e30", "--lr_schedule=constant", "--momentum=0.9", "--epochs=2")
    arguments = command(digits, tmp_path / "run", technique, *rate, *settings_of_a_short_run(technique))
    status, lines, error = classify(arguments, capsys)
    assert status == 1, error
    assert lines[-1].startswith("diverged: ") and lines[-1].endswith("no sparsity is reported")
    assert not (tmp_path / "run" / run_folder.MODEL).exists()
    assert json.loads((tmp_path / "run" / run_folder.RESULTS).read_text())["collapsed"] == lines[-1]


def test_fault_of_a_sound_run_is_not_taken_for_divergence(digits, tmp_path, capsys, monkeypatch):
    def fail(self, step):
        raise ValueError("a fault")

    monkeypatch.setattr(callbacks.RigL, "change_masks", fail)
    arguments = command(digits, tmp_path / "run", "rigl", "--epochs=1", *settings_of_a_short_run("rigl"))
    status, _, error = classify(arguments, capsys)
    assert status == 2 and "a fault" in error


@pytest.mark.parametrize(("alias", "name"), [("gmp", "magnitude"), ("snfs", "sparse_momentum")])
def test_aliases(alias, name):
    assert algorithms.ALGORITHMS[alias] is algorithms.ALGORITHMS[name]


# (technique, flags beside its final_sparsity, what the callback's attributes are then)
FLAGS = [
    ("magnitude", ["--initial_sparsity=0.25"], {"initial_sparsity": 0.25, "final_sparsity": 0.5}),
    ("gmp", ["--begin_step=2", "--end_step=9"], {"begin_step": 2, "end_step": 9}),
    ("magnitude", ["--frequency=3"], {"frequency": 3}),
    ("magnitude", ["--frequency=epoch"], {"frequency": "epoch"}),
    ("magnitude", ["--scope=global"], {"scope": "global"}),
    ("magnitude", ["--structure=4x1"], {"structure": "4x1"}),
    ("magnitude", ["--distribution=erk", "--dense=last"], {"distribution": "erk", "dense": "last"}),
    ("magnitude", ['--technique_options={"schedule": "linear"}'], {"schedule": "linear"}),
    ("random", ['--technique_options={"cumulative": false}'], {"cumulative": False}),
    ("random", ["--seed=7"], {"seed": 7}),
    ("dsr", ["--structure=2x1"], {"structure": "2x1"}),
    ("deepr", ['--technique_options={"l1": 0.01}'], {"l1": 0.01, "frequency": 1}),
    ("static", ["--structure=filter"], {"structure": "filter", "target_sparsity": 0.5}),
    ("set", ["--dense=dense_3,dense_[2]"], {"dense": ["dense_3", "dense_[2]"], "frequency": "epoch"}),
    ("set", ["--drop_fraction=0.25", "--decay=linear"], {"drop_fraction": 0.25, "decay": "linear"}),
    ("rigl", ["--grow=random", "--drop=SET"], {"grow": callbacks.criteria.random}),
    ("rigl", ["--drop=SET"], {"drop": callbacks.criteria.signed_magnitude}),
    ("snfs", ["--drop=threshold"], {"by_threshold": True}),
    ("sparse_momentum", ["--redistribution=nonzero"], {"redistribution": callbacks.criteria.nonzeros}),
    ("sparse_momentum", ["--distribution=constant"], {"distribution": "constant"}),
    ("dsr", ["--prune_target=600"], {"prune_target": 600}),
    ("dsr", ["--frequency=0:100,2.5:200"], {"frequency": schedules.Piecewise((20,), (100, 200))}),
    ("dsr", ["--redistribution=within_param"], {}),
    ("dsr", ['--technique_options={"variant": "model", "power": 2}'], {"variant": "model", "power": 2}),
    ("snip", ["--scope=layer"], {"scope": "layer"}),
    ("grasp", ['--technique_options={"temperature": 200}'], {"temperature": 200}),
    ("lottery", ["--rounds=2", "--epochs=4"], {"rounds": 2, "rewind_step": 0, "total_steps": 96}),
    ("lottery", ["--rounds=2", "--epochs=4", "--rewind_step=8"], {"steps_per_round": 32, "total_steps": 80}),
]


@pytest.mark.parametrize(("technique", "flags", "expected"), FLAGS)
def test_flags_reach_the_callback(technique, flags, expected):
    algorithm = make(f"--technique={technique}", "--final_sparsity=0.5", *flags)
    assert type(algorithm) is algorithms.ALGORITHMS[technique].callback
    for name, value in expected.items():
        assert getattr(algorithm, name) == value, name


def test_every_setting_is_tried_and_has_a_flag():
    tried = {flag.split("=")[0][2:] for _, flags, _ in FLAGS for flag in flags}
    assert set(algorithms.SETTINGS) - tried == {"final_sparsity", "load_masks", "reinitialize"}


def test_distribution_may_be_a_number_for_each_layer():
    assert setting_texts.parse_distribution("erk") == "erk"
    assert setting_texts.parse_distribution("dense_1=0.9,dense_[23]=0.5") == {"dense_1": 0.9, "dense_[23]": 0.5}
    with pytest.raises(ValueError, match="`distribution` must be a name.*distribution=dense_1=much"):
        setting_texts.parse_distribution("dense_1=much")


def test_setting_that_is_not_given_is_the_callbacks_default():
    algorithm = make("--technique=rigl")
    assert (algorithm.target_sparsity, algorithm.frequency, algorithm.distribution) == (0.9, 100, "erk")


@pytest.mark.parametrize("flag", ["--density=0.02", "--final_sparsity=0.98", "--sparsity=0.98"])
def test_sparsity_can_be_said_as_density(flag):
    assert recipe_of("--config=lenet300_rigl", flag).final_sparsity == 0.98


def test_density_and_sparsity_exclude_each_other():
    with pytest.raises(ValueError, match="`density` and `final_sparsity` exclude.*density=0.1, final_sparsity=0.9"):
        recipe_of("--config=lenet300_rigl", "--density=0.1", "--final_sparsity=0.9")
    with pytest.raises(ValueError, match="`density` must be .*density=0.0"):
        recipe_of("--config=lenet300_rigl", "--density=0")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--technique=none", "--final_sparsity=0.5"], "`final_sparsity` is not used by technique none"),
        (["--technique=vd", "--density=0.5"], "`final_sparsity` is not used by technique vd"),
        (["--technique=static", "--drop_fraction=0.5"], "`drop_fraction` is not used by technique static.*=0.5"),
        (["--technique=snip", "--frequency=7"], "`frequency` is not used by technique snip.*frequency=7"),
        (["--technique=rigl", "--structure=2:4"], "`structure` is not used by technique rigl"),
        (["--technique=rigl", "--load_masks=x"], "`load_masks` is not used by technique rigl"),
        (["--technique=masked", "--rounds=2"], "`rounds` is not used by technique masked"),
        (["--technique=random", "--scope=global"], "`scope` is not used by technique random"),
        (["--technique=rigl", "--frequency=0"], "`frequency` must be .* such as 0:100,25:200. Received: frequency=0"),
        (["--technique=rigl", "--frequency=step"], "frequency=step"),
        (["--technique=dsr", "--frequency=5:100"], "frequency=5:100"),
        (["--technique=dsr", "--frequency=0:100,2:50,1:7"], "frequency=0:100,2:50,1:7"),
        (["--technique=dsr", "--frequency=0:100,1.2.3:7"], "frequency=0:100,1.2.3:7"),
        (["--technique=rigl", "--drop_fraction=1.5"], "`drop_fraction` must be .* at most 1. .*drop_fraction=1.5"),
        (["--technique=gmp", "--begin_step=-1"], "`begin_step` must be .* at least 0. .*begin_step=-1"),
        (["--technique=gmp", "--scope=model"], "`scope` must be one of layer, global. .*scope=model"),
    ],
)
def test_setting_that_can_not_be_used_is_named(flags, message):
    with pytest.raises(ValueError, match=message):
        recipe_of("--config=lenet300_dense", *flags)


def test_setting_of_the_wrong_type_is_named():
    with pytest.raises(ValueError, match="`frequency` must be a string. Received: frequency=100"):
        presets.Recipe(technique="rigl", frequency=100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--technique=magnitude"], "`final_sparsity` must be .*final_sparsity=None"),
        (["--technique=rigl", "--death=x"], "`drop` must be one of .*drop='x'"),
        (["--technique=rigl", "--growth=x"], "`grow` must be one of .*grow='x'"),
        (["--technique=dsr", "--redistribution=x"], "`redistribution` must be one of .*redistribution='x'"),
        (["--technique=gmp", "--sparsity=0.5", "--structure=5y"], "`structure` must be .*structure='5y'"),
        (["--technique=lottery", "--sparsity=0.5"], "`rounds` must be given with technique lottery. .*rounds=None"),
        (
            ["--technique=lottery", "--sparsity=0.5", "--rounds=1", "--rewind_step=3"],
            "`rewind_step` must be a multiple of the 8 steps of an epoch. Received: rewind_step=3",
        ),
        (
            ["--technique=rigl", '--technique_options={"sparsity": 0.5}'],
            "`technique_options` of rigl may hold nothing .* Received: sparsity",
        ),
        (["--technique=dsr", '--technique_options={"powers": 2}'], "may hold initial_threshold, power, variant"),
    ],
)
def test_what_a_callback_refuses_is_said_in_the_words_of_the_flags(flags, message):
    with pytest.raises(ValueError, match=message) as error:
        make(*flags)
    assert "\n" not in str(error.value)


def test_another_technique_keeps_only_the_sparsity_of_the_preset():
    recipe = recipe_of("--config=lenet300_dsr", "--technique=rigl")
    assert recipe.final_sparsity == 0.98 and recipe.frequency is None and recipe.prune_target is None
    assert recipe_of("--config=lenet300_dsr", "--technique=none").final_sparsity is None
    assert recipe_of("--config=lenet300_sparse_momentum", "--technique=snfs", "--death=SET").final_sparsity == 0.95


def test_steps_of_a_call_divide_the_steps_at_which_masks_change():
    def grid(*flags, steps=600):
        recipe = recipe_of("--config=lenet300_dense", *flags)
        return algorithms.update_grid(recipe, make(*flags, steps=steps), steps)

    assert grid("--technique=none") == grid("--technique=set") == 600
    assert grid("--technique=rigl") == 100
    assert grid("--technique=rigl", "--frequency=45", "--begin_step=30") == 15
    assert grid("--technique=dsr", "--frequency=0:100,2:250") == 50
    assert grid("--technique=lottery", "--sparsity=0.5", "--rounds=2") == 600


# For each technique flags of a run.
RUNS = {
    "magnitude": ("--frequency=4", "--initial_sparsity=0.1", "--end_step=12", "--epochs=2"),
    "random": ("--frequency=4", "--structure=4x1", "--epochs=2"),
    "static": ("--distribution=erk", "--epochs=1"),
    "set": ("--death=magnitude", "--epochs=2"),
    "rigl": (
        "--steps_per_execution=4",
        "--frequency=4",
        "--drop_fraction=0.5",
        "--drop_fraction_decay=constant",
        "--epochs=2",
    ),
    "sparse_momentum": ("--frequency=4", "--distribution=constant", "--epochs=2"),
    "dsr": (
        "--frequency=0:4,1:8",
        "--prune_target=2000",
        "--model=mnist_mlp",
        "--epochs=2",
        '--technique_options={"power": 2}',
    ),
    "snip": ("--scope=global", "--epochs=1"),
    "grasp": ("--dense_layers=dense_3", "--epochs=1"),
    "lottery": ("--rounds=1", "--epochs=2", "--rewind_step=8"),
}


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """Finished runs by technique, made when asked for: (folder, lines of output).

    Beside the folder there is another, `killed`: what a kill before the last epoch would have left.
    """
    made = {}

    def run(technique, capsys):
        if technique not in made:
            folder = tmp_path_factory.mktemp(technique) / "through"
            with pytest.MonkeyPatch.context() as patch:
                copy_before_last_epoch(patch, folder)
                status, lines, error = classify(arguments(digits, folder, technique), capsys)
            assert status == 0, error or lines
            made[technique] = folder, lines
        return made[technique]

    return run


def copy_before_last_epoch(patch, folder):
    save = run_folder.Checkpoint.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch + 2 == self.params["epochs"]:
            shutil.copytree(folder, folder.with_name("killed"))

    patch.setattr(run_folder.Checkpoint, "on_epoch_end", on_epoch_end)


def arguments(digits, folder, technique, *more):
    return command(digits, folder, technique, "--final_sparsity=0.75", *RUNS[technique], *more)


OF_RUNS = ("magnitude", "rigl", "sparse_momentum", "dsr", "lottery")


@pytest.mark.parametrize(
    "technique", [pytest.param(name, marks=[] if name in OF_RUNS else [pytest.mark.slow]) for name in RUNS]
)
def test_every_algorithm_trains_to_its_sparsity(finished, capsys, technique):
    folder, _ = finished(technique, capsys)
    results = json.loads((folder / run_folder.RESULTS).read_text())
    wanted = {"grasp": 0.75 * 265_200 / 266_200}.get(technique, 0.75)
    # Weights that have just grown are zero yet.
    assert wanted - 0.005 < results["sparsity"] < wanted + 0.12
    model = keras.saving.load_model(folder / run_folder.MODEL)
    alive = sum(float(keras.ops.sum(weight.mask())) for weight in layers.get_sparse_weights(model))
    # Sparse momentum holds its budget by a correction term.
    assert 1 - alive / 266_200 == pytest.approx(wanted, abs=0.005 if technique == "sparse_momentum" else 0.0001)


@pytest.mark.parametrize("technique", ["sparse_momentum", "rigl", "dsr", "magnitude", "lottery"])
def test_resumed_run_ends_bit_identical(finished, digits, capsys, technique):
    through, through_lines = finished(technique, capsys)
    folder = through.with_name("killed")
    status, lines, _ = classify(arguments(digits, folder, technique, "--resume"), capsys)
    assert status == 0 and any(line.startswith("resuming after epoch") for line in lines)
    for a, b in zip(weights_of(folder), weights_of(through), strict=True):
        np.testing.assert_array_equal(a, b)
    assert lines[-1] == through_lines[-1]
    rows, through_rows = log.read_metrics(folder), log.read_metrics(through)
    for row in rows + through_rows:
        del row["seconds"]
    assert rows == through_rows
    if technique != "lottery":  # SparsityMonitor takes a step counter that went back for a run that began anew
        by_step = [(run / run_folder.SPARSITY_BY_STEP).read_text() for run in (folder, through)]
        assert by_step[0] == by_step[1]


def test_rounds_of_lottery_tickets_have_the_epochs_of_the_recipe(finished, capsys):
    folder, _ = finished("lottery", capsys)
    # Two epochs, the second of which is trained again after pruning.
    rows = log.read_metrics(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["8", "8", "16"]
    assert [float(row["sparsity"]) for row in rows] == pytest.approx([0.0, 0.75, 0.75], abs=0.001)
    assert (folder / run_folder.SNAPSHOT).exists()


def test_order_of_callbacks_does_not_matter(finished, digits, tmp_path, capsys, monkeypatch):
    in_order = weights_of(finished("rigl", capsys)[0])  # before `fit` is another
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model, "fit", lambda self, *a, callbacks, **k: fit(self, *a, callbacks=callbacks[::-1], **k)
    )
    folder = tmp_path / "reversed"
    assert classify(arguments(digits, folder, "rigl"), capsys)[0] == 0
    for a, b in zip(weights_of(folder), in_order, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensorboard_has_what_the_algorithm_did(finished, capsys):
    import tensorflow as tf

    folder, _ = finished("rigl", capsys)
    tags = set()
    for path in (folder / run_folder.TENSORBOARD).iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            values = [(value.tag, event.step) for value in event.summary.value]
            assert not tags & set(values)
            tags.update(values)
    for name in ("sparsity", "drop_fraction", "grown", "dropped", "mask_change"):
        assert (f"{name}/dense_1/kernel", 2) in tags


def test_fixed_masks_come_from_a_checkpoint(finished, digits, tmp_path, capsys):
    found = finished("lottery", capsys)[0] / run_folder.MODEL
    flags = (f"--load_masks={found}", "--reinitialize=per_unit", "--epochs=1")
    status, lines, error = classify(command(digits, tmp_path / "run", "masked", *flags), capsys)
    assert status == 0, error
    masks = [
        [
            keras.ops.convert_to_numpy(weight.mask())
            for weight in layers.get_sparse_weights(keras.models.load_model(path))
        ]
        for path in (found, tmp_path / "run" / run_folder.MODEL)
    ]
    for a, b in zip(*masks, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "sparsity 75.00 %" in lines[-1]


@pytest.mark.parametrize(
    ("technique", "flags", "message"),
    [
        ("sparse_momentum", ["--momentum=0"], "SparseMomentum reads the momentum that the optimizer keeps"),
        ("rigl", ["--dense_layers=fc9"], "`dense` must hold entries that match"),
        ("rigl", ["--distribution=even"], "`distribution` must be one of"),
        ("rigl", ["--distribution=/nowhere/budget.csv"], "/nowhere/budget.csv"),
        ("rigl", ["--frequency=0:2,1:4"], "`frequency` must be an integer or 'epoch'"),
        ("rigl", ["--distribution=a=b.csv"], "a=b.csv"),
        ("magnitude", ["--sparsity=0.9", "--begin_step=24", "--end_step=30"], "`begin_step` must come before the end"),
        ("magnitude", ["--sparsity=0.9", '--technique_options={"schedule": 3}'], "`schedule` must be"),
        ("rigl", ["--begin_step=90"], "`begin_step` must be smaller than the step of the last update"),
        ("magnitude", ["--sparsity=0.9", "--begin_step=9", "--end_step=9"], "`begin_step` must be smaller"),
        ("magnitude", ["--sparsity=0.9", "--structure=2:4"], "`final_sparsity` must be 0.5 with structure"),
        ("masked", ["--load_masks=/nowhere/model.keras"], "/nowhere/model.keras"),
        ("masked", ["--reinitialize=per_unit", "--kernel_initializer=normal:1"], "`initializer` must be"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_touched(digits, tmp_path, capsys, technique, flags, message):
    (tmp_path / run_folder.RESULTS).write_text("hours of work")
    status, _, error = classify(command(digits, tmp_path, technique, *flags, "--overwrite"), capsys)
    assert status == 2
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [run_folder.RESULTS]
