"""TinyImageNet from the two HDF5 files of STR's program: the first data set has the images, the second the labels."""

import h5py
import numpy as np
import pytest

from sparsity_tf import datasets


def write(folder, names=("images", "labels"), change=None):
    """Files of a few images; a change replaces arrays of both."""
    random = np.random.default_rng(0)
    for name, count in (("train", 6), ("val", 3)):
        arrays = {
            names[0]: random.integers(0, 256, (count, 64, 64, 3), np.uint8),
            names[1]: np.array([199, 0, 7, 1, 2, 3][:count]),
        }
        arrays |= change or {}
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array)
    return folder


@pytest.mark.parametrize("names", [("images", "labels"), ("a", "b"), ("x", "y")])
def test_files_are_read_in_the_order_of_the_names(names, tmp_path):
    (tmp_path / "tiny_imagenet").mkdir()
    write(tmp_path / "tiny_imagenet", names)
    data = datasets.tiny_imagenet(tmp_path)
    assert (data.num_classes, data.image_shape, data.name) == (200, (64, 64, 3), "tiny_imagenet")
    assert data.y_train.tolist() == [199, 0, 7, 1, 2, 3] and data.y_test.tolist() == [199, 0, 7]
    with h5py.File(tmp_path / "tiny_imagenet" / "train.h5") as file:
        np.testing.assert_array_equal(data.x_train, file[names[0]][()])


def test_planes_become_channels_and_pixels_have_the_statistics_of_imagenet(tmp_path):
    planes = np.zeros((3, 3, 64, 64), np.uint8)
    planes[:, 1] = 255
    data = datasets.tiny_imagenet(write(tmp_path, change={"images": planes, "labels": np.zeros((3, 1), np.int64)}))
    assert data.x_train.shape == (3, 64, 64, 3) and data.y_train.tolist() == [0, 0, 0]
    images, _ = next(iter(datasets.array_batches(data, 3, "standardize", "flip").test()))
    expected = (np.array([0, 1, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(np.asarray(images)[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 32, 32, 3), np.uint8)}, "`x_train` in .* must have shape"),
        ({"images": np.zeros((3, 64, 64, 3), np.float32)}, "train.h5 holds no images .*'/images' must hold integers"),
        ({"labels": np.array([0, 1, 200])}, "integers from 0 to 199"),
        ({"labels": np.array([0, 1])}, "one label for each image"),
    ],
)
def test_other_content_is_refused(change, message, tmp_path):
    write(tmp_path, change={"images": np.zeros((3, 64, 64, 3), np.uint8), "labels": np.zeros(3, np.uint8)} | change)
    with pytest.raises(ValueError, match=message):
        datasets.tiny_imagenet(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`data_dir` must be given"):
        datasets.tiny_imagenet()
    with pytest.raises(FileNotFoundError, match="must hold train.h5 and val.h5"):
        datasets.tiny_imagenet(tmp_path)
    write(tmp_path)
    content = (tmp_path / "val.h5").read_bytes()
    (tmp_path / "val.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="val.h5 is not a readable HDF5 file"):
        datasets.tiny_imagenet(tmp_path)
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file.create_dataset("images", (10_000_000, 64, 64, 3), "u1", chunks=(1, 64, 64, 3))
        file.create_dataset("labels", data=np.zeros(3))
    with pytest.raises(ValueError, match="val.h5 has .* would unpack to 122,880,000,000"):
        datasets.tiny_imagenet(tmp_path)
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file["images"] = np.zeros((3, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="it must hold two data sets, images and labels, not 1"):
        datasets.tiny_imagenet(tmp_path)
