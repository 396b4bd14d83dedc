"""Batches of arrays: preprocessing against plain numpy, and batches that depend on seed, epoch and number only."""

import dataclasses

import numpy as np
import pytest

from sparsity_tf import datasets
from sparsity_tf.datasets.batches import epoch_order
from sparsity_tf.datasets.images import augmentation, held_out, zca

pytestmark = pytest.mark.tensorflow


def make_data(shape=(8, 8, 3), count=23, name="cifar10"):
    random = np.random.default_rng(0)
    labels = (np.arange(count) % 10).astype(np.uint8)
    return datasets.ImageData(
        x_train=random.integers(0, 256, (count, *shape), dtype=np.uint8),
        y_train=labels,
        x_test=random.integers(0, 256, (7, *shape), dtype=np.uint8),
        y_test=labels[:7],
        num_classes=10,
        name=name,
        source="generated",
    )


@pytest.fixture
def data():
    return make_data()


def as_numpy(dataset, count=-1):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def assert_same(some, others):
    for (x, y), (x_other, y_other) in zip(some, others, strict=True):
        np.testing.assert_array_equal(x, x_other)
        np.testing.assert_array_equal(y, y_other)


def context(pipelines, index, replicas):
    import tensorflow as tf

    return tf.distribute.InputContext(pipelines, index, replicas)


def test_sizes(data):
    batches = datasets.array_batches(data, 5, validation_split=2)
    assert (batches.num_examples, batches.num_validation, batches.num_test) == (21, 2, 7)
    assert batches.steps_per_epoch == 4 and batches.num_classes == 10 and batches.image_shape == (8, 8, 3)
    assert batches.name == "cifar10" and batches.source == "generated"


def test_an_epoch_has_every_image_once_and_the_test_set_is_whole(data):
    batches = datasets.array_batches(data, 5, "none", eval_batch_size=3)
    train = as_numpy(batches.train(), 4)
    assert all(x.shape == (5, 8, 8, 3) and x.dtype == np.float32 and y.dtype == np.int32 for x, y in train)
    seen = {x.tobytes() for batch, _ in train for x in batch}
    assert len(seen) == 20 and seen < {x.tobytes() for x in data.x_train.astype(np.float32) / np.float32(255)}
    test = as_numpy(batches.test())
    assert [len(x) for x, _ in test] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate([x for x, _ in test]), data.x_test / 255, atol=1e-6)
    assert np.concatenate([y for _, y in test]).tolist() == data.y_test.tolist()


def test_images_keep_their_labels(data):
    (x, y), *_ = as_numpy(datasets.array_batches(data, 20, "none").train(), 1)
    label_of = {image.tobytes(): label for image, label in zip(data.x_train, data.y_train, strict=True)}
    assert [label_of[np.rint(image * 255).astype(np.uint8).tobytes()] for image in x] == y.tolist()


@pytest.mark.parametrize("augment", augmentation.AUGMENTATIONS)
def test_run_resumed_at_any_step_sees_the_same_batches(data, augment):
    batches = datasets.array_batches(data, 5, augment=augment, seed=3)
    through = as_numpy(batches.train(), 11)
    assert_same(through, as_numpy(batches.train(), 11))
    for done in (1, 9):
        assert_same(through[done:], as_numpy(batches.train(first_step=done), 11 - done))


def test_epochs_and_seeds_differ(data):
    def first(seed, step):
        return as_numpy(datasets.array_batches(data, 20, augment="crop_flip", seed=seed).train(step), 1)[0][0]

    assert len({first(seed, epoch).tobytes() for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_standardize_takes_the_published_numbers(data):
    scaled = data.x_test / 255
    for normalize, mean, stddev in (
        ("standardize", np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])),
        ("standardize_dsr", np.array([125.3, 123.0, 113.9]) / 255, np.array([63.0, 62.1, 66.7]) / 255),
    ):
        ((x, _),) = as_numpy(datasets.array_batches(data, 7, normalize).test())
        np.testing.assert_allclose(x, (scaled - mean) / stddev, atol=1e-5)


def test_standardize_measures_what_has_no_published_numbers():
    data = make_data((6, 6), name="mnist")
    batches = datasets.array_batches(data, 7, "standardize", validation_split=3)
    train = data.x_train[:20] / 255
    ((x, _),) = as_numpy(batches.test())
    np.testing.assert_allclose(x[..., 0], (data.x_test / 255 - train.mean()) / train.std(), atol=1e-5)


def test_per_image_standardisation_is_tensorflows(data):
    import tensorflow as tf

    data.x_test[0] = 7  # a flat image
    ((x, _),) = as_numpy(datasets.array_batches(data, 7, "per_image").test())
    np.testing.assert_allclose(x, tf.image.per_image_standardization(data.x_test), atol=1e-4)


def test_mean_image_is_that_of_the_training_images():
    data = make_data((28, 28), name="mnist")
    batches = datasets.array_batches(data, 5, "mean_image", validation_split=3, seed=4)
    mean = (data.x_train[:20] / 255).mean(axis=0)
    x = np.concatenate([x for x, _ in as_numpy(batches.test())])
    np.testing.assert_allclose(x[..., 0], data.x_test / 255 - mean, atol=1e-6)
    (x, y), *_ = as_numpy(batches.train(), 1)
    order = epoch_order(20, seed=4, epoch=0)[:5]
    np.testing.assert_allclose(x[..., 0], data.x_train[order] / 255 - mean, atol=1e-6)
    assert y.tolist() == data.y_train[order].tolist()


@pytest.mark.parametrize(("split", "held"), [(0.1, 3), (3, 3), (0.5, 12), (0.0, 0)])
def test_last_images_are_held_out_and_never_augmented(data, split, held):
    batches = datasets.array_batches(data, 5, "none", "crop_flip", validation_split=split)
    assert batches.num_validation == held and batches.num_examples == 23 - held
    if not held:
        with pytest.raises(ValueError, match="validation_split"):
            batches.validation()
        return
    for _ in range(2):
        x, y = (np.concatenate(values) for values in zip(*as_numpy(batches.validation()), strict=True))
        np.testing.assert_allclose(x, data.x_train[-held:] / 255, atol=1e-6)
        assert y.tolist() == data.y_train[-held:].tolist()


def test_held_out_tenth_of_mnist_is_six_thousand():
    assert held_out.held_out_count(60000, 0.1) == 6000


@pytest.mark.parametrize("normalize", ["standardize", "zca"])
def test_a_validation_seed_draws_which_images_are_held_out(data, normalize):
    options = {"normalize": normalize, "augment": "none", "validation_split": 0.3, "pixels": 1}
    batches = datasets.array_batches(data, 4, **options, validation_seed=7)
    assert (batches.num_validation, batches.num_examples) == (7, 16)
    train, held = held_out.held_out_numbers(23, 7, 7)
    assert sorted([*train, *held]) == list(range(23)) and list(held) != list(range(16, 23))
    whole = dataclasses.replace(data, x_train=data.x_train[train], y_train=data.y_train[train])
    alone = datasets.array_batches(whole, 4, normalize=normalize, augment="none", pixels=1)
    assert_same(as_numpy(batches.train(), 8), as_numpy(alone.train(), 8))  # statistics are those of these images alone
    held_images = dataclasses.replace(whole, x_test=data.x_train[held], y_test=data.y_train[held])
    alone = datasets.array_batches(held_images, 4, normalize=normalize, augment="none", pixels=1)
    assert_same(as_numpy(batches.validation()), as_numpy(alone.test()))
    # The choice depends on no other seed.
    other = datasets.array_batches(data, 4, **options, validation_seed=7, seed=5)
    assert_same(as_numpy(batches.validation()), as_numpy(other.validation()))


@pytest.mark.parametrize("seed", [-1, 0.5, "last"])
def test_a_validation_seed_is_an_integer(data, seed):
    with pytest.raises(ValueError, match="`validation_seed` must be an integer"):
        datasets.array_batches(data, 5, validation_split=0.5, validation_seed=seed)


@pytest.mark.parametrize(("counts", "held"), [([10, 7, 3], 5), ([1, 1, 9], 3), ([40, 0, 2, 13], 11), ([5, 5, 5], 4)])
def test_classes_give_their_exact_shares(counts, held):
    found = held_out.held_out_by_class(np.array(counts), held)
    shares = np.array(counts) * held / sum(counts)
    assert found.sum() == held and (np.abs(found - shares) < 1).all()
    assert all(left > 0 for left, count in zip(np.array(counts) - found, counts, strict=True) if count)


def test_a_stratified_split_holds_out_the_same_share_of_each_class(data):
    labels = np.repeat(np.arange(3, dtype=np.uint8), [12, 8, 3])  # sorted by class
    sorted_data = dataclasses.replace(data, y_train=labels)
    for seed in (None, 4):
        batches = datasets.array_batches(
            sorted_data, 4, "none", validation_split=9, validation_seed=seed, validation_stratified=True
        )
        (x, y), *rest = as_numpy(batches.validation())
        counted = np.bincount(np.concatenate([y, *(labels for _, labels in rest)]), minlength=3)
        # 12, 8 and 3 of 23 times 9 are 4.7, 3.1 and 1.2.
        assert counted.tolist() == [5, 3, 1] and batches.num_validation == 9
    # Without a seed they are the last ones of each class, in the order of the data.
    train, validation = held_out.held_out_numbers(23, 9, None, labels)
    assert validation.tolist() == [*range(7, 12), *range(17, 20), 22]
    assert sorted([*train, *validation]) == list(range(23))
    with pytest.raises(ValueError, match="`validation_stratified` must leave an example of each class"):
        held_out.held_out_by_class(np.array([1, 1, 1]), 2)
    with pytest.raises(ValueError, match="`validation_stratified`"):
        datasets.array_batches(data, 4, validation_split=2, validation_stratified=1)


def test_images_are_not_copied_if_none_are_held_out(data):
    for seed in (None, 0, 7):
        batches = datasets.array_batches(data, 4, normalize="none", validation_seed=seed)
        assert np.shares_memory(batches._arrays["train"][0], data.x_train)


def test_zca_whitens_and_the_test_set_goes_the_same_way():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(12, 12))
    images = np.clip(128 + 20 * random.normal(size=(500, 12)) @ mixing, 0, 255).astype(np.uint8)
    data = datasets.ImageData(
        images.reshape(-1, 2, 2, 3), np.zeros(500, np.uint8), images[:9].reshape(-1, 2, 2, 3), np.zeros(9, np.uint8),
        10, "cifar10", "",
    )  # fmt: skip
    batches = datasets.array_batches(data, 500, "zca", pixels=1, eval_batch_size=9)
    ((x, _),) = as_numpy(batches.train(), 1)
    rows = x.reshape(500, 12)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(rows.T @ rows / 500, np.eye(12), atol=1e-4)
    mean, matrix = zca.fit_zca(images)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)  # ZCA's W is symmetric, PCA's is not
    centred = images - images.mean(axis=0)
    u, s, _ = np.linalg.svd(centred.T @ centred / 500)
    np.testing.assert_allclose(matrix, u @ np.diag(1 / np.sqrt(s + 1e-5)) @ u.T, atol=1e-9)
    ((x, _),) = as_numpy(batches.test())
    np.testing.assert_allclose(x.reshape(9, 12), (images[:9] - mean) @ matrix, atol=1e-4)


def test_workers_and_replicas_share_each_global_batch(data):
    batches = datasets.array_batches(data, 8, augment="crop_flip")
    whole = as_numpy(batches.train(first_step=1), 3)
    shares = [as_numpy(batches.train(1, context(2, worker, 4)), 6) for worker in range(2)]
    for step, (x, y) in enumerate(whole):
        of_step = [batch for share in shares for batch in share[2 * step : 2 * step + 2]]
        assert [len(part) for part, _ in of_step] == [2] * 4
        np.testing.assert_array_equal(np.concatenate([part for part, _ in of_step]), x)
        np.testing.assert_array_equal(np.concatenate([part for _, part in of_step]), y)
    tested = [y for worker in range(2) for _, part in as_numpy(batches.test(context(2, worker, 4))) for y in part]
    assert sorted(tested) == sorted(data.y_test.tolist())


def test_batch_that_cannot_be_shared_equally_is_refused(data):
    with pytest.raises(ValueError, match="multiple of the number of replicas"):
        datasets.array_batches(data, 6).train(context=context(2, 0, 4))


def test_bfloat16_images(data):
    import tensorflow as tf

    for x, y in datasets.array_batches(data, 5, dtype="bfloat16").train().take(1):
        assert x.dtype == tf.bfloat16 and y.dtype == tf.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 24}, "from 1 to the 23"),
        ({"batch_size": 0}, "from 1 to the 23"),
        ({"eval_batch_size": 0}, "`eval_batch_size` must be an integer of at least 1"),
        ({"augment": "cutout"}, "'none', 'shift', 'flip', 'crop_flip'"),
        ({"normalize": "both"}, "'mean_image', 'standardize'"),
        ({"pixels": 8}, "of at least 1 and at most 7"),
        ({"validation_split": 23}, "below 23"),
        ({"validation_split": 1.0}, "fraction below 1"),
        ({"seed": -1}, "`seed`"),
        ({"dtype": "float64"}, "bfloat16"),
    ],
)
def test_unusable_arguments_are_refused(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.array_batches(data, **{"batch_size": 5, **arguments})


def test_negative_step_is_refused(data):
    with pytest.raises(ValueError, match="first_step"):
        datasets.array_batches(data, 5).train(first_step=-1)
