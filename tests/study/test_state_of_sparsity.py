"""All 20 tables of a clone are read, whatever their header; a damaged one is an error that names file and line."""

import collections
import pathlib

import pytest

from sparsity_tf.study import read_state_of_sparsity
from tests.study.clones import COMPARED, MP, RESNET_COMPARED, RESNET_SCRATCH, SCRATCH, TABLES, write_clone

ROOT = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return write_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def by_table(clone):
    found = collections.defaultdict(list)
    for result in read_state_of_sparsity(clone):
        found[result.source].append(result)
    return found


def test_all_20_tables_are_found(by_table):
    assert len(TABLES) == 20 and set(by_table) == set(TABLES)
    lines = {name: {result.line for result in results} for name, results in by_table.items()}
    assert lines == {name: set(range(2, len(text) + 1)) for name, text in TABLES.items()}


# Table -> technique, sparsity and score of its first result, and some of its settings.
FIRST = {
    f"{RESNET_COMPARED}rn50_baselines.csv": ("none", 0.0, 76.67, {"steps": 128_000, "batch_size": 1024}),
    f"{RESNET_COMPARED}rn50_magnitude_pruning.csv": ("magnitude", 0.98, 57.9, {"frequency": 2000}),
    f"{RESNET_COMPARED}rn50_random_pruning.csv": ("random", 0.9, 65.004, {"begin_step": 0}),
    f"{RESNET_COMPARED}rn50_variational_dropout.csv": (
        "vd",
        0.902656316757,
        73.842,
        {"penalty_begin_step": 20_000, "penalty_end_step": 68_000, "penalty_coefficient": 7.80538368534e-8},
    ),
    f"{RESNET_COMPARED}rn50_l0_regularization.csv": (
        "l0",
        0.0,
        40.504,
        {"initial_log_alpha": 2.197, "weight_decay": 0.0001111136067, "label_smoothing": 0.0},
    ),
    f"{RESNET_SCRATCH}rn50_lottery_ticket.csv": ("lottery", 0.9, 67.522, {"end_step": 76_000}),
    f"{RESNET_SCRATCH}rn50_scratch_lr_scaled.csv": ("scratch", 0.5, 672.098 / 9, {"variant": "lr_scaled"}),
    f"{RESNET_SCRATCH}rn50_scratch_lr_constant_final.csv": (
        "scratch",
        0.5,
        672.098 / 9,
        {"variant": "lr_constant_final"},
    ),
    f"{RESNET_SCRATCH}rn50_scratch_lr_constant_decay.csv": (
        "scratch",
        0.98,
        48.154,
        {"variant": "lr_constant_decay", "init_method": "baseline", "time_multiplier": 2.0},
    ),
    f"{RESNET_SCRATCH}rn50_scratch_lr_continual_decay.csv": ("scratch", 0.5, 71.452, {"init_method": "sparse"}),
    f"{COMPARED}transformer_baselines.csv": ("none", 0.0, 27.52, {"steps": 500_000}),
    f"{COMPARED}transformer_magnitude_pruning.csv": ("magnitude", 0.5, 25.86, {"dropout": 0.1, "label_smoothing": 0.1}),
    f"{COMPARED}transformer_random_pruning.csv": ("random", 0.5, 24.56, {"dropout": 0.0, "label_smoothing": 0.1}),
    f"{COMPARED}transformer_variational_dropout.csv": (
        "vd",
        0.947515308857,
        0.06,
        {"penalty_schedule": "cubic", "penalty_end_step": 500_000, "log_alpha_threshold": 0.0},
    ),
    f"{COMPARED}transformer_l0_regularization.csv": (
        "l0",
        0.921240866184,
        20.85,
        {"penalty_begin_step": 100_000, "penalty_end_step": 400_000, "penalty_coefficient": 2.222222222222222e-6},
    ),
    f"{SCRATCH}transformer_lottery_ticket.csv": ("lottery", 0.5, 24.35, {"threshold_decay": 0.0}),
    f"{SCRATCH}transformer_scratche.csv": ("scratch", 0.980001270771, 13.93, {"variant": "scratche", "dropout": 0.0}),
    f"{SCRATCH}transformer_scratche_augmented_init.csv": (
        "scratch",
        0.5,
        24.09,
        {"variant": "scratche_augmented_init"},
    ),
    f"{SCRATCH}transformer_scratchb.csv": ("scratch", 0.5, 26.11, {"variant": "scratchb"}),
    f"{SCRATCH}transformer_scratchb_augmented_init.csv": (
        "scratch",
        0.5,
        24.45,
        {"variant": "scratchb_augmented_init"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read(by_table, name):
    first = by_table[name][0]
    technique, sparsity, score, settings = FIRST[name]
    assert (first.system, first.technique, first.sparsity) == ("state_of_sparsity", technique, sparsity)
    assert first.score == pytest.approx(score, abs=1e-9)
    assert settings.items() <= first.settings.items()
    transformer = "transformer" in name
    assert (first.model, first.metric) == (("Transformer", "BLEU") if transformer else ("ResNet-50", "top-1 accuracy"))


def test_a_line_of_the_transformers_variational_dropout_has_eleven_thresholds(by_table):
    results = by_table[f"{COMPARED}transformer_variational_dropout.csv"]
    assert [result.settings["log_alpha_threshold"] for result in results] == [half / 2 for half in range(11)]
    assert (results[4].score, results[4].sparsity) == (21.4, 0.903911173344)
    assert (results[-1].score, results[-1].sparsity) == (22.97, 0.501355111599)


def test_what_is_mended_is_said(by_table):
    mended = {name: results[0].mended for name, results in by_table.items() if results[0].mended}
    assert set(mended) == {
        f"{RESNET_COMPARED}rn50_l0_regularization.csv",
        f"{RESNET_SCRATCH}rn50_scratch_lr_constant_decay.csv",
        f"{COMPARED}transformer_l0_regularization.csv",
    }
    assert "dkl_weight_start" in mended[f"{COMPARED}transformer_l0_regularization.csv"][0]


def test_columns_of_l0_that_are_right_stay(tmp_path):
    name = "rn50_l0_regularization.csv"
    lines = list(TABLES[RESNET_COMPARED + name])
    lines[1] = "2.197,0.0003122153474,0.1,0.0001111136067,0,0.4050399959"
    (tmp_path / name).write_text("\n".join(lines[:2]))
    [result] = read_state_of_sparsity(tmp_path / name)
    assert result.settings["label_smoothing"] == 0.1 and result.settings["weight_decay"] == 0.0001111136067
    assert result.mended == ()


@pytest.mark.parametrize("part", ["", "state_of_sparsity", "state_of_sparsity/results"])
def test_any_folder_of_the_clone_will_do(clone, by_table, part):
    assert len(read_state_of_sparsity(clone / part)) == sum(map(len, by_table.values())) == 33
    assert len(read_state_of_sparsity(str(clone / "state_of_sparsity/results/sparse_rn50"))) == 11


def test_line_ends_and_a_byte_order_mark_are_no_damage(tmp_path, by_table):
    clone = write_clone(tmp_path, end="\r\n")
    path = clone / "state_of_sparsity" / "results" / RESNET_COMPARED / "rn50_baselines.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_state_of_sparsity(clone) == [one for name in sorted(TABLES) for one in by_table[name]]


def test_files_with_one_header_need_their_names(tmp_path):
    for name, same in (
        (f"{COMPARED}transformer_random_pruning.csv", "transformer_magnitude_pruning.csv"),
        (f"{SCRATCH}transformer_scratchb.csv", "transformer_scratche.csv"),
        (f"{RESNET_SCRATCH}rn50_scratch_lr_scaled.csv", "rn50_scratch_lr_constant_final.csv"),
    ):
        path = tmp_path / "renamed.csv"
        path.write_text("\n".join(TABLES[name]))
        with pytest.raises(ValueError, match=f"renamed.csv must have one of the names .*{same}"):
            read_state_of_sparsity(path)
    path.write_text("\n".join(TABLES[f"{RESNET_COMPARED}rn50_magnitude_pruning.csv"]))
    assert read_state_of_sparsity(path)[0].technique == "magnitude"


# Table -> what replaces a part of a line, and what the error says.
DAMAGE = [
    (
        "rn50_magnitude_pruning.csv",
        "0.578999996185",
        "0.5x",
        "line 2: accuracy must be a number from 0 to 1, not '0.5x'",
    ),
    (
        "rn50_magnitude_pruning.csv",
        "0.578999996185",
        "57.9",
        "line 2: accuracy must be a number from 0 to 1, not '57.9'",
    ),
    ("rn50_magnitude_pruning.csv", "0.578999996185", "nan", "line 2: accuracy must be a number"),
    ("rn50_magnitude_pruning.csv", "0.578999996185", "1_0", "line 2: accuracy must be a number"),
    ("rn50_magnitude_pruning.csv", ",0.578999996185", "", "line 2 has 5 cells for 6 columns"),
    ("rn50_magnitude_pruning.csv", "0.98,", "1.98,", "line 2: Sparsity must be a number from 0 to 1, not '1.98'"),
    ("rn50_magnitude_pruning.csv", "40000", "", "line 2: begin must be a number from 0, not ''"),
    ("rn50_magnitude_pruning.csv", "40000", "1.5", "line 2: begin must be an integer, not '1.5'"),
    ("rn50_magnitude_pruning.csv", "40000", "-1", "line 2: begin must be a number from 0, not '-1'"),
    ("rn50_magnitude_pruning.csv", "Sparsity", "Sparsities", "its header is not one of State of Sparsity: Sparsities,"),
    ("rn50_l0_regularization.csv", "0.0001111136067", "?", "line 2: label_smoothing must be a number"),
    ("rn50_l0_regularization.csv", "4.6", "inf", "line 3: initial_log_alpha must be a number, not 'inf'"),
    ("rn50_baselines.csv", "76.67", "0.7667", "line 2: Accuracy must be a number from 1 to 100"),
    ("rn50_scratch_lr_scaled.csv", "baseline", " ", "line 2: init method is empty"),
    ("rn50_scratch_lr_scaled.csv", "0.745360016823", "", "line 2: Run 4 must be a number from 0 to 1, not ''"),
    ("transformer_magnitude_pruning.csv", "16.05", "160.5", "line 3: Moses BLEU must be a number from 0 to 100"),
    ("transformer_magnitude_pruning.csv", ",none", ",lots", "line 3: regularization must be one of none, "),
    (
        "transformer_magnitude_pruning.csv",
        f"{MP},16.05",
        "sparse_transformer_x,16.05",
        "line 3: Tensor2Tensor HParams must",
    ),
    ("transformer_variational_dropout.csv", "21.4", "x", "line 2: MOSES BLEU:2.0 must be a number"),
    ("transformer_baselines.csv", "wmt32k_packed", "wmt32k", "line 2: Dataset must be translate_ende_wmt32k_packed"),
]


@pytest.mark.parametrize("name,old,new,message", DAMAGE)
def test_damage_is_one_line_with_file_and_line(tmp_path, name, old, new, message):
    [table] = [table for table in TABLES if table.endswith(f"/{name}")]
    text = "\n".join(TABLES[table])
    assert old in text
    path = tmp_path / name
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError) as caught:
        read_state_of_sparsity(path)
    assert str(caught.value).startswith(f"{path} is damaged: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "it has no header line"),
        (b"\n\n", "it has no header line"),
        (b"a,b\n1,2\n", "its header is not one of"),
        (b"\xff\xfe\n", "codec can't decode"),
        (b"Accuracy,Training Steps,Batch Size\n", "it has a header and no results"),
        (b"Accuracy,Training Steps,Batch Size\n" + b"7" * 200_000 + b",1,1\n", "line 2: field larger than"),
        (b"\0" * 100, "its header is not one of|NUL"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "rn50_baselines.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_state_of_sparsity(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 700


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^`path` must be a result table of State of Sparsity"):
        read_state_of_sparsity(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_state_of_sparsity(tmp_path / "nothing.csv")
    for value in (None, 3, "", []):
        with pytest.raises(ValueError, match="^`path` must be a path"):
            read_state_of_sparsity(value)
