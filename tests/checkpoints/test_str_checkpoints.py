"""PyTorch checkpoints of STR become the networks they were: the same predictions as a PyTorch implementation."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import inspection, load_masks, models, sparsify
from sparsity_tf.checkpoints import CheckpointError, checkpoint_sparsity, open_checkpoint
from sparsity_tf.checkpoints.str_checkpoints import build_model
from sparsity_tf.distributions import budgets
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.tools import budget, import_checkpoint
from sparsity_tf.train.load_weights import load_weights

torch = pytest.importorskip("torch")

from tests.checkpoints import str_networks  # noqa: E402

NETWORKS = ("resnet_18", "resnet_50", "mobilenet_v1")
# How the files of the paper's users differ.
OLD, NEW = {"_use_new_zipfile_serialization": False}, {}


def save(path, state, format=NEW, prefix="module.", **more):
    """Writes a checkpoint as the paper's program does: beside the network, the state of its training."""
    state = {prefix + name: tensor for name, tensor in state.items()}
    momentum = {number: {"momentum_buffer": tensor * 2} for number, tensor in enumerate(state.values())}
    saved = {
        "epoch": 100,
        "arch": "ResNet50",
        "state_dict": state,
        "best_acc1": np.float64(74.3),
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.1, "nesterov": False, "params": [0, 1, 2]}]},
    }
    torch.save(saved | more, str(path), **format)
    return str(path)


def load(path, form="auto", input_shape=(64, 64, 3)):
    with open_checkpoint(path) as checkpoint:
        return build_model(checkpoint, form, input_shape)


def difference(network, model, size=64):
    """The largest difference of logits, as a part of the largest logit."""
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("float32")
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = ops.convert_to_numpy(model(images, training=False))
    assert np.abs(expected).max() > 0.1
    return np.abs(found - expected).max() / np.abs(expected).max()


def nonzeros_of(network):
    weights = [tensor for name, tensor in str_networks.to_dense_state(network).items() if tensor.ndim == 4]
    return [int(np.count_nonzero(tensor.numpy())) for tensor in weights]


@pytest.mark.parametrize(
    "name,form",
    [
        *((name, "auto") for name in NETWORKS),
        ("resnet_18", "dense"),
        ("mobilenet_v1", "masked"),
        # Moved to `make test-all`: each form and each network stays.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("resnet_18", "masked"),
                ("resnet_50", "masked"),
                ("resnet_50", "dense"),
                ("mobilenet_v1", "dense"),
            ]
        ),
    ],
)
def test_a_network_predicts_what_it_did(name, form, tmp_path):
    network = str_networks.build(name)
    model = load(save(tmp_path / "model_best.pth", network.state_dict()), form)
    assert difference(network, model) < 1e-5
    weights = get_sparse_weights(model)
    technique = {"auto": "soft_threshold", "masked": "masked", "dense": None}[form]
    assert {weight.technique.name for weight in weights} == ({technique} - {None})
    table = inspection.sparsity_table(model, include_dense=True)
    assert [row.nonzeros for row in table] == nonzeros_of(network)  # in STR's order, too
    assert 0.2 < table.sparsity < 0.9


# Moved to `make test-all`: one odd size stays.
@pytest.mark.parametrize("size", [49, *(pytest.param(size, marks=pytest.mark.slow) for size in (32, 57))])
def test_images_of_odd_sizes_are_padded_as_pytorch_pads_them(size, tmp_path):
    network = str_networks.build("mobilenet_v1")
    path = save(tmp_path / "model.pth", network.state_dict())
    assert difference(network, load(path, input_shape=(size, size, 3)), size) < 1e-5
    network = str_networks.build("resnet_18")
    path = save(tmp_path / "model.pth", network.state_dict())
    assert difference(network, load(path, input_shape=(None, None, 3)), size) < 1e-5


@pytest.mark.parametrize(
    "format,prefix",
    [(OLD, "module."), (NEW, "")],
    ids=["before torch 1.6", "without the prefix of the wrapper"],
)
def test_files_of_every_release_are_the_same_network(format, prefix, tmp_path):
    network = str_networks.build("resnet_18")
    path = save(tmp_path / "checkpoint.pth.tar", network.state_dict(), format, prefix)
    assert difference(network, load(path, "dense")) < 1e-5


def test_weights_that_a_file_holds_twice_are_read_once(tmp_path):
    network = str_networks.build("resnet_18")
    state = network.state_dict()
    # Old files hold the weights of inference of the last training step beside the raw ones.
    copies = {name.replace("weight", "sparseWeight"): tensor + 1 for name, tensor in state.items() if tensor.ndim == 4}
    path = save(tmp_path / "twice.pth", state | copies)
    assert difference(network, load(path)) < 1e-5
    assert checkpoint_sparsity(path).nonzeros == sum(nonzeros_of(network))
    # The same network with and without the wrapper.
    state |= {f"module.{name}": tensor for name, tensor in state.items()}
    assert difference(network, load(save(tmp_path / "both.pth", state, prefix=""))) < 1e-5
    state["module.fc.weight"] = state["fc.weight"] + 1
    with pytest.raises(CheckpointError, match=r"two different tensors fc\.weight and module\.fc\.weight"):
        load(save(tmp_path / "differ.pth", state, prefix=""))


@pytest.mark.parametrize("name", ["mask", "scores"])
def test_masks_of_other_techniques_are_not_ignored(name, tmp_path):
    state = str_networks.to_dense_state(str_networks.build("resnet_18"))
    state |= {key.replace("weight", name): tensor for key, tensor in state.items() if tensor.ndim == 4}
    with pytest.raises(CheckpointError, match=rf"tensors that a resnet of STR does not have: .*\.{name}"):
        load(save(tmp_path / "masks.pth", state))


def test_a_converted_file_is_a_dense_network_with_zeros(tmp_path):
    network = str_networks.build("resnet_50")
    path = save(tmp_path / "dense.pth", str_networks.to_dense_state(network))
    model = load(path)
    assert not get_sparse_weights(model) and difference(network, model) < 1e-5
    assert difference(network, load(path, "masked")) < 1e-5
    assert checkpoint_sparsity(path).nonzeros == sum(nonzeros_of(network))
    with pytest.raises(CheckpointError, match="has no sparseThreshold"):
        load(path, "soft_threshold")


def test_first_and_last_layers_may_be_dense(tmp_path):
    network = str_networks.build("resnet_18")
    network.conv1 = str_networks.DenseConv(3, 8, 7, stride=2, padding=3)
    network.fc = torch.nn.Conv2d(64, 10, 1)
    model = load(save(tmp_path / "model.pth", network.state_dict()))
    assert difference(network, model) < 1e-5
    sparse = {weight.layer.name for weight in get_sparse_weights(model)}
    assert len(sparse) == 19 and not sparse & {"stem", "classifier"}
    # As torchvision's networks: the classifier is a matrix.
    state = network.state_dict()
    state["fc.weight"] = state["fc.weight"][:, :, 0, 0]
    assert difference(network, load(save(tmp_path / "model.pth", state, prefix=""))) < 1e-5


def test_batch_normalization_without_scale_and_offset(tmp_path):
    network = str_networks.build("resnet_18")
    state = network.state_dict()
    norms = [name for name in state if name.endswith("running_var")]
    for name in norms:
        state[name.replace("running_var", "weight")].fill_(1)
        state[name.replace("running_var", "bias")].fill_(0)
    gone = {name.replace("running_var", leaf) for name in norms for leaf in ("weight", "bias")}
    left = {name: tensor for name, tensor in state.items() if name not in gone}
    assert difference(network, load(save(tmp_path / "model.pth", left))) < 1e-5


def test_the_thresholds_are_kept_for_training_on(tmp_path):
    network = str_networks.build("mobilenet_v1")
    model = load(save(tmp_path / "model.pth", network.state_dict()))
    thresholds = [tensor for name, tensor in network.state_dict().items() if name.endswith("sparseThreshold")]
    found = [ops.convert_to_numpy(weight.extra("raw_threshold")) for weight in get_sparse_weights(model)]
    assert len(found) == 28
    np.testing.assert_array_equal([float(one) for one in found], [float(one) for one in thresholds])


def test_sparsity_is_counted_without_building_the_network(tmp_path):
    network = str_networks.build("resnet_50")
    report = checkpoint_sparsity(save(tmp_path / "model.pth", network.state_dict(), OLD))
    assert len(report.rows) == 54 and not report.notes
    assert {row.technique for row in report.rows} == {"soft_threshold"}
    assert report.nonzeros == sum(nonzeros_of(network))
    assert "layer1.0.conv1.weight" in [row.name for row in report.rows]


def test_the_import_command_writes_a_keras_file(tmp_path, capsys):
    network = str_networks.build("resnet_18")
    path, output = save(tmp_path / "model.pth", network.state_dict()), str(tmp_path / "model.keras")
    flags = ["import_checkpoint", f"--checkpoint={path}", f"--output={output}", "--input_shape=64,64,3"]
    assert import_checkpoint.main(flags) == 0
    assert "resnet_18, soft_threshold" in capsys.readouterr().out
    assert difference(network, keras.saving.load_model(output)) < 1e-5
    assert import_checkpoint.main([*flags, "--overwrite", "--form=dense"]) == 0
    assert "resnet_18, dense" in capsys.readouterr().out
    assert import_checkpoint.main([*flags, "--overwrite", "--num_heads=2"]) == 1
    assert "`num_heads` has no meaning for a network of STR" in capsys.readouterr().err


def test_weights_and_masks_start_other_networks(tmp_path):
    network = str_networks.build("resnet_18")
    path = save(tmp_path / "model.pth", network.state_dict())
    options = {"input_shape": (64, 64, 3), "num_classes": 10, "width": 0.125, "variant": "str"}
    dense = models.resnet_18(**options)
    load_weights(dense, path)
    assert difference(network, dense) < 1e-5
    soft = models.resnet_18(**options, technique="str")
    load_weights(soft, path)
    assert difference(network, soft) < 1e-5
    masked = load_masks(sparsify(models.resnet_18(**options), "masked"), path)
    assert [int(np.sum(ops.convert_to_numpy(weight.mask()))) for weight in get_sparse_weights(masked)] == nonzeros_of(
        network
    )


def test_a_file_of_dense_weights_holds_no_masks(tmp_path):
    state = str_networks.build("resnet_18").state_dict()
    path = save(tmp_path / "dense.pth", {name: x for name, x in state.items() if not name.endswith("sparseThreshold")})
    options = {"input_shape": (32, 32, 3), "num_classes": 10, "width": 0.125, "variant": "str", "classifier": "conv"}
    with pytest.raises(ValueError, match="`source` holds no masks"):
        load_masks(sparsify(models.resnet_18(**options), "masked"), path)


def test_the_budget_of_a_file_is_transferred(tmp_path, capsys):
    network = str_networks.build("mobilenet_v1")
    path, output = save(tmp_path / "model.pth", network.state_dict()), str(tmp_path / "budget.csv")
    assert budget.main(["budget", f"--checkpoint={path}", f"--output={output}"]) == 0, capsys.readouterr().err
    read = budgets.read_csv(output)
    sizes = [tensor.numel() for tensor in network.state_dict().values() if tensor.ndim == 4]
    assert list(read)[0] == "stem" and len(read) == 28
    options = '--model_options={"width": 0.25, "num_classes": 10}'
    assert budget.main(["budget", f"--input={output}", "--model=mobilenet_v1", options]) == 0
    assert "the budget fits mobilenet_v1" in capsys.readouterr().out
    assert [round(size * (1 - float(read[name]))) for name, size in zip(read, sizes, strict=True)] == nonzeros_of(
        network
    )


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda state: state.pop("layer2.0.bn1.running_mean"), r"no tensor layer2\.0\.bn1\.running_mean"),
        (lambda state: state.update({"bn1.bias": torch.zeros(3)}), r"stem_bn/beta should have the shape \(8,\)"),
        (lambda state: state.update({"conv1.sparseThreshold": torch.zeros(8, 1)}), "should be one number a layer"),
        (lambda state: state.update({"head.weight": torch.zeros(3)}), r"does not have: head\.weight"),
        (lambda state: state.update({"layer1.2.conv1.weight": torch.zeros(3)}), r"\(3, 2, 2, 2\) blocks"),
        (lambda state: state.pop("conv1.weight"), "no network of STR"),
    ],
)
def test_errors_name_the_tensor(change, message, tmp_path):
    state = str_networks.build("resnet_18").state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load(save(tmp_path / "model.pth", state))
