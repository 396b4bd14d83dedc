"""SparsityMonitor: what its records say, in CSV and in TensorBoard, wherever it stands and when a run is resumed."""

import contextlib
import csv
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers
from sparsity_tf.callbacks import sparsity_monitor
from sparsity_tf.callbacks.sparsity_monitor import COLUMNS
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks
from tests.callbacks import tied_models
from tests.callbacks.algorithm_checks import CASES, StopAfter, fit, make_model, masks_of


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of(rows, name):
    return [row for row in rows if row["weight"].endswith(name)]


@pytest.mark.parametrize("monitor_first", [True, False])
def test_records_of_rigl(monitor_first, tmp_path):
    model, algorithm = make_model(CASES["rigl"], run_eagerly=True), CASES["rigl"].make()
    monitor = callbacks.SparsityMonitor(tmp_path / "log.csv", every=2)
    watch = checks.Watch()
    fit(model, *[monitor, algorithm][:: 1 if monitor_first else -1], watch)
    rows = read(tmp_path / "log.csv")
    assert tuple(rows[0]) == COLUMNS
    total, first = rows_of(rows, "total"), rows_of(rows, "first/kernel")
    assert [int(row["step"]) for row in total] == [2, 4, 6, 8, 10, 12]
    assert [int(row["epoch"]) for row in total] == [0, 0, 0, 1, 1, 1]
    assert {row["sparsity"] for row in first[4:]} == {str(1 - 58 / 192)}
    assert [int(row["size"]) for row in total] == [192 + 80] * 6
    # Grown weights are zero until the next step.
    assert all(int(row["nonzeros"]) <= 58 + 24 for row in total)
    for row, step in zip(first, (2, 4, 6, 8, 10, 12), strict=True):
        assert float(row["drop_fraction"]) == pytest.approx(algorithm.drop_fraction_at(step))
        assert row["threshold"] == ""
        changed = np.mean(watch.masks[step - 1][0] != watch.masks[step - 2][0])
        assert float(row["mask_change"]) == pytest.approx(changed)
        assert int(row["grown"]) == int(row["dropped"]) == round(changed * 192 / 2)
    assert sum(int(row["grown"]) for row in first) == algorithm.grown[first[0]["weight"]] > 0
    for row in total:
        parts = [other for other in rows if other["step"] == row["step"] and other["weight"] != "total"]
        assert int(row["dropped"]) == sum(int(part["dropped"]) for part in parts)
        assert int(row["nonzeros"]) == sum(int(part["nonzeros"]) for part in parts)
    assert [str(row["step"]) for row in monitor.rows] == [row["step"] for row in rows]


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_explored_entries_are_all_that_have_ever_been_live_also_between_records(name, tmp_path):
    case = CASES[name]
    model = make_model(case, run_eagerly=True)
    monitor = callbacks.SparsityMonitor(tmp_path / "log.csv", every=4, explored=True)
    watch = checks.Watch()
    fit(model, monitor, case.make(), watch)
    rows = read(tmp_path / "log.csv")
    assert tuple(rows[0]) == (*COLUMNS, "explored")
    for index, weight in enumerate(("first/kernel", "second/kernel")):
        for row in rows_of(rows, weight):
            seen = np.any([masks[index] for masks in watch.masks[: int(row["step"])]], axis=0)
            assert float(row["explored"]) == np.mean(seen)
    shares = [float(row["explored"]) for row in rows_of(rows, "first/kernel")]
    # The weights, and so how long RigL goes on exploring, depend on the backend.
    assert 58 / 192 < shares[0] <= shares[-1] < 1
    # The total is over the weights whose masks change.
    last = {row["weight"]: row for row in rows[-3:]}
    total = sum(float(row["explored"]) * int(row["size"]) for name, row in last.items() if name != "total")
    assert float(last["total"]["explored"]) == pytest.approx(total / int(last["total"]["size"]))

    # A model from a file remembers. A static mask explores nothing more.
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.compile("sgd", "mse", run_eagerly=True)
    later = callbacks.SparsityMonitor(explored=True)
    fit(again, later, callbacks.StaticSparsity(0.5))
    assert float(rows_of(later.rows, "first/kernel")[-1]["explored"]) == shares[-1]


def test_kernels_whose_channels_are_pruned_have_explored_entries():
    model = tied_models.mlp()
    model.compile("sgd", "mse")
    monitor = callbacks.SparsityMonitor(explored=True)
    x, y = np.ones((4, *model.input_shape[1:])), np.ones((4, *model.output_shape[1:]))
    pruning = callbacks.MagnitudePruning(0.5, begin_step=0, end_step=2, frequency=1, structure="channel")
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[pruning, monitor])
    rows = [row for row in monitor.rows if row["weight"] != "total"]
    assert [row.get("explored") for row in rows] == [1.0] * len(rows)
    assert min(row["sparsity"] for row in rows) > 0 and monitor.rows[-1]["explored"] == 1.0


def test_a_file_without_the_explored_entries_is_not_continued(tmp_path):
    path = tmp_path / "log.csv"
    case = CASES["rigl"]
    model = make_model(case)
    fit(model, case.make(), callbacks.SparsityMonitor(path))
    with pytest.raises(ValueError, match="its columns must be .*, explored"):
        fit(model, case.make(), callbacks.SparsityMonitor(path, explored=True))


def test_thresholds_of_algorithms_and_of_techniques():
    case = CASES["dsr"]
    model, algorithm, monitor = make_model(case, run_eagerly=True), case.make(), callbacks.SparsityMonitor(every=1)
    thresholds = []
    change_masks = algorithm.change_masks
    algorithm.change_masks = lambda step: (change_masks(step), thresholds.append(algorithm.threshold))
    fit(model, monitor, algorithm)
    found = [row["threshold"] for row in rows_of(monitor.rows, "first/kernel")]
    assert found[1:8:2] == thresholds and len(set(thresholds)) > 1

    model = keras.Sequential([keras.Input((12,)), layers.STRDense(5), layers.VDDense(5)])
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = callbacks.SparsityMonitor()
    fit(model, monitor)
    assert [row["epoch"] for row in rows_of(monitor.rows, "total")] == [0, 1]
    values = [float(np.mean(weight.threshold())) for weight in get_sparse_weights(model)]
    assert [row["threshold"] for row in monitor.rows[-3:-1]] == pytest.approx(values)
    assert "grown" not in monitor.rows[0]


@pytest.mark.tensorflow
def test_scalars_for_tensorboard(tmp_path):
    import tensorflow as tf

    model = make_model(CASES["magnitude"], run_eagerly=True)
    fit(model, callbacks.SparsityMonitor(log_dir=tmp_path, every="epoch"), CASES["magnitude"].make())
    found = {}
    for file in tmp_path.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert {step for _, step in found} == {6, 12}
    assert found["sparsity/total", 12] == pytest.approx(1 - (38 + 16) / 272)
    paths = [weight.path for weight in get_sparse_weights(model)]
    assert found[f"sparsity/{paths[0]}", 12] == pytest.approx(1 - 38 / 192)
    assert found[f"dropped/{paths[0]}", 6] + found[f"dropped/{paths[0]}", 12] == 192 - 38
    assert found[f"mask_change/{paths[0]}", 6] + found[f"mask_change/{paths[0]}", 12] == pytest.approx(1 - 38 / 192)
    assert ("threshold/total", 12) not in found


def test_a_resumed_run_is_appended_to_and_a_new_one_starts_anew(tmp_path):
    case, path, weights = CASES["rigl"], tmp_path / "log.csv", tmp_path / "model.weights.h5"
    model = make_model(case, run_eagerly=True)
    fit(model, case.make(), callbacks.SparsityMonitor(path, every=3), StopAfter(6))
    model.save_weights(weights)
    # These are lost: the run goes on from step 6.
    fit(model, case.make(), callbacks.SparsityMonitor(path, every=3), StopAfter(3), initial_epoch=1)
    assert [row["step"] for row in rows_of(read(path), "total")] == ["3", "6", "9"]
    model = make_model(case, run_eagerly=True)
    model.load_weights(weights)
    fit(model, callbacks.SparsityMonitor(path, every=3), case.make(), initial_epoch=1)
    assert [row["step"] for row in rows_of(read(path), "total")] == ["3", "6", "9", "12"]

    whole = make_model(case, run_eagerly=True)
    fit(whole, case.make(), callbacks.SparsityMonitor(tmp_path / "whole.csv", every=3))
    columns = ("step", "nonzeros", "dropped", "grown", "mask_change", "drop_fraction")
    for one, other in zip(read(path), read(tmp_path / "whole.csv"), strict=True):
        assert [one[name] for name in columns] == [other[name] for name in columns]
    fit(make_model(case, run_eagerly=True), callbacks.SparsityMonitor(path), epochs=1)
    assert [row["step"] for row in rows_of(read(path), "total")] == ["6"]


def test_rows_of_an_epoch_that_is_done_again_are_dropped_though_it_is_rewound(tmp_path):
    """Epochs of 8 steps; the run is rewound from step 24 to 8 at the end of epoch 4, and killed before it is saved."""
    model, path = make_model(CASES["static"], run_eagerly=True), tmp_path / "log.csv"
    fit(model, callbacks.StaticSparsity(0.7), callbacks.SparsityMonitor(path), epochs=1)
    header, row = path.read_text().splitlines()[:2]
    steps = (8, 16, 8, 16, 8)
    rows = [row.replace("0,6,", f"{epoch},{step},", 1) for epoch, step in enumerate(steps)]
    path.write_text("".join(f"{line}\r\n" for line in (header, *rows)))
    for epoch, step, kept in ((4, 16, 4), (4, 8, 4), (3, 8, 3), (2, 16, 2)):
        monitor = callbacks.SparsityMonitor(shutil.copy(path, tmp_path / f"{epoch}_{step}.csv"))
        model.optimizer.iterations.assign(step)
        monitor.set_model(model)
        monitor.on_train_begin()
        monitor.on_epoch_begin(epoch)
        monitor.on_train_batch_begin(0)
        assert [int(row["step"]) for row in read(monitor.csv_path)] == list(steps[:kept])


@pytest.mark.parametrize(
    "steps,epoch,step,kept",
    [
        # Row 1 has the step of row 3, which belongs to the epoch that goes on.
        ((8, 16, 8, 16, 24), 3, 16, [8, 16, 8, 16]),
        # The run was rewound from step 32 to 12. What it recorded then is done again.
        ((8, 16, 24, 32, 20), 4, 32, [8, 16, 24, 32]),
        # An epoch whose batches made no step of the optimizer.
        ((0, 8), 0, 6, [0]),
    ],
)
def test_rows_of_the_epoch_that_goes_on_follow_those_of_the_epochs_before(steps, epoch, step, kept, tmp_path):
    model, path = make_model(CASES["static"], run_eagerly=True), tmp_path / "log.csv"
    fit(model, callbacks.StaticSparsity(0.7), callbacks.SparsityMonitor(path), epochs=1)
    header, *records = path.read_text().splitlines()
    rows = [row.replace("0,6,", f"{e},{s},", 1) for e, s in enumerate(steps) for row in records]
    path.write_text("".join(f"{line}\r\n" for line in (header, *rows)))
    model.optimizer.iterations.assign(step)
    monitor = callbacks.SparsityMonitor(path)
    monitor.set_model(model)
    monitor.on_train_begin()
    monitor.on_epoch_begin(epoch)
    monitor.on_train_batch_begin(0)
    assert [int(row["step"]) for row in rows_of(read(path), "total")] == kept


@pytest.mark.parametrize("change", [lambda header: f"{header},more", lambda header: header.replace("threshold", "H")])
def test_a_file_with_other_columns_is_not_continued(change, tmp_path):
    model, path = make_model(CASES["static"], run_eagerly=True), tmp_path / "log.csv"
    fit(model, callbacks.SparsityMonitor(path), epochs=1)
    header, *rows = path.read_text().splitlines()
    rows = [f"{row}," if change(header).endswith(",more") else row for row in rows]
    path.write_text("".join(f"{line}\r\n" for line in (change(header), *rows)))
    with pytest.raises(ValueError, match="its columns must be epoch, step, weight, .*Correct the file, or remove it"):
        fit(model, callbacks.SparsityMonitor(path), epochs=2, initial_epoch=1)


def test_the_total_adds_up_weights_with_and_without_an_algorithm():
    model, monitor = make_model(CASES["magnitude"], run_eagerly=True), callbacks.SparsityMonitor()
    fit(model, callbacks.MagnitudePruning(0.75, 0, 4, 2, where="first"), monitor, epochs=1)
    first, second, total = monitor.rows
    assert (first["dropped"], first["nonzeros"]) == (144, 48) and "dropped" not in second
    assert (total["dropped"], total["grown"], total["nonzeros"]) == (144, 0, 128)
    assert total["sparsity"] == pytest.approx(144 / 272) and total["mask_change"] == pytest.approx(144 / 272)
    assert "drop_fraction" not in total and "threshold" not in total


def test_one_monitor_serves_several_runs(tmp_path):
    model, monitor = make_model(CASES["static"], run_eagerly=True), None
    monitor = callbacks.SparsityMonitor(
        tmp_path / "log.csv", tmp_path / "board" if checks.keras.backend.backend() == "tensorflow" else None
    )
    fit(model, callbacks.StaticSparsity(0.7), monitor, epochs=1)
    fit(model, monitor, epochs=1)
    assert [row["step"] for row in rows_of(read(tmp_path / "log.csv"), "total")] == ["6", "12"]
    assert {row["step"] for row in monitor.rows} == {12}


@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
def test_steps_of_one_execution_are_counted():
    model = make_model(CASES["static"], steps_per_execution=2)
    monitor = callbacks.SparsityMonitor(every=4)
    fit(model, monitor)
    assert [row["step"] for row in rows_of(monitor.rows, "total")] == [4, 8, 12]


def test_several_batches_for_one_step_count_once():
    model, monitor = make_model(CASES["static"]), callbacks.SparsityMonitor(every=4)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse", run_eagerly=True)
    fit(model, monitor)
    assert [row["step"] for row in rows_of(monitor.rows, "total")] == [4]


def test_records_are_counted_from_the_step_at_which_a_run_begins():
    model, monitor = make_model(CASES["static"]), callbacks.SparsityMonitor(every=4)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=6), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    model.optimizer._iterations.assign(5 * 6)
    fit(model, monitor, epochs=5)
    assert [row["step"] for row in rows_of(monitor.rows, "total")] == [9]


def test_each_figure_of_a_record_is_a_scalar(monkeypatch):
    found = {}

    class Board:
        def as_default(self, step):
            return contextlib.nullcontext()

        def flush(self):
            found["flushed"] = True

    monkeypatch.setattr(
        sparsity_monitor, "write_scalar", lambda name, value, step: found.__setitem__(name, (value, step))
    )
    model, monitor = make_model(CASES["static"], run_eagerly=True), callbacks.SparsityMonitor()
    fit(model, monitor, epochs=1)
    monitor._writer = Board()
    monitor.record()
    path = get_sparse_weights(model)[0].path
    assert found["sparsity/total"] == found[f"sparsity/{path}"] == (0.0, 6) and found["flushed"]
    names = {name.split("/")[0] for name in found}
    assert names == {"sparsity", "mask_change", "flushed"}


def test_tables_are_printed(capsys):
    for verbose, times in ((0, 0), (1, 1), (2, 2)):
        fit(make_model(CASES["static"], run_eagerly=True), callbacks.SparsityMonitor(verbose=verbose))
        assert capsys.readouterr().out.count("second") == times


def test_progress_and_history_show_the_sparsity(capsys):
    model = make_model(CASES["magnitude"], run_eagerly=True)
    x, y = checks.data()
    options = dict(batch_size=8, epochs=2, shuffle=False, callbacks=[CASES["magnitude"].make()])
    history = model.fit(x, y, verbose=1, **options).history
    live = sum(int(mask.sum()) for mask in masks_of(model))
    assert history["sparsity"][-1] == pytest.approx(1 - live / 272)
    assert "sparsity: 0.8" in capsys.readouterr().out
    assert ops.convert_to_numpy(model.optimizer.iterations) == 12


def test_rounds_after_a_rewinding_are_recorded_like_the_first():
    model, monitor = make_model(CASES["lottery"], run_eagerly=True), callbacks.SparsityMonitor(every=2)
    tickets = callbacks.IterativePruning(0.75, rounds=2, steps_per_round=5, rewind_step=0)
    fit(model, tickets, monitor, epochs=2)
    steps = [row["step"] for row in monitor.rows if row["weight"] == "total"]
    assert steps == [2, 4, 2, 4, 2]


def test_nested_models_with_layers_of_one_name():
    inputs = keras.Input((12,))
    towers = [keras.Sequential([keras.Input((n,)), layers.STRDense(m, name="fc")]) for n, m in ((12, 7), (7, 5))]
    model = keras.Model(inputs, towers[1](towers[0](inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    monitor = callbacks.SparsityMonitor(every=3)
    fit(model, monitor, epochs=1)
    assert {row["mask_change"] for row in monitor.rows} == {0.0}
