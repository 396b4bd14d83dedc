"""Turns an encoded ImageNet photograph into a square of pixels: two published recipes, for training and evaluation.

- `state_of_sparsity` (Gale et al., arXiv 1902.09574; the TPU ResNet's preprocessing): Inception's distorted bounding
  box, bicubic; evaluation on the central 224 / 256 of the shorter side, bicubic.
- `str` (Kusupati et al., arXiv 2002.03231; torchvision): `RandomResizedCrop`, bilinear; evaluation on the shorter
  side resized to 256 and a central crop.

Each function takes one encoded image and returns float32 `(size, size, 3)` with values from 0 to 255 (bicubic values
may overshoot). Only the used part of a JPEG is decoded. The caller passes the random seed of an image, so the crop does
not depend on where and when the image is prepared.
"""

import math

from sparsity_tf.extras import import_optional

tf = import_optional("tensorflow")

CROP_PADDING = 32  # evaluation of `state_of_sparsity` crops size / (size + 32) of the shorter side
_AREA = (0.08, 1.0)
_RATIO = (3.0 / 4.0, 4.0 / 3.0)  # width / height
_ATTEMPTS = 10


def looks_like_image(encoded):
    """Whether a string tensor begins with the first bytes of a JPEG or PNG file."""
    return tf.io.is_jpeg(encoded) | tf.equal(tf.strings.substr(encoded, 0, 4), b"\x89PNG")


def image_shape(encoded):
    """int32 `[height, width, 3]` of an encoded image. A JPEG is not decoded for it.

    PNG is supported because one file of ImageNet, n02105855_2933.JPEG, is a PNG.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.concat([tf.io.extract_jpeg_shape(encoded)[:2], [3]], 0),
        lambda: tf.shape(tf.io.decode_png(encoded, channels=3)),
    )


def decode_window(encoded, window, dct_method=""):
    """Decodes the window `[top, left, height, width]` of an encoded image: uint8 `(height, width, 3)`."""
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=dct_method),
        lambda: tf.slice(
            tf.io.decode_png(encoded, channels=3),
            tf.stack([window[0], window[1], 0]),
            tf.stack([window[2], window[3], 3]),
        ),
    )
    image.set_shape((None, None, 3))
    return image


def _flip(image, seed):
    return tf.cond(tf.random.stateless_uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _bicubic(image, size):
    # The published networks were trained with TensorFlow 1's bicubic kernel. `tf.image.resize` has another one.
    image = tf.compat.v1.image.resize_bicubic(image[tf.newaxis], (size, size))[0]
    return tf.ensure_shape(image, (size, size, 3))


def _bilinear(image, height, width):
    # With `antialias` the result agrees with PIL, which torchvision uses.
    return tf.image.resize(image, tf.stack([height, width]), antialias=True)


def central_window(shape, size):
    """`state_of_sparsity`'s window of evaluation: a central square of side int(size / (size + 32) x shorter side)."""
    height, width = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(size / (size + CROP_PADDING) * shorter, tf.int32), 1)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def state_of_sparsity_train(encoded, seed, size):
    """Crops a random box (Inception's distorted bounding box), resizes it and mirrors it with probability 1/2.

    The box covers 8 to 100 % of the area and has a ratio of 3/4 to 4/3. If TensorFlow finds no such box in ten
    attempts, it returns the whole image; then the central square of evaluation is used instead.
    """
    seeds = tf.random.split(seed)
    shape = image_shape(encoded)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seeds[0],
        min_object_covered=0.1,
        aspect_ratio_range=_RATIO,
        area_range=_AREA,
        max_attempts=_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    box = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    whole = tf.reduce_all(tf.equal(box[2:], shape[:2]))
    window = tf.where(whole, central_window(shape, size), box)
    return _flip(_bicubic(decode_window(encoded, window), size), seeds[1])


def state_of_sparsity_eval(encoded, size):
    """The central square of the image, resized."""
    return _bicubic(decode_window(encoded, central_window(image_shape(encoded), size)), size)


def random_resized_window(shape, seed):
    """The window of torchvision's `RandomResizedCrop`: the first of ten random windows that fits, or a central one.

    Args:
        shape: int32 `[height, width, ...]`.
        seed: int64 `(2,)`.

    Returns:
        int32 `[top, left, height, width]`.
    """
    height, width = shape[0], shape[1]
    # Draws all ten windows at once. The four rows are the area, the ratio, and the two coordinates of the position.
    draws = tf.random.stateless_uniform((4, _ATTEMPTS), seed)
    area = tf.cast(height * width, tf.float32) * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = tf.exp(low + (high - low) * draws[1])
    widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    rows, columns = height - heights[first], width - widths[first]

    def anywhere(room, draw):  # an integer from 0 to `room`, both included
        return tf.minimum(tf.cast(tf.cast(room + 1, tf.float32) * draw, tf.int32), room)

    window = tf.stack([anywhere(rows, draws[2, first]), anywhere(columns, draws[3, first]), heights[first]])
    window = tf.concat([window, widths[first, tf.newaxis]], 0)
    # The fallback: the largest central window whose ratio is allowed.
    high_enough = tf.cast(tf.round(tf.cast(width, tf.float32) / _RATIO[0]), tf.int32)
    wide_enough = tf.cast(tf.round(tf.cast(height, tf.float32) * _RATIO[1]), tf.int32)
    most = tf.stack([tf.minimum(height, high_enough), tf.minimum(width, wide_enough)])
    central = tf.concat([(shape[:2] - most) // 2, most], 0)
    return tf.where(tf.reduce_any(fits), window, central)


def str_train(encoded, seed, size):
    """`RandomResizedCrop(size)` and `RandomHorizontalFlip` of torchvision."""
    seeds = tf.random.split(seed)
    window = random_resized_window(image_shape(encoded), seeds[0])
    image = _bilinear(decode_window(encoded, window, "INTEGER_ACCURATE"), size, size)
    return _flip(tf.ensure_shape(image, (size, size, 3)), seeds[1])


def str_eval(encoded, size):
    """`Resize(256)` and `CenterCrop(224)` of torchvision; for another `size`, both numbers change in proportion."""
    shape = image_shape(encoded)[:2]
    shorter = round(size * 256 / 224)
    # The longer side is rounded down.
    height, width = tf.unstack(shorter * shape // tf.reduce_min(shape))
    image = _bilinear(decode_window(encoded, tf.concat([[0, 0], shape], 0), "INTEGER_ACCURATE"), height, width)
    # Python (in torchvision) and TensorFlow both round halves to the even number.
    top, left = (tf.cast(tf.round(tf.cast(side - size, tf.float32) / 2), tf.int32) for side in (height, width))
    return tf.ensure_shape(image[top : top + size, left : left + size], (size, size, 3))


RECIPES = {
    "state_of_sparsity": (state_of_sparsity_train, state_of_sparsity_eval),
    "str": (str_train, str_eval),
}
# Both recipes subtract MEAN from pixels / 255 and divide by STDDEV.
MEAN, STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
