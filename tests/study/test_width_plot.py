"""Accuracy and sparsity against the width: which runs are on a line, and what is drawn."""

import dataclasses

import pytest

from sparsity_tf import study
from sparsity_tf.study.width_plot import lines_of
from tests.study.run_folders import write_run


def run(width, score=90.0, technique="vd", sparsity=0.9, seed=0, model="vgg_like", **settings):
    options = settings.pop("model_options", {})
    options = {**options, **({} if width is None else {"width": width})}
    settings = {"dataset": "cifar10", "technique": technique, "model_options": options, **settings}
    return study.Run(f"runs/{width}", model, technique, sparsity, "top-1 accuracy", score, None, seed, settings)


def points(runs):
    return {label: [(one.width, one.score, len(one.runs)) for one in line] for label, line in lines_of(runs).items()}


def test_runs_that_differ_in_width_seed_and_first_weights_are_one_line():
    runs = [run(0.5, 90, load_weights="a"), run(0.25, 80, load_weights="b"), run(0.5, 92, seed=1, load_weights="c")]
    assert points(runs) == {"variational dropout": [(0.25, 80, 1), (0.5, 91, 2)]}
    (line,) = lines_of(runs).values()
    assert line[1].score_error == pytest.approx(1) and line[0].score_error is None
    assert line[1].sparsity == 90 and line[1].sparsity_error == 0


def test_dense_networks_come_first_and_other_settings_make_lines_of_their_own():
    runs = [run(1, epochs=20), run(1, 85, epochs=10), run(1, 94, "none"), run(1, 80, model="vgg_c", epochs=10)]
    assert list(points(runs)) == [
        "dense",
        "variational dropout (epochs=20, model=vgg_like)",
        "variational dropout (epochs=10, model=vgg_like)",
        "variational dropout (epochs=10, model=vgg_c)",
    ]
    other = [run(1, variant=1, model_options={"variant": "a"}), run(0.5, variant=1, model_options={"variant": "b"})]
    assert len(points(other)) == 2


def test_a_width_that_is_not_given_is_the_default_of_the_network():
    assert points([run(None)]) == {"variational dropout": [(1.0, 90.0, 1)]}


def test_a_picture_has_a_line_for_accuracy_and_a_dashed_one_for_sparsity(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [run(width, 100 * width, "none", 0.0) for width in (0.5, 0.25)]
    runs += [run(width, 90 * width, sparsity=width, seed=seed) for width in (0.5, 0.25) for seed in (0, 1)]
    figure = study.plot_widths(runs, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    left, right = figure.axes
    drawn = {line.get_linestyle(): line.get_xydata().tolist() for line in right.get_lines() if len(line.get_xdata())}
    assert drawn["--"] == [[0.25, 25], [0.5, 50]]
    solid = [line.get_xydata().tolist() for line in left.get_lines() if line.get_linestyle() == "-"]
    assert solid == [[[0.25, 25], [0.5, 50]], [[0.25, 22.5], [0.5, 45]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "accuracy, dense",
        "accuracy, variational dropout",
        "sparsity, variational dropout",
    ]
    assert left.get_title(loc="left") == "vgg_like on cifar10"
    assert study.plot_widths(runs[:2], title="Two").axes[0].get_title(loc="left") == "Two"


def test_what_can_not_be_drawn_is_named(tmp_path):
    pytest.importorskip("matplotlib")
    for bad, message in (
        ([run(None, model="lenet_300_100")], "`runs` must be of networks that have a width.*lenet_300_100"),
        ([dataclasses.replace(run(1), metric="BLEU")], "`runs` must be classifiers.*BLEU"),
        ([dataclasses.replace(run(1), collapsed="always class 1")], "did not collapse.*always class 1"),
        ([], "did not collapse"),
        ("runs", "`runs` must be a list"),
    ):
        with pytest.raises(ValueError, match=message):
            study.plot_widths(bad)
    with pytest.raises(ValueError, match="`title`"):
        study.plot_widths([run(1)], title=3)


def test_folders_are_read(tmp_path):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        options = {"technique": "vd", "model": "vgg_like", "model_options": {"width": 0.5}, "seed": seed}
        write_run(tmp_path / str(seed), test_error=0.1 + seed / 100, sparsity=0.97, **options)
    figure = study.plot_widths([tmp_path / "0", tmp_path / "1"])
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()][0] == pytest.approx(89.5)
