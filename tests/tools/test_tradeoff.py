"""The command prints the best scores at each level and draws them, or one line says what is wrong."""

import csv
import io
import json

import pytest

from sparsity_tf.tools import tradeoff as command
from tests.study.clones import COMPARED, TABLES, write_clone
from tests.study.run_folders import write_run


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = command.main(["tradeoff", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_it_prints_the_best_at_each_level(run):
    status, out, err = run("--model=transformer", "--technique=none,magnitude")
    assert (status, err) == (0, "")
    lines = [line.split("  ") for line in out.splitlines()]
    assert lines[0][0] == "technique" and len(lines) == 10
    assert "27.29" in out and "23.26" in out and "90.0 %" in out


def test_it_prints_csv_and_json(run):
    status, out, _ = run("--model=ResNet-50", "--system=str", "--format=csv", "--levels=0.8,0.9")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and [float(row["top-1 accuracy"]) for row in rows] == [77.01, 76.12, 74.31]
    status, out, _ = run("--model=ResNet-50", "--system=str", "--format=json")
    content = json.loads(out)
    assert status == 0 and content["metric"] == "top-1 accuracy" and content["rows"][2]["flops"] == 342_704_659


def test_it_draws(run, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "a.png"
    arguments = ["--model=ResNet-50", "--system=str,state_of_sparsity", "--worst_score=40", f"--output={picture}"]
    assert run(*arguments)[0] == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    status, out, err = run(*arguments)
    assert status == 1 and out == "" and "is there already: pass --overwrite" in err
    before = picture.read_bytes()
    assert run(*arguments, "--overwrite", "--x=flops", "--title=Operations")[0] == 0
    assert picture.read_bytes() != before


def test_own_runs_stand_beside_published_results(run, tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"run{seed}", test_error=0.02 + seed / 1000, sparsity=0.95, seed=seed)
    write_run(tmp_path / "run_collapsed", test_error=0.9, collapsed="collapsed: always class 8")
    status, out, err = run("--model=lenet_300_100", "--technique=set", f"--runs={tmp_path}/run*", "--format=csv")
    assert status == 0
    assert err == f"tradeoff: note: left out: {tmp_path}/run_collapsed (collapsed: always class 8)\n"
    own = list(csv.DictReader(io.StringIO(out)))[-1]
    assert (own["system"], own["technique"], own["repeats"]) == ("own runs", "rigl", "2")
    assert float(own["top-1 accuracy"]) == pytest.approx(97.95)
    status, out, _ = run(f"--runs={tmp_path}/run0,{tmp_path}/run1", "--sparsity_of=kernels")
    assert status == 0 and "own runs" in out and len(out.splitlines()) == 3


def test_a_folder_of_repeats_stands_for_its_runs(run, tmp_path):
    for seed in (1, 2):
        (tmp_path / "mine" / f"seed-{seed}").mkdir(parents=True)
        (tmp_path / "mine" / f"seed-{seed}" / "results.json").write_text("{}")
    assert command._folders([str(tmp_path / "min*")]) == [str(tmp_path / "mine" / f"seed-{seed}") for seed in (1, 2)]
    assert command._folders([str(tmp_path / "mine" / "seed-1")]) == [str(tmp_path / "mine" / "seed-1")]
    assert command._folders([str(tmp_path)]) == [str(tmp_path)]  # The reader says what is wrong with it.


def test_a_clone_takes_the_place_of_the_packaged_tables(run, tmp_path):
    tables = dict(TABLES)
    name = f"{COMPARED}transformer_magnitude_pruning.csv"
    tables[name] = [*tables[name], "sparse_transformer_magnitude_pruning,24.5,0.900000691414,0,300000,10000,none,0"]
    clone = write_clone(tmp_path, tables)
    status, out, _ = run(
        "--model=Transformer", f"--clone={clone}", "--format=csv", "--technique=none,magnitude,scratch"
    )
    assert status == 0
    rows = {(row["technique"], round(float(row["sparsity"]), 3)): row for row in csv.DictReader(io.StringIO(out))}
    # One dense network of the clone, in place of the five of the package; the packaged checkpoints stay.
    assert float(rows["none", 0.0]["BLEU"]) == 27.52
    assert float(rows["magnitude", 0.9]["BLEU"]) == 24.5 and rows["magnitude", 0.9]["source"] == f"{name}:4"
    assert float(rows["magnitude", 0.95]["BLEU"]) == 20.75
    assert float(rows["scratch", 0.5]["BLEU"]) == 26.11


def test_it_lists_what_there_is(run):
    status, out, err = run("--list")
    assert (status, err) == (0, "")
    for text in ("Transformer    WMT14 En-De  state_of_sparsity  BLEU", "magnitude (242)", "WRN-28-2"):
        assert text in out


def test_what_is_wrong_is_one_line(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, code, text in (
        ([], 2, "One of the flags --model, --runs and --list is required"),
        (["--system=str", "--runs=a"], 2, "--system has no meaning without --model"),
        (["--model=ResNet-50", "--levels=high"], 2, "--levels must be numbers. Received: high"),
        (["--model=ResNet-50", "--x=macs"], 2, "should be one of <sparsity|flops>"),
        (["--model=ResNet-51"], 1, "`model` must be one of Transformer, ResNet-50"),
        (["--model=ResNet-50", "--technique=none,x"], 1, "`technique` must be one of "),
        (["--model=MobileNetV1", "--system=dsr"], 1, "no published result has all"),
        (["--model=ResNet-50", "--levels=0.9,0.8"], 1, "`levels` must ascend"),
        (["--model=ResNet-50", f"--output={tmp_path}/a.jpg"], 1, "--output must end in .png"),
        (["--model=ResNet-50", f"--output={tmp_path}/no/a.png"], 1, "the folder of --output does not exist"),
        (["--model=Transformer", "--x=flops", f"--output={tmp_path}/a.png"], 1, "none has a number of multiply"),
        (["--model=ResNet-50", f"--clone={tmp_path}"], 1, "`path` must be a result table of State of Sparsity"),
        ([f"--runs={tmp_path}/no*"], 1, "--runs: nothing matches"),
        ([f"--runs={tmp_path}/empty"], 1, "it has no results.json"),
        (["--model=Transformer", "extra"], 2, "Unexpected argument: extra"),
    ):
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (code, "", 1), arguments
        assert text in err
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
