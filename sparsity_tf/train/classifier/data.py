"""The data of a `Recipe`: loads the data set, makes preprocessed batches, and describes the data to recognise them."""

import dataclasses
import os
import warnings
import zlib

from sparsity_tf import datasets

# Images in a step of evaluation. The batch size of training would be a poor guide for it.
_EVALUATION = {"imagenet": 250}


def load_data(recipe):
    """Loads the recipe's data set: an `ImageData`, `ImageFiles` or `SequenceData`. Its `source` says where it is from.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: The data set is missing or damaged.
    """
    if recipe.dataset == "imagenet":
        for name, unused in (("train_examples", 0), ("random_labels", "none")):
            if getattr(recipe, name) != unused:
                raise ValueError(
                    f"`{name}` must be {unused} with dataset=imagenet. Received: {name}={getattr(recipe, name)}"
                )
        return datasets.imagenet(recipe.data_dir)
    with warnings.catch_warnings():
        # The loader warns if it falls back to the small demo set. The run prints `source`, which says the same.
        warnings.simplefilter("ignore")
        data = datasets.mnist_demo() if recipe.dataset == "mnist_demo" else _load(recipe)
    count = recipe.train_examples
    if count > len(data.x_train):
        raise ValueError(
            f"`train_examples` must be at most {len(data.x_train)}, the examples of {recipe.dataset}. "
            f"Received: train_examples={count}"
        )
    if count:
        data = dataclasses.replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])
    if recipe.random_labels != "none":
        data = datasets.random_labels(data, recipe.random_labels, recipe.label_seed)
    return data


def _load(recipe):
    return getattr(datasets, recipe.dataset)(recipe.data_dir)


def describe(data):
    """Describes a data set, independently of its folder: a dict of plain values, for `run_folder.claim_folder`.

    The checksum covers all arrays. For a data set that is read while training runs, it covers the names of its files
    and the labels.
    """
    if isinstance(data, datasets.ImageFiles):
        train, test = data.train, data.test
        parts = ["\n".join(map(os.path.basename, split.files)).encode() for split in (train, test)]
        parts += [split.labels for split in (train, test) if split.labels is not None]
        counts = {"training_examples": train.num_examples, "test_examples": test.num_examples}
    else:
        parts = [data.x_train, data.y_train, data.x_test, data.y_test]
        counts = {"training_examples": len(data.x_train), "test_examples": len(data.x_test)}
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return {"name": data.name, **counts, "classes": data.num_classes, "checksum": checksum}


def make_batches(recipe, data):
    """Makes the recipe's `datasets.Batches` from the data that `load_data` returned.

    With a `validation_split`, the examples to hold out are drawn without replacement. The draw depends on
    `validation_seed`, the number of training examples (at most `train_examples`) and the number to hold out, and with
    `validation_stratified` on the labels.
    """
    common = {"batch_size": recipe.batch_size, "seed": recipe.seed}
    common["eval_batch_size"] = _EVALUATION.get(recipe.dataset, 1000)
    names = ("validation_split", "validation_seed", "validation_stratified")
    common |= {name: getattr(recipe, name) for name in names}
    if isinstance(data, datasets.ImageFiles):
        return datasets.file_batches(data, recipe=recipe.imagenet_pipeline, image_size=recipe.image_size, **common)
    if recipe.validation_seed == -1:
        common["validation_seed"] = None  # the last examples
    if isinstance(data, datasets.SequenceData):
        if (recipe.normalize, recipe.augment) != ("standardize", "none"):
            raise ValueError(
                f"`normalize` must be standardize and `augment` must be none with dataset={recipe.dataset}. Received: "
                f"normalize={recipe.normalize}, augment={recipe.augment}"
            )
        return datasets.sequence_batches(data, **common)
    return datasets.array_batches(
        data, normalize=recipe.normalize, augment=recipe.augment, pixels=recipe.shift_pixels, **common
    )
