"""Writes a few tiny images in each layout that ImageNet comes in. Every image says which it is by its colours."""

import numpy as np


def jpeg(number, height=48, width=40, quality=95):
    """A JPEG of a smooth pattern; the mean of the green channel is about 10 x number + 20."""
    import tensorflow as tf

    rows, columns = np.mgrid[0:height, 0:width]
    red, blue = 255 * rows / height, 255 * columns / width
    image = np.stack([red, np.full_like(red, 10 * number + 20), blue], axis=-1)
    return tf.io.encode_jpeg(image.astype(np.uint8), quality=quality, chroma_downsampling=False).numpy()


def example(encoded, label):
    """A record with the fields of the original layout; `label` is 1-based."""
    import tensorflow as tf

    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    fields = {
        "image/height": [48],
        "image/width": [40],
        "image/colorspace": [b"RGB"],
        "image/channels": [3],
        "image/class/label": [label],
        "image/class/synset": [b"n01440764"],
        "image/class/text": [b"tench, Tinca tinca"],
        "image/object/bbox/xmin": [0.1],
        "image/object/bbox/xmax": [0.9],
        "image/object/bbox/ymin": [0.2],
        "image/object/bbox/ymax": [0.8],
        "image/object/bbox/label": [label],
        "image/format": [b"JPEG"],
        "image/filename": [b"n01440764_1.JPEG"],
        "image/encoded": [encoded],
    }
    features = tf.train.Features(feature={key: feature(values) for key, values in fields.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_shard(path, serialized):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in serialized:
            writer.write(record)


def write_records(folder, train=20, test=7, shards=(4, 2), num_classes=1000):
    """Shards in the original layout; example k of a part has image k and label k % num_classes + 1."""
    folder.mkdir(exist_ok=True, parents=True)
    for part, count, total in (("train", train, shards[0]), ("validation", test, shards[1])):
        for number in range(total):
            records = [example(jpeg(k), k % num_classes + 1) for k in range(number, count, total)]
            write_shard(folder / f"{part}-{number:05d}-of-{total:05d}", records)


def write_folders(folder, train=20, test=8, num_classes=4):
    """Image folders; image k of a part is in class k % num_classes."""
    for part, count in (("train", train), ("val", test)):
        for k in range(count):
            path = folder / part / f"n{k % num_classes:08d}"
            path.mkdir(parents=True, exist_ok=True)
            (path / f"image_{k}.JPEG").write_bytes(jpeg(k))
