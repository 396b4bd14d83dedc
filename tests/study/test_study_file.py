"""Study files: the runs that they make, and errors that come all at once with their lines."""

import re

import pytest

from sparsity_tf import study
from sparsity_tf.study import programs
from sparsity_tf.study.plan import file_name

MANY = list(range(40))
WHOLE = """\
program = "classifier"
config = "lenet300_magnitude"
seeds = [0, 1]
metric = "val_error"

[settings]
validation_split = 0.1
epochs = 5
lr_boundaries = [2]
lr_factors = [0.1]

[axes]
final_sparsity = [0.8, 0.95]

[tune]
learning_rate = [0.1, 0.03, 0.01]

[[methods]]
technique = "magnitude"

[[methods]]
name = "RigL, slow"
technique = "rigl"
learning_rate = 0.1
without = ["learning_rate"]
tune.drop_fraction = [0.3, 0.5]

[[methods]]
config = "lenet300_vd"
without = ["final_sparsity", "learning_rate"]
axes.penalty_weight = [0.5, 1.0]
lr_boundaries = []
lr_factors = []
"""


def read(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return study.read_study(path)


def problems_of(folder, text):
    with pytest.raises(study.StudyFileError) as error:
        read(folder, text)
    assert str(error.value).split("\n") == error.value.problems
    return [problem.removeprefix(f"{folder / 'mine.toml'}:") for problem in error.value.problems]


def test_every_combination_is_a_run(tmp_path):
    found = read(tmp_path, WHOLE)
    assert (found.name, found.program, found.seeds, found.metric) == ("mine", "classifier", (0, 1), "val_error")
    counts = {method.name: sum(run.method is method for run in found.runs()) for method in found.methods}
    assert counts == {"magnitude": 2 * 3 * 2, "RigL, slow": 2 * 2 * 2, "lenet300_vd": 2 * 2}
    folders = [run.folder for run in found.runs()]
    assert len(set(folders)) == len(folders)
    assert folders[0] == "magnitude/final_sparsity=0.8,learning_rate=0.1/seed-0"
    assert folders[-1] == "lenet300_vd/penalty_weight=1.0/seed-1"
    part = found.only(["lenet300_vd"])
    assert [run.folder for run in part.runs()] == [run.folder for run in found.runs() if run.method is part.methods[0]]
    assert found.only(["lenet300_vd", "magnitude"]).runs()[0].folder == folders[0]
    # Names may hold commas.
    names = ", ".join(repr(method.name) for method in found.methods)
    for wrong in ([], ["vd"], ["RigL", ["vd"]]):
        with pytest.raises(ValueError, match=f"`methods` must be .*: {names}. Received: methods="):
            found.only(wrong)
    first = found.runs()[0]
    assert first.label == "magnitude, final_sparsity=0.8, learning_rate=0.1, seed 0"
    assert first.arguments[:3] == ("--config=lenet300_magnitude", "--validation_split=0.1", "--epochs=5")
    assert {"--lr_boundaries=2", "--technique=magnitude", "--final_sparsity=0.8", "--seed=0"} <= set(first.arguments)


def test_a_study_without_methods_has_one(tmp_path):
    text = WHOLE[: WHOLE.index("[[methods]]")]
    [method] = read(tmp_path, text).methods
    assert method.name == "lenet300_magnitude" and len(read(tmp_path, text).runs()) == 12


def test_a_method_is_a_callback_as_data(tmp_path):
    callback = '{class_name = "RigL", config = {sparsity = 0.7, drop_fraction = 0.2, end_step = 900}}'
    text = WHOLE[: WHOLE.index("[axes]")] + f"[[methods]]\nname = 'mine'\ncallback = {callback}\n"
    [method] = read(tmp_path, text).methods
    expected = {"technique": "rigl", "final_sparsity": 0.7, "drop_fraction": 0.2, "end_step": 900}
    assert {name: method.settings[name] for name in expected} == expected
    wrong = text.replace("end_step = 900", "end_stop = 900")
    [problem] = problems_of(tmp_path, wrong)
    assert problem.startswith("14: `config` of RigL may hold") and problem.endswith("Received: end_stop")


def test_names_of_folders_are_safe_and_distinct():
    assert file_name("final_sparsity=0.8,seed=1") == "final_sparsity=0.8,seed=1"
    strange = ["a/b", "a:b", "a b", "..", ".a", "x" * 300, "x" * 301, "where={'a': 1}"]
    names = [file_name(text) for text in strange]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w=,+-][\w.=,+-]{,80}", name) for name in names)


def test_all_errors_come_at_once_with_their_lines(tmp_path):
    text = """\
program = "classifier"
config = "lenet300_magnitude"
seeds = [0, 0]
metrics = "val_error"
threads = 0

[settings]
validation_split = 0.1
seed = 3
epochs = 0

[axes]
final_sparsity = [0.8, 1.5]
frequency = 100

[[methods]]
technique = "magnitude"

[[methods]]
technique = "magnitude"
learning_rat = 0.1

[[methods]]
technique = "ragl"
without = ["learning_rate"]
"""
    found = problems_of(tmp_path, text)
    lines = [int(problem.partition(":")[0]) for problem in found]
    assert lines == sorted(lines) and set(lines) == {3, 4, 5, 9, 10, 13, 14, 19, 21, 24, 25}
    by_line = dict(zip(lines, found, strict=True))
    for line, message in {
        3: "`seeds` must be a list of different integers. Received: seeds=[0, 0]",
        4: "A study has no key `metrics`: did you mean metric?",
        5: "`threads` must be an integer of at least 1. Received: threads=0",
        9: "`seed` must not be a setting: the study gives it to each run",
        10: "`epochs` must be an integer at least 1. Received: epochs=0",
        13: "`final_sparsity` must be a number at least 0 and below 1. Received: final_sparsity=1.5",
        14: "`frequency` must be a list of different values. Received: frequency=100",
        19: "`name` must differ from that of another method. Received: name='magnitude'",
        21: "classifier has no setting `learning_rat`",
        24: "`technique` must be one of ",
        25: "`without` must be a list of names in [axes] or [tune], which the method leaves out.",
    }.items():
        assert message in by_line[line], by_line[line]


@pytest.mark.parametrize(
    "change,line,message",
    [
        (("final_sparsity = [0.8, 0.95]", "final_sparsity = [0.8, 1.5]"), 13, "`final_sparsity` must be a number"),
        (("[0.1, 0.03, 0.01]", "[0.1, 0.1]"), 16, "`learning_rate` must be a list of different values"),
        (('"magnitude"', '"magnitude"\nscope = "world"'), 20, "`scope` must be one of layer, global"),
        (('"rigl"', '"ragl"'), 23, "`technique` must be one of "),
        (("validation_split = 0.1\n", ""), 4, "`metric` val_error needs `validation_split` above 0"),
        (('metric = "val_error"', 'metric = "test_error"'), 4, "`metric` must be one of val_error, best.val_error"),
        (('metric = "val_error"', 'metric = "best.val_error"'), 4, "`metric` best.val_error needs `keep_best` = true"),
        (('"classifier"', '"classifyer"'), 1, "`program` must be one of classifier, translator, language_model, "),
        (("epochs = 5", 'epochs = "many"'), 8, "epochs"),
        (("epochs = 5", "epochs = 5 5"), 8, "no TOML: "),
        (('technique = "rigl"', 'technique = "magnitude"\nname = "magnitude"'), 21, "no TOML"),
        (('name = "RigL, slow"', 'name = "magnitude"'), 21, "`name` must differ from that of another method"),
        (("learning_rate = 0.1\n", "final_sparsity = 0.7\n"), 24, "`final_sparsity` has one value here and several"),
        (("epochs = 5", "epochs = 5\nlearning_rate = 0.1"), 9, "`learning_rate` must stand in settings, or in axes or"),
        (('technique = "rigl"', 'technique = "Magnitude"'), 23, "`technique` must be one of"),
        (("[0.8, 0.95]", f"{MANY}\nbegin_step = {MANY}\nend_step = {MANY}"), 1, "The study must make at most 100,000"),
        (("tune.drop_fraction = [0.3, 0.5]", "tune.drop_fraction = {low = 0.1, high = 0.5}"), 26, "needs `trials`"),
        (("seeds = [0, 1]", "seeds = [0, 1]\ntune.rho.low = 3"), 16, "no TOML"),
        (("seeds = [0, 1]", "seeds = [0, 1]\ntune_seeds = [2]"), 4, "`tune_seeds` must be different"),
        (
            ("seeds = [0, 1]", "seeds = [0, 1]\ntune_seeds = [0, 0]"),
            4,
            "`tune_seeds` must be different",
        ),
        (
            ("seeds = [0, 1]", "seeds = [0, 1]\ntune_seeds = [true]"),
            4,
            "`tune_seeds` must be different",
        ),
        (("seeds = [0, 1]", "seeds = [0, 1]\ntune_seeds = [0]\ntrials = 3"), 4, "`tune_seeds` belongs to a grid"),
        (('config = "lenet300_vd"', 'config = "lenet300_dv"'), 29, "`config` must be one of "),
        (
            ("axes.penalty_weight = [0.5, 1.0]", "axes.penalty_weight = [1, 1.0]"),
            28,
            "two runs of the study are the sa",
        ),
    ],
)
def test_one_error(tmp_path, change, line, message):
    text = WHOLE.replace(*change, 1)
    assert text != WHOLE
    found = problems_of(tmp_path, text)
    assert any(re.match(rf"\d+: .*{re.escape(message)}|\d+: {re.escape(message)}", one) for one in found), found
    if message != "no TOML":
        assert found[0].startswith(f"{line}: "), found


@pytest.mark.parametrize(("key", "value"), [("tune_seeds", "[0]"), ("trials", "3")])
def test_a_choice_needs_something_to_choose_from(tmp_path, key, value):
    text = f'program = "classifier"\nconfig = "lenet300_magnitude"\nseeds = [0, 1]\n{key} = {value}\n'
    [problem] = problems_of(tmp_path, text + "[settings]\nvalidation_split = 0.1\n")
    assert problem.startswith(f"4: `{key}` needs settings in [tune]")


def test_a_search_has_ranges(tmp_path):
    text = WHOLE.replace("seeds =", "trials = 4\nseeds =").replace(
        "[0.1, 0.03, 0.01]", "{low = 0.01, high = 0.3, log = true}"
    )
    assert read(tmp_path, text).trials == 4
    # Everything else of the range is said as well: that the program has no such value, for example.
    for wrong in ("{low = 0.3, high = 0.01}", "{low = 0, high = 1, log = true}", "{low = 1}", "{low=1, high=2, x=1}"):
        found = problems_of(tmp_path, text.replace("{low = 0.01, high = 0.3, log = true}", wrong))
        assert any(one.startswith("17: `learning_rate` must be a range such as") for one in found), found


def test_the_pairs_that_choose_do_not_give_the_score(tmp_path):
    text = 'program = "translator"\nconfig = "tiny_magnitude"\n[tune]\nlearning_rate = [0.1, 0.2]\n[settings]\n'
    [problem] = problems_of(tmp_path, text)
    assert problem.startswith("1: `bleu` must be test in [settings] if there are settings to tune")
    [method] = read(tmp_path, text + 'bleu = "test"\n').methods
    assert method.settings == {"bleu": "test"}


def test_text_classifiers_are_chosen_by_their_validation_error(tmp_path):
    found = read(
        tmp_path, 'program = "text_classifier"\nconfig = "reviews_groups"\n[axes]\npenalty_weight = [0.1, 0.3]\n'
    )
    assert (found.metric, len(found.runs())) == ("val_error", 2)


def test_reading_says_nothing_of_single_runs(tmp_path, capsys):
    """A preset with levels has a note for each run, which the log of the run holds."""
    text = 'program = "translator"\nconfig = "transformer_magnitude"\n[axes]\nfinal_sparsity = [0.5, 0.85, 0.98]\n'
    runs = read(tmp_path, text).runs()
    recipes = [programs.recipe_of("translator", run.arguments) for run in runs]
    assert [one.end_step for one in recipes][2] == 300_000 and capsys.readouterr().err == ""


def test_a_missing_preset_is_one_error(tmp_path):
    found = problems_of(tmp_path, 'progam = "classifier"\n')
    assert "1: `config` must be the name of a preset, for the study or for each method" in found
    assert not any("`name`" in one for one in found)


def test_a_missing_file_and_no_text(tmp_path):
    with pytest.raises(OSError):
        study.read_study(tmp_path / "none.toml")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(study.StudyFileError, match="mine.toml:1: no TOML"):
        study.read_study(tmp_path / "mine.toml")


def test_the_studies_of_the_benchmarks_are_sound():
    import pathlib

    folder = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "studies"
    files = sorted(folder.glob("*.toml"))
    assert [file.stem for file in files] == ["cifar10", "mnist", "tiny"]
    for file in files:
        assert study.read_study(file).runs()
