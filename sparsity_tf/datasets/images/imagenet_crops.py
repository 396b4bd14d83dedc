"""From an encoded ImageNet photograph to a square of pixels: the two published recipes, for training and evaluation.

- `state_of_sparsity` (Gale et al., arXiv 1902.09574; the TPU ResNet's preprocessing): Inception's distorted bounding
  box, bicubic; evaluation on the central 224 / 256 of the shorter side, bicubic.
- `str` (Kusupati et al., arXiv 2002.03231; torchvision): `RandomResizedCrop`, bilinear; evaluation on the shorter
  side resized to 256 and a central crop.

Each function takes one encoded image and gives float32 `(size, size, 3)` of values from 0 to 255 (bicubic ones may
overshoot). Only the part of a JPEG that is used is decoded. Randomness comes from a seed that is passed in, so it is
the image's own and the same wherever and whenever the image is prepared.
"""

import math

from sparsity_tf.extras import import_optional

tf = import_optional("tensorflow")

CROP_PADDING = 32  # evaluation of `state_of_sparsity`: the side is size / (size + 32) of the shorter side
_AREA = (0.08, 1.0)
_RATIO = (3.0 / 4.0, 4.0 / 3.0)  # width / height
_ATTEMPTS = 10


def looks_like_image(encoded):
    """Whether a string tensor begins as a JPEG or PNG file does."""
    return tf.io.is_jpeg(encoded) | tf.equal(tf.strings.substr(encoded, 0, 4), b"\x89PNG")


def image_shape(encoded):
    """int32 `[height, width, 3]` of an encoded image; of a JPEG without decoding it.

    One file of ImageNet, n02105855_2933.JPEG, is a PNG.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.concat([tf.io.extract_jpeg_shape(encoded)[:2], [3]], 0),
        lambda: tf.shape(tf.io.decode_png(encoded, channels=3)),
    )


def decode_window(encoded, window, dct_method=""):
    """The window `[top, left, height, width]` of an encoded image: uint8 `(height, width, 3)`."""
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
    # TensorFlow 1's kernel, with which the published networks were trained; `tf.image.resize` has another one.
    image = tf.compat.v1.image.resize_bicubic(image[tf.newaxis], (size, size))[0]
    return tf.ensure_shape(image, (size, size, 3))


def _bilinear(image, height, width):
    # With `antialias` it is what PIL, and so torchvision, does.
    return tf.image.resize(image, tf.stack([height, width]), antialias=True)


def central_window(shape, size):
    """The window of `state_of_sparsity`'s evaluation: a square of int(size / (size + 32) x shorter side)."""
    height, width = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(size / (size + CROP_PADDING) * shorter, tf.int32), 1)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def state_of_sparsity_train(encoded, seed, size):
    """A distorted bounding box of the image, resized and perhaps mirrored.

    The box covers 8 to 100 % of the area with a ratio of 3/4 to 4/3; where none is found in ten attempts, which is
    told by a box that is the whole image, it is evaluation's central square.
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
    """The window of torchvision's `RandomResizedCrop`: the first of ten drawn that fits, or a central one.

    Args:
        shape: int32 `[height, width, ...]`.
        seed: int64 `(2,)`.

    Returns:
        int32 `[top, left, height, width]`.
    """
    height, width = shape[0], shape[1]
    # All ten at once; the four rows are area, ratio, and where it lies.
    draws = tf.random.stateless_uniform((4, _ATTEMPTS), seed)
    area = tf.cast(height * width, tf.float32) * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = tf.exp(low + (high - low) * draws[1])
    widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    rows, columns = height - heights[first], width - widths[first]

    def anywhere(room, draw):  # 0 to `room`, both included
        return tf.minimum(tf.cast(tf.cast(room + 1, tf.float32) * draw, tf.int32), room)

    window = tf.stack([anywhere(rows, draws[2, first]), anywhere(columns, draws[3, first]), heights[first]])
    window = tf.concat([window, widths[first, tf.newaxis]], 0)
    # The largest central window whose ratio is allowed.
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
    """`Resize(256)` and `CenterCrop(224)` of torchvision; with another size both in proportion."""
    shape = image_shape(encoded)[:2]
    shorter = round(size * 256 / 224)
    # The longer side is rounded down.
    height, width = tf.unstack(shorter * shape // tf.reduce_min(shape))
    image = _bilinear(decode_window(encoded, tf.concat([[0, 0], shape], 0), "INTEGER_ACCURATE"), height, width)
    # Python's and TensorFlow's round agree on halves: to the even number.
    top, left = (tf.cast(tf.round(tf.cast(side - size, tf.float32) / 2), tf.int32) for side in (height, width))
    return tf.ensure_shape(image[top : top + size, left : left + size], (size, size, 3))


RECIPES = {
    "state_of_sparsity": (state_of_sparsity_train, state_of_sparsity_eval),
    "str": (str_train, str_eval),
}
# Both recipes subtract and divide by these, of pixels / 255.
MEAN, STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
