"""The catalogue of published checkpoints, and the `.tar` files in which they come."""

import io
import os
import tarfile

import numpy as np
import pytest

from sparsity_tf import load_masks, models
from sparsity_tf.checkpoints import CheckpointError, checkpoint_sparsity, open_checkpoint
from sparsity_tf.checkpoints.published import find_published, published_checkpoints
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.tools import command
from sparsity_tf.train.load_weights import load_weights
from tests.checkpoints.test_state_of_sparsity import randomize, resnet_tensors, save, values_of

NAME = "standard_threshold_0.9_40000_76000_2000_0.1"


def test_the_catalogue_is_that_of_the_authors():
    catalogue = published_checkpoints()
    assert len(catalogue) == 49 and len({one.name for one in catalogue}) == 49
    assert {(one.model, one.metric) for one in catalogue} == {
        ("Transformer", "BLEU"),
        ("ResNet-50", "top-1 accuracy %"),
    }
    with_threshold = [one for one in catalogue if one.log_alpha_threshold is not None]
    assert {one.technique for one in with_threshold} == {"Variational Dropout"} and len(with_threshold) == 12
    assert all(one.url.endswith(f"/{one.name}.tar") for one in catalogue)
    [best] = [one for one in catalogue if one.name == "magnitude_pruning_0.9_0_400000_10000_0.0_0.1"]
    assert (best.sparsity, best.score, best.begin_step, best.end_step, best.dropout) == (0.9, 23.26, 0, 400000, 0.0)
    assert best.penalty_weight is None and best.penalty_schedule is None
    # The settings are those that the names give.
    for one in catalogue:
        if one.technique == "Variational Dropout" and one.model == "Transformer":
            parts = one.name.split("_")[2:]
            given = [one.sparsity, one.penalty_schedule, one.ramp_start, one.ramp_length, one.penalty_weight]
            given += [one.dropout, one.label_smoothing, one.log_alpha_threshold]
            assert [str(part) if isinstance(part, str) else float(part) for part in given] == [
                part if part.isalpha() else float(part) for part in parts
            ]


@pytest.mark.parametrize(
    "path",
    [f"{NAME}.tar", f"a/{NAME}/model.ckpt-128000", f"/b/{NAME}/", f"{NAME}.tar/x/y", f"{NAME}.keras"],
)
def test_a_path_tells_which_one_it_is(path):
    assert find_published(path).name == NAME
    assert find_published(path.replace("0.9", "0.93")) is None


def tar(path, *members):
    """Writes a tar file. `members`: paths on disk and their names in the tar, or `TarInfo` objects with content."""
    with tarfile.open(path, "w") as archive:
        for source, name in members:
            if isinstance(source, tarfile.TarInfo):
                archive.addfile(source, io.BytesIO(name))
            else:
                archive.add(source, name)
    return str(path)


def info(name, size=0, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


@pytest.fixture
def checkpoint(tmp_path):
    """Files of a checkpoint, and the network in it."""
    source = models.resnet(18, (32, 32, 3), 7, width=0.125, technique="masked")
    randomize(source)
    (tmp_path / "files").mkdir()
    save(tmp_path / "files" / "model.ckpt-5", resnet_tensors(source, "masked", False, "residual", (2, 2, 2, 2)))
    return sorted((tmp_path / "files").iterdir()), source


pytestmark = pytest.mark.tensorflow


def test_a_tar_file_is_read_without_unpacking_it_by_hand(checkpoint, tmp_path, monkeypatch):
    from sparsity_tf.checkpoints.networks import build_network

    files, source = checkpoint
    before = set(os.listdir(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = tar(tmp_path / "published.tar", *((file, f"published/{file.name}") for file in files))
    with open_checkpoint(path) as read:
        assert read.path == path
        model = build_network(read, input_shape=(32, 32, 3))
        assert len(set(os.listdir(tmp_path)) - before) == 2  # the tar file, and the temporary folder
    assert set(os.listdir(tmp_path)) - before == {"published.tar"}
    for name, value in values_of(source).items():
        if "seed" not in name:
            np.testing.assert_array_equal(values_of(model)[name], value, err_msg=name)
    assert checkpoint_sparsity(path).size == checkpoint_sparsity(files[0]).size


def test_masks_and_weights_are_taken_out_of_a_tar_file(checkpoint, tmp_path):
    files, source = checkpoint
    path = tar(tmp_path / "published.tar", *((file, f"published/{file.name}") for file in files))
    model = load_masks(models.resnet(18, (32, 32, 3), 7, width=0.125, technique="masked"), path)
    for weight, expected in zip(get_sparse_weights(model), get_sparse_weights(source), strict=True):
        np.testing.assert_array_equal(weight.mask(), expected.mask(), err_msg=weight.path)
    load_weights(model, path)
    np.testing.assert_array_equal(model.get_layer("stem").kernel, source.get_layer("stem").kernel)


def test_nothing_lands_outside_and_links_are_refused(checkpoint, tmp_path):
    files, _ = checkpoint
    # Names that lead outside are cut down to their last part, and files of other kinds are not unpacked at all.
    members = [(file, f"../../outside/{file.name}") for file in files]
    other = info("/etc/cron.d/evil", 4), b"evil"
    with open_checkpoint(tar(tmp_path / "a.tar", *members, other)) as read:
        assert read.names()
    assert not (tmp_path.parent / "outside").exists() and not (tmp_path / "outside").exists()
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        link = info("published/model.ckpt-5.index", 0, kind, "/etc/passwd"), b""
        with pytest.raises(CheckpointError, match=r"must hold plain files only. Received: published/model\.ckpt-5"):
            open_checkpoint(tar(tmp_path / "b.tar", *members, link))


def test_commands_take_the_folder_the_prefix_and_the_tar_file(checkpoint, tmp_path):
    files, source = checkpoint
    path = tar(tmp_path / "published.tar", *((file, f"published/{file.name}") for file in files))
    for given in (path, str(tmp_path / "files"), str(tmp_path / "files" / "model.ckpt-5")):
        kernel = command.load_model(given).get_layer("stem").kernel
        np.testing.assert_array_equal(kernel, source.get_layer("stem").kernel, err_msg=given)
    (tmp_path / "none").mkdir()
    with pytest.raises(command.CommandError, match="must be a .keras file"):
        command.load_model(str(tmp_path / "none"))


@pytest.mark.parametrize("absolute", [True, False])
def test_a_tar_file_chooses_no_checkpoint_outside(absolute, checkpoint, tmp_path, monkeypatch):
    files, _ = checkpoint
    save(tmp_path / "other.ckpt-9", {"secret": np.ones(3, "float32")})
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "inner"))
    outside = str(tmp_path / "other.ckpt-9") if absolute else "../../other.ckpt-9"
    state = f'model_checkpoint_path: "{outside}"\n'.encode()
    members = [(file, file.name) for file in files if file.name != "checkpoint"]
    with open_checkpoint(tar(tmp_path / "a.tar", *members, (info("checkpoint", len(state)), state))) as read:
        assert read.names() and "secret" not in read.names()


def test_the_newest_checkpoint_of_a_tar_file_is_chosen_by_the_times_in_it(checkpoint, tmp_path):
    files, _ = checkpoint
    save(tmp_path / "model.ckpt-9", {"newer": np.ones(3, "float32")})
    newer = sorted(tmp_path.glob("model.ckpt-9.*"))
    for file in files:
        os.utime(file, (1000, 1000))
    for file in newer:
        os.utime(file, (2000, 2000))
    members = [(file, file.name) for file in [*newer, *files] if file.name != "checkpoint"]
    with open_checkpoint(tar(tmp_path / "a.tar", *members)) as read:
        assert list(read.names()) == ["newer"]


def test_damaged_tar_files_are_one_line(checkpoint, tmp_path):
    files, _ = checkpoint
    members = [(file, file.name) for file in files]
    with pytest.raises(CheckpointError, match=r"File '.*empty\.tar' holds no checkpoint"):
        open_checkpoint(tar(tmp_path / "empty.tar", (files[0], "readme.txt")))
    with pytest.raises(CheckpointError, match=r"must hold one checkpoint\. Received: model\.ckpt-5.* twice"):
        open_checkpoint(tar(tmp_path / "two.tar", *members, *((file, f"b/{file.name}") for file in files)))
    path = tmp_path / "cut.tar"
    content = open(tar(path, *members), "rb").read()
    for length in (700, 2000, len(content) // 2, len(content) * 3 // 4):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.tar'"):
            open_checkpoint(path)
    # A size in a header may be a lie.
    header = bytearray(content)
    lie = info("model.ckpt-5.index", 1 << 40).tobuf()
    path.write_bytes(bytes(lie) + bytes(header[512:]))
    with pytest.raises(CheckpointError, match=r"would unpack to 1,099,511,627,776"):
        open_checkpoint(path)
