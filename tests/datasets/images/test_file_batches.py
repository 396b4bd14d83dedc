"""Batches read from files: whole epochs, the same ones for the same seed, shared among workers."""

import os

import numpy as np
import pytest

from sparsity_tf import datasets
from tests.datasets.images.imagenet_writer import write_folders, write_records

pytestmark = pytest.mark.tensorflow

LAYOUTS = {"records": write_records, "folders": write_folders}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    for name, write in LAYOUTS.items():
        write(folder / name)
    return folder


def make(places, layout="records", batch_size=4, **kwargs):
    kwargs = {"image_size": 16, "shuffle_buffer": 5, **kwargs}
    return datasets.file_batches(datasets.imagenet(places / layout), batch_size, **kwargs)


def as_numpy(dataset, count=-1):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def numbers(images):
    """Which images they are: see `imagenet_writer.jpeg`."""
    green = images[..., 1].mean(axis=(1, 2)) * 255 * 0.224 + 255 * 0.456
    return np.rint((green - 20) / 10).astype(int)


def assert_same(some, others):
    for (x, y), (x_other, y_other) in zip(some, others, strict=True):
        np.testing.assert_array_equal(x, x_other)
        np.testing.assert_array_equal(y, y_other)


def context(pipelines, index, replicas):
    import tensorflow as tf

    return tf.distribute.InputContext(pipelines, index, replicas)


def pairs(names, values):
    """Every layout with every value. Pairs off the diagonal are in `make test-all` only."""
    places = [(row, column) for row in range(len(LAYOUTS)) for column in range(len(values))]
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(list(LAYOUTS)[row], values[column], marks=[pytest.mark.slow] if row != column else [])
            for row, column in places
        ],
    )


@pairs("layout,recipe", ["state_of_sparsity", "str"])
def test_an_epoch_has_every_example_once_with_its_label(places, layout, recipe):
    batches = make(places, layout, recipe=recipe)
    classes = 1000 if layout == "records" else 4
    assert batches.steps_per_epoch == 5 and batches.num_examples == 20 and batches.num_classes == classes
    through = as_numpy(batches.train(), 10)
    for epoch in (through[:5], through[5:]):
        x, y = (np.concatenate(values) for values in zip(*epoch, strict=True))
        assert x.shape == (20, 16, 16, 3) and x.dtype == np.float32 and y.dtype == np.int32
        assert sorted(numbers(x)) == list(range(20))
        assert (numbers(x) % classes == y).all()
    orders = [np.concatenate([numbers(x) for x, _ in epoch]).tolist() for epoch in (through[:5], through[5:])]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


@pairs("layout,recipe", ["state_of_sparsity", "str"])
def test_evaluation_has_every_example_once(places, layout, recipe):
    batches = make(places, layout, recipe=recipe, eval_batch_size=3)
    test = as_numpy(batches.test())
    count = 7 if layout == "records" else 8
    assert [len(x) for x, _ in test] == [3, 3, count - 6] and batches.num_test == count
    x, y = (np.concatenate(values) for values in zip(*test, strict=True))
    assert sorted(numbers(x)) == list(range(count))
    assert (numbers(x) % batches.num_classes == y).all()
    assert_same(test, as_numpy(batches.test()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_run_resumed_at_any_step_sees_the_same_batches(places, layout):
    import tensorflow as tf

    batches = make(places, layout, seed=3)
    tf.random.set_seed(1)
    through = as_numpy(batches.train(), 8)
    tf.random.set_seed(2)  # the seed of the program has no part in it
    for done in (0, 2, 7):
        assert_same(through[done:], as_numpy(make(places, layout, seed=3).train(done), 8 - done))


def test_seeds_differ(places):
    first = [as_numpy(make(places, layout, seed=seed).train(), 1)[0][0] for layout in LAYOUTS for seed in (0, 1)]
    assert np.abs(first[0] - first[1]).max() > 0.1 and np.abs(first[2] - first[3]).max() > 0.1


def test_an_image_has_another_crop_in_each_epoch(places):
    through = as_numpy(make(places, "folders").train(), 10)
    of_image = [x[numbers(x) == 3][0] for x, _ in through if 3 in numbers(x)]
    assert len(of_image) == 2 and np.abs(of_image[0] - of_image[1]).max() > 0.1


def test_pixels_lose_the_mean_and_are_divided_by_the_deviation(places):
    from sparsity_tf.datasets.images import imagenet_crops as crops

    files = datasets.imagenet(places / "folders")
    ((x, _),) = as_numpy(make(places, "folders", eval_batch_size=8).test())
    with open(files.test.files[0], "rb") as file:
        raw = crops.state_of_sparsity_eval(file.read(), 16).numpy()
    expected = (raw - 255 * np.array([0.485, 0.456, 0.406])) / (255 * np.array([0.229, 0.224, 0.225]))
    np.testing.assert_allclose(x[0], expected, atol=1e-5)


def test_folders_give_workers_parts_of_one_global_batch(places):
    batches = make(places, "folders", batch_size=8)
    whole = as_numpy(batches.train(1), 3)
    shares = [as_numpy(batches.train(1, context(2, worker, 4)), 6) for worker in range(2)]
    for step, (x, y) in enumerate(whole):
        of_step = [batch for share in shares for batch in share[2 * step : 2 * step + 2]]
        assert [len(part) for part, _ in of_step] == [2] * 4
        np.testing.assert_array_equal(np.concatenate([part for part, _ in of_step]), x)
        np.testing.assert_array_equal(np.concatenate([part for _, part in of_step]), y)


@pairs("layout,workers", [2, 5])
def test_workers_share_the_examples(places, layout, workers):
    """Two workers have shards of their own; for five there are fewer shards than workers."""
    batches = make(places, layout, batch_size=20, eval_batch_size=20)
    contexts = [context(workers, worker, workers) for worker in range(workers)]
    shares = [as_numpy(batches.train(0, one), 2) for one in contexts]
    assert all(len(x) == 20 // workers for share in shares for x, _ in share)
    for epoch in range(2):
        assert sorted(np.concatenate([numbers(share[epoch][0]) for share in shares])) == list(range(20))
    tested = np.concatenate([numbers(x) for one in contexts for x, _ in as_numpy(batches.test(one))])
    assert sorted(tested) == list(range(batches.num_test))


def test_worker_short_of_examples_begins_its_shards_again(tmp_path):
    write_records(tmp_path, train=21, shards=(3, 2))  # 7 records a shard: one worker has 14, the other 7
    batches = datasets.file_batches(datasets.imagenet(tmp_path), 10, image_size=16)
    for worker in range(2):
        assert len(as_numpy(batches.train(0, context(2, worker, 2)), 5)) == 5


def test_bfloat16_images(places):
    import tensorflow as tf

    batches = make(places, dtype="bfloat16")
    for dataset in (batches.train(), batches.test()):
        assert dataset.element_spec[0].dtype == tf.bfloat16
        assert next(iter(dataset))[0].dtype == tf.bfloat16


def test_batches_have_static_shapes(places):
    batches = make(places)
    assert batches.train().element_spec[0].shape.as_list() == [4, 16, 16, 3]
    assert batches.test().element_spec[0].shape.as_list() == [None, 16, 16, 3]
    assert batches.image_shape == (16, 16, 3)


def test_fit_and_evaluate_take_them_as_they_are(places):
    import keras

    batches = make(places, "folders", batch_size=5)
    model = keras.Sequential([keras.Input(batches.image_shape), keras.layers.Flatten(), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    with batches.naming_errors():
        model.fit(batches.train(), epochs=2, steps_per_epoch=batches.steps_per_epoch, shuffle=False, verbose=0)
        model.evaluate(batches.test(), verbose=0)
    assert int(model.optimizer.iterations) == 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("put_there", [None, os.mkdir, lambda path: os.symlink(os.path.basename(path), path)])
def test_a_file_that_disappears_or_becomes_unreadable_is_named(tmp_path, layout, put_there):
    LAYOUTS[layout](tmp_path / layout)
    batches = make(tmp_path, layout)
    lost = batches.files.test.files[1]
    os.remove(lost)
    if put_there:
        put_there(lost)
    with pytest.raises(OSError, match=lost), batches.naming_errors():
        as_numpy(batches.test())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 21}, "from 1 to the 20"),
        ({"recipe": "inception"}, "'state_of_sparsity', 'str'"),
        ({"image_size": 0}, "`image_size`"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer`"),
        ({"dtype": "int8"}, "`dtype`"),
    ],
)
def test_unusable_arguments_are_refused(places, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(places, **arguments)


def test_images_of_folders_are_held_out_by_a_seed(places):
    def held_by(**options):
        batches = make(places, "folders", 5, validation_split=0.25, **options)
        assert (batches.num_validation, batches.num_examples, batches.num_test) == (5, 15, 8)
        (x, y), (again, _) = *as_numpy(batches.validation()), *as_numpy(batches.validation())
        np.testing.assert_array_equal(x, again)
        assert (numbers(x) % 4 == y).all()
        trained = np.concatenate([numbers(images) for images, _ in as_numpy(batches.train(), 3)])
        assert sorted([*numbers(x), *trained]) == list(range(20))
        return numbers(x).tolist()

    stratified = held_by(validation_stratified=True)
    assert np.bincount(np.array(stratified) % 4, minlength=4).tolist() == [2, 1, 1, 1]
    first = held_by()
    assert held_by(seed=5) == first and held_by(validation_seed=3) != first


def test_single_examples_of_record_shards_are_not_held_out(places):
    with pytest.raises(ValueError, match="`validation_split` must be 0 for record shards"):
        make(places, validation_split=0.1)


@pytest.mark.parametrize("seed", [None, -1])
def test_the_last_images_of_folders_are_not_held_out(seed, places):
    with pytest.raises(ValueError, match="`validation_seed` must be an integer"):
        make(places, "folders", 5, validation_split=0.25, validation_seed=seed)


def test_nothing_is_held_out(places):
    with pytest.raises(ValueError, match="held out"):
        make(places).validation()
