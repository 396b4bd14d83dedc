"""From a `Recipe` to its batches: which data set, which preprocessing, and each worker's part of them."""

import dataclasses
import warnings

from sparsity_tf import datasets

# Images a step of evaluation; what the recipes train on says nothing about it.
_EVALUATION = {"imagenet": 250}


def load_data(recipe):
    """The recipe's data set, an `ImageData` or `ImageFiles`; where it came from is in its `source`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: It is not there, or not sound.
    """
    if recipe.dataset == "imagenet":
        if recipe.train_examples:
            raise ValueError(
                f"`train_examples` must be 0 with dataset=imagenet. Received: train_examples={recipe.train_examples}"
            )
        return datasets.imagenet(recipe.data_dir)
    with warnings.catch_warnings():
        # The run prints `source` itself, so the loader need not warn of a stand-in as well.
        warnings.simplefilter("ignore")
        data = datasets.mnist_demo() if recipe.dataset == "mnist_demo" else _load(recipe)
    count = recipe.train_examples
    if count > len(data.x_train):
        raise ValueError(
            f"`train_examples` must be at most {len(data.x_train)}, the examples of {recipe.dataset}. "
            f"Received: train_examples={count}"
        )
    if not count:
        return data
    return dataclasses.replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])


def _load(recipe):
    return getattr(datasets, recipe.dataset)(recipe.data_dir)


def make_batches(recipe, data):
    """The recipe's `datasets.Batches` of what `load_data` found."""
    common = {"batch_size": recipe.batch_size, "seed": recipe.seed}
    common["eval_batch_size"] = _EVALUATION.get(recipe.dataset, 1000)
    if isinstance(data, datasets.ImageFiles):
        return datasets.file_batches(data, recipe=recipe.imagenet_pipeline, image_size=recipe.image_size, **common)
    return datasets.array_batches(
        data, normalize=recipe.normalize, augment=recipe.augment, pixels=recipe.shift_pixels, **common
    )
