"""The two recipes' windows and resizing, against plain Python and against PIL, which torchvision uses."""

import io
import math

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def crops():
    from sparsity_tf.datasets.images import imagenet_crops as crops

    return crops


def photograph(height=90, width=120, seed=0):
    """Smooth noise: something to resize."""
    noise = np.random.default_rng(seed).normal(size=(height // 6 + 2, width // 6 + 2, 3))
    rows, columns = np.linspace(0, noise.shape[0] - 1.001, height), np.linspace(0, noise.shape[1] - 1.001, width)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    mix = (1 - right) * noise[:, left] + right * noise[:, left + 1]
    image = (1 - down) * mix[top] + down * mix[top + 1]
    return np.clip(128 + 60 * image, 0, 255).astype(np.uint8)


def encode(image, quality=95):
    import tensorflow as tf

    return tf.io.encode_jpeg(image, quality=quality, chroma_downsampling=False)


def seeds(count):
    import tensorflow as tf

    return tf.stack([tf.zeros(count, tf.int64), tf.range(count, dtype=tf.int64)], axis=1)


def test_png_gives_what_jpeg_gives(crops):
    import tensorflow as tf

    image = photograph()
    jpeg, png = encode(image, 100), tf.io.encode_png(image)
    assert crops.image_shape(jpeg).numpy().tolist() == crops.image_shape(png).numpy().tolist() == [90, 120, 3]
    window = tf.constant([10, 20, 30, 40])
    cut = crops.decode_window(png, window).numpy()
    np.testing.assert_array_equal(cut, image[10:40, 20:60])
    assert np.abs(crops.decode_window(jpeg, window).numpy().astype(int) - cut).mean() < 3
    for train, evaluate in crops.RECIPES.values():
        for image in (train(png, seeds(1)[0], 32), evaluate(png, 32)):
            assert image.shape == (32, 32, 3) and image.dtype == tf.float32


def test_grey_images_get_three_channels(crops):
    jpeg = encode(photograph()[..., :1])
    for train, evaluate in crops.RECIPES.values():
        for image in (train(jpeg, seeds(1)[0], 32).numpy(), evaluate(jpeg, 32).numpy()):
            np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_cmyk_images_are_decoded(crops):
    pil = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pil.fromarray(photograph()).convert("CMYK").save(file, "JPEG")  # ImageNet has 22 of them
    image = crops.str_eval(file.getvalue(), 64).numpy()
    assert image.shape == (64, 64, 3) and image.std() > 10


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((256, 256), (16, 16, 224, 224)),
        ((375, 500), (24, 86, 328, 328)),
        ((500, 333), (105, 21, 291, 291)),
        ((1, 9), (0, 4, 1, 1)),
    ],
)
def test_central_square_of_state_of_sparsity(crops, shape, window):
    import tensorflow as tf

    assert tuple(crops.central_window(tf.constant([*shape, 3]), 224).numpy()) == window


def bicubic(image, size):
    """TensorFlow 1's bicubic resizing: a = -0.75, output pixel r at input position r * scale, borders repeated."""

    def matrix(length):
        weights = np.zeros((size, length))
        for r in range(size):
            position = r * length / size
            base = math.floor(position)
            for k in range(base - 1, base + 3):
                t = abs(position - k)
                near = ((1.25 * t - 2.25) * t) * t + 1
                far = ((-0.75 * t + 3.75) * t - 6) * t + 3
                weights[r, min(max(k, 0), length - 1)] += near if t <= 1 else far
        return weights

    height, width = image.shape[:2]
    return np.einsum("rh,hwc,sw->rsc", matrix(height), image.astype(float), matrix(width))


def test_evaluation_of_state_of_sparsity_is_central_crop_and_bicubic(crops):
    import tensorflow as tf

    image = photograph()
    expected = bicubic(image[6:84, 21:99], 224)  # 78 = int(0.875 * 90)
    resized = crops.state_of_sparsity_eval(tf.io.encode_png(image), 224).numpy()
    assert np.abs(resized - expected).max() < 0.5  # the kernel is tabulated


def test_distorted_boxes_keep_to_area_and_ratio(crops):
    """The box is read off an image whose red and blue are the row and the column of a pixel."""
    import tensorflow as tf

    rows, columns = np.mgrid[0:200, 0:250]
    png = tf.io.encode_png(np.stack([rows, rows * 0, columns], axis=-1).astype(np.uint8))

    def box(seed):
        image = crops.state_of_sparsity_train(png, seed, 64)
        return tf.stack([image[0, 0, 0], image[-1, -1, 0], image[0, 0, 2], image[-1, -1, 2]])

    top, bottom, left, right = tf.map_fn(box, seeds(200), fn_output_signature=tf.float32).numpy().T
    flipped = left > right
    left, right = np.minimum(left, right), np.maximum(left, right)
    height, width = (bottom - top) * 64 / 63, (right - left) * 64 / 63  # the last pixel shows the position 63 / 64
    area, ratio = height * width / 50000, width / height
    assert 0.06 < area.min() < 0.15 and area.max() < 1.02
    assert 0.70 < ratio.min() < 0.80 and 1.25 < ratio.max() < 1.42
    assert 70 < flipped.sum() < 130
    assert len(np.unique(top)) > 40


def torchvision_window(height, width, uniform):
    """`RandomResizedCrop.get_params`; `uniform` gives (area, ratio, top, left) draws of each attempt."""
    for attempt in range(10):
        area = height * width * (0.08 + 0.92 * uniform[0][attempt])
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * uniform[1][attempt])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int((height - h + 1) * uniform[2][attempt]), int((width - w + 1) * uniform[3][attempt]), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (64, 64), (40, 400), (400, 41), (20, 2000), (1, 1)])
def test_random_resized_crop_is_torchvisions(crops, shape):
    import tensorflow as tf

    same, all_seeds = 0, seeds(30)
    windows = tf.map_fn(
        lambda seed: crops.random_resized_window(tf.constant([*shape, 3]), seed),
        all_seeds,
        fn_output_signature=tf.int32,
    ).numpy()
    for seed, window in zip(all_seeds, windows, strict=True):
        uniform = tf.random.stateless_uniform((4, 10), seed).numpy().astype(float)
        same += tuple(window) == torchvision_window(*shape, uniform)
        top, left, height, width = window
        assert 0 <= top <= shape[0] - height and 0 <= left <= shape[1] - width and height > 0 and width > 0
    assert same >= 29  # float32 may round the other way


def test_narrow_images_fall_back_to_a_central_crop(crops):
    import tensorflow as tf

    for shape, window in (((20, 2000), (0, 986, 20, 27)), ((2000, 30), (980, 0, 40, 30))):
        found = crops.random_resized_window(tf.constant([*shape, 3]), seeds(1)[0]).numpy()
        assert tuple(found) == window


@pytest.mark.parametrize("shape", [(90, 120), (131, 97), (60, 60), (300, 401)])
def test_evaluation_of_str_is_torchvisions(crops, shape):
    """`Resize(256)` and `CenterCrop(224)`, at a quarter of the size, with PIL as in torchvision."""
    import tensorflow as tf

    pil = pytest.importorskip("PIL.Image")
    image = photograph(*shape)
    height, width = shape
    short, size = 64, 56
    if width <= height:
        new = (short, int(short * height / width))
    else:
        new = (int(short * width / height), short)
    resized = np.asarray(pil.fromarray(image).resize(new, pil.Resampling.BILINEAR))
    top, left = round((new[1] - size) / 2), round((new[0] - size) / 2)
    expected = resized[top : top + size, left : left + size]
    ours = crops.str_eval(tf.io.encode_png(image), size).numpy()
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1.01  # PIL rounds to whole numbers after each direction


def test_same_seed_same_image_and_another_seed_another(crops):
    jpeg = encode(photograph())
    for train, _ in crops.RECIPES.values():
        first, again, other = (train(jpeg, seeds(2)[k], 32).numpy() for k in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1
