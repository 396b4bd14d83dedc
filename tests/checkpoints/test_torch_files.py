"""Files of `torch.save` are read as PyTorch reads them, and nothing that a file says is run."""

import builtins
import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from sparsity_tf.checkpoints import CheckpointError, open_checkpoint, torch_pickles
from tests import fresh_process


def torch_or_skip():
    return pytest.importorskip("torch")


FORMATS = [
    {},
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
    {"pickle_protocol": 4, "_use_new_zipfile_serialization": False},
]


def tensors_of_all_kinds(torch):
    torch.manual_seed(0)
    base = torch.randn(4, 3, 5, 5)
    state = {
        "module.float32.weight": base,
        "module.channels_last.weight": base.to(memory_format=torch.channels_last),
        "module.view.weight": base[1:3, :, 1],
        "module.transposed.weight": base[0, 0].T,
        "module.parameter.weight": torch.nn.Parameter(torch.randn(3)),
        "module.scalar": torch.tensor(7),
        "module.empty": torch.zeros(0, 3),
    }
    for kind in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[f"module.of_{kind}"] = (base[0] * 3).to(getattr(torch, kind))
    return state


@pytest.mark.parametrize("format", FORMATS)
def test_tensors_of_all_kinds_are_what_pytorch_reads(format, tmp_path):
    torch = torch_or_skip()
    state, path = tensors_of_all_kinds(torch), str(tmp_path / "model.pth")
    more = {"epoch": 3, "best": np.float64(74.3), "mixed": [None, True, -1, 2**40, 1.5, (1, 2, 3, 4), {"a": b"b"}]}
    torch.save({"state_dict": torch.nn.ParameterDict().state_dict() | state, **more}, path, **format)
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.names()) == {name.removeprefix("module.") for name in state}
        for key, tensor in state.items():
            name = key.removeprefix("module.")
            expected = tensor.detach().float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()
            found = checkpoint.tensor(name)
            assert found.dtype == expected.dtype and checkpoint.shape(name) == expected.shape
            np.testing.assert_array_equal(found, expected, err_msg=name)
            assert checkpoint.is_floating(name) == tensor.dtype.is_floating_point
            assert checkpoint.find(key) == [name]


def test_a_state_dict_keeps_the_versions_of_its_layers_apart(tmp_path):
    torch = torch_or_skip()
    network = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)))
    for format in FORMATS:
        torch.save(network.state_dict(), str(tmp_path / "model.pt"), **format)
        with open_checkpoint(tmp_path / "model.pt") as checkpoint:
            assert len(checkpoint.names()) == 7


@pytest.mark.tensorflow
def test_reading_imports_no_torch(tmp_path):
    torch = torch_or_skip()
    path = str(tmp_path / "model.pth")
    torch.save({"a.weight": torch.ones(2)}, path)
    code = (
        "import sys; from sparsity_tf.checkpoints import open_checkpoint\n"
        f"with open_checkpoint({path!r}) as checkpoint: print(checkpoint.tensor('a.weight'), 'torch' in sys.modules)"
    )
    run = fresh_process.run(code)
    assert run.stdout.strip() == "[1. 1.] False", run.stderr


# A pickle that runs something, and one that only makes data.


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_file(path, description, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)
        archive.writestr("archive/version", "3\n")
        for key, content in dict(storages).items():
            archive.writestr(f"archive/data/{key}", content)
    return str(path)


def old_file(path, description, keys=(), storages=b""):
    start = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(start) + description + pickle.dumps(list(keys), 2) + storages)
    return str(path)


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                checkpoint.tensor(name)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 800
    return message


@pytest.mark.parametrize("write", [zip_file, old_file])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "subprocess.Popen"])
def test_a_pickle_that_wants_to_run_something_is_refused_without_running_it(name, protocol, write, tmp_path):
    sign = tmp_path / "was_run"
    calls = {
        "os.system": Runs(os.system, f"touch {sign}"),
        "builtins.eval": Runs(eval, f"open({str(sign)!r}, 'w').close()"),
        "builtins.getattr": Runs(getattr, os, "system"),
        "subprocess.Popen": Runs(subprocess.Popen, ["touch", str(sign)]),
    }
    try:
        description = pickle.dumps({"state_dict": {"a": calls[name]}}, protocol)
    except TypeError:  # a module can't be pickled: name it by hand
        description = b"\x80\x02cbuiltins\ngetattr\nX\x02\x00\x00\x00osX\x06\x00\x00\x00system\x86R."
    message = refused(write(tmp_path / "model.pth", description))
    assert "wants to run" in message
    assert not sign.exists()


def test_names_are_refused_even_if_nothing_calls_them(tmp_path):
    for module, name in (
        ("torch", "load"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch._utils", "_rebuild_qtensor"),
    ):
        description = b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + b"s."
        assert f"wants to run {module}.{name}" in refused(zip_file(tmp_path / "model.pth", description))


@pytest.mark.parametrize(
    "description,message",
    [
        (b"\x80\x02(i__builtin__\nlist\n.", "INST makes no data"),
        (b"\x80\x02\x82\x01.", "EXT1 makes no data"),
        (b"\x80\x02P1\n.", "PERSID makes no data"),
        (b"\x80\x02}.", "holds no dict of tensors"),
        (b"\x80\x02K\x01.", "save its `state_dict"),
        (b"\x80\x02}K\x01)R.", "the call of an object that is no function"),
        (b"\x80\x02K\x01K\x02s.", "index out of range"),
        (b"\x80\x02](K\x01K\x02u.", "an object that is no dict"),
        (b"\x80\x02}K\x01a.", "an object that is no list"),
        (b"\x80\x02})K\x01s.", "a dict whose keys are no texts"),
        (b"\x80\x02R.", "too few objects"),
        (b"\x80\x02(K\x01.", "no dict of tensors"),
        (b"\x80\x02h\x05.", "KeyError"),
        (b"\x80\x02\xff.", "unknown"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "longer than 2,097,152 bytes"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x0fabc.", "longer than|BYTEARRAY8"),
    ],
)
def test_damaged_descriptions_are_one_line(description, message, tmp_path):
    for write in (zip_file, old_file):
        assert re.search(message, refused(write(tmp_path / "model.pth", description)))


def test_a_description_without_an_end_is_refused(tmp_path):
    for description in (b"\x80\x02}", b""):
        assert "exhausted before seeing STOP" in refused(zip_file(tmp_path / "model.pth", description))


def described(shape=(2, 3), strides=(3, 1), offset=0, numel=6, kind="FloatStorage", key="0"):
    """The pickle of one tensor, written by hand, as torch writes it."""

    class Pickler(pickle._Pickler):  # the one in Python, which can name classes that are not there
        def persistent_id(self, obj):
            return obj.reference if isinstance(obj, Storage) else None

        def save_global(self, obj, name=None):
            module, name = obj.where
            self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

        def save(self, obj, save_persistent_id=True):
            if isinstance(obj, Named):
                return self.save_global(obj)
            return super().save(obj, save_persistent_id)

    class Named:
        def __init__(self, *where):
            self.where = where

        def __call__(self):
            raise AssertionError

    class Storage:
        reference = ("storage", Named("torch", kind), key, "cpu", numel) + ((None,) if key == "old" else ())

    class Tensor:
        def __reduce__(self):
            arguments = (Storage(), offset, shape, strides, False, {})
            return Named("torch._utils", "_rebuild_tensor_v2"), arguments

    import io

    file = io.BytesIO()
    Pickler(file, 2).dump({"a.weight": Tensor()})
    return file.getvalue()


NUMBERS = np.arange(6, dtype="<f4")


def test_a_tensor_written_by_hand(tmp_path):
    path = zip_file(tmp_path / "model.pth", described(), {"0": NUMBERS.tobytes()})
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("a.weight"), NUMBERS.reshape(2, 3))
    big = NUMBERS.astype(">f4").tobytes()
    path = zip_file(tmp_path / "big.pth", described(), {"0": big})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("a.weight"), NUMBERS.reshape(2, 3))
    path = old_file(tmp_path / "old.pth", described(), ["0"], struct.pack("<q", 6) + NUMBERS.tobytes())
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("a.weight"), NUMBERS.reshape(2, 3))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"shape": (2, 4)}, "does not fit its storage of 6"),
        ({"offset": 1}, "does not fit its storage"),
        ({"shape": (10**6, 10**6), "strides": (0, 0)}, "does not fit its storage"),
        ({"shape": (2, -3)}, "without sizes"),
        ({"offset": -1}, "without sizes"),
        ({"shape": (2,)}, "sizes that do not fit"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "without sizes"),
        ({"numel": 7}, "needs 28 bytes, and its storage has 24"),
        ({"numel": 10**15, "shape": (10**15,), "strides": (1,)}, "needs 4,000,000,000,000,000 bytes"),
        ({"kind": "DoubleStorage"}, "needs 48 bytes"),
        ({"kind": "QInt8Storage"}, "wants to run torch.QInt8Storage"),
        ({"key": "1"}, "lacks the storage of a.weight"),
    ],
)
def test_tensors_that_lie_about_their_storage_are_refused(options, message, tmp_path):
    path = zip_file(tmp_path / "model.pth", described(**options), {"0": NUMBERS.tobytes()})
    assert message in refused(path)


def test_an_old_file_that_lies_about_its_storages_is_refused(tmp_path):
    for numel, content in ((7, NUMBERS.tobytes()), (6, NUMBERS.tobytes()[:-1]), (-6, NUMBERS.tobytes())):
        path = old_file(tmp_path / "model.pth", described(), ["0"], struct.pack("<q", numel) + content)
        assert "cut off or damaged in its storage 0" in refused(path)
    assert "other storages" in refused(old_file(tmp_path / "model.pth", described(), ["1"]))
    assert "unknown version" in refused(_with_version(tmp_path / "model.pth", 1002))


def _with_version(path, version):
    start = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, version, {})]
    path.write_bytes(b"".join(start))
    return str(path)


@pytest.mark.parametrize("format", FORMATS[:2])
def test_a_file_cut_off_anywhere_is_refused(format, tmp_path):
    torch = torch_or_skip()
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a.weight": torch.ones(50), "b.weight": torch.zeros(20)}}, str(path), **format)
    content = path.read_bytes()
    for length in [0, 1, 3, *range(4, len(content) - 1, len(content) // 40)]:
        path.write_bytes(content[:length])
        refused(path)


def test_damage_is_never_more_than_an_error(tmp_path):
    """Any byte changed: the file is read, or refused in one line."""
    torch = torch_or_skip()
    path, rng = tmp_path / "model.pth", np.random.default_rng(0)
    for format in FORMATS[:2]:
        torch.save({"state_dict": {"a.weight": torch.ones(50), "b.weight": torch.zeros(20)}}, str(path), **format)
        content = path.read_bytes()
        for _ in range(150):
            changed = bytearray(content)
            for place in rng.integers(0, len(content), 2):
                changed[place] = rng.integers(256)
            path.write_bytes(bytes(changed))
            try:
                with open_checkpoint(path) as checkpoint:
                    for name in checkpoint.names():
                        checkpoint.tensor(name)
            except CheckpointError as error:
                assert "\n" not in str(error)


def nested_tuples(depth):
    """A tuple of 2^depth paths in `depth` objects: comparing, hashing or printing it takes for ever."""
    code = b"\x80\x02)q\x00"
    for number in range(depth):
        code += b"h" + bytes([number]) + b"h" + bytes([number]) + b"\x86q" + bytes([number + 1])
    return code


def test_small_files_cost_little_memory_and_time(tmp_path):
    copies = (
        b"\x80\x02](" + b"K\x01" * 200_000 + b"eq\x00" + b"ctorch\nSize\nq\x01" + b"h\x01h\x00\x85R" * 50_000 + b"."
    )
    keys = nested_tuples(60) + b"}h\x3cK\x01s."
    pairs = nested_tuples(60) + b"ccollections\nOrderedDict\n](h\x3cK\x01\x86e\x85R."
    version = nested_tuples(60) + b"."
    tracemalloc.start()
    try:
        assert "more objects than its length justifies" in refused(zip_file(tmp_path / "a.pth", copies))
        assert "keys are no texts" in refused(zip_file(tmp_path / "a.pth", keys))
        assert "keys are no texts" in refused(zip_file(tmp_path / "a.pth", pairs))
        start = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), version, pickle.dumps({}, 2)]
        (tmp_path / "a.pth").write_bytes(b"".join(start))
        assert "unknown version" in refused(tmp_path / "a.pth")
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"N" * (32 << 20))
        assert "longer than 2,097,152 bytes" in refused(tmp_path / "bomb.pth")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_a_text_is_not_copied_again_and_again(tmp_path):
    text = b"a" * 100_000
    copies = b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"\x85q\x00ctorch\nSize\nq\x01]("
    copies += b"h\x01h\x00R" * 1000 + b"e."
    tracemalloc.start()
    try:
        assert "more objects than its length justifies" in refused(zip_file(tmp_path / "a.pth", copies))
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_keys_of_storages_are_texts_and_named_once(tmp_path):
    storages = struct.pack("<q", 6) + NUMBERS.tobytes()
    nested = nested_tuples(60) + b"](h\x3ce."  # would be hashed for ever
    content = open(old_file(tmp_path / "a.pth", described()), "rb").read()
    start = content[: content.rindex(pickle.dumps([], 2))]
    (tmp_path / "a.pth").write_bytes(start + nested + storages)
    assert "other storages than it holds" in refused(tmp_path / "a.pth")
    assert "other storages" in refused(old_file(tmp_path / "a.pth", described(), ["0", "0"], 2 * storages))


def test_integers_with_the_same_hash_are_no_keys(tmp_path):
    same = sys.hash_info.modulus
    for number in (same, 3 * same, -same):
        assert "keys are no texts" in refused(zip_file(tmp_path / "a.pth", pickle.dumps({number: None}, 2)))
    # Optimizers of PyTorch number their parameters by addresses.
    assert "no dict of tensors" in refused(zip_file(tmp_path / "a.pth", pickle.dumps({2**47: None, -1: 0}, 2)))


def test_files_of_other_kinds_are_named(tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert "is not a readable PyTorch checkpoint" in refused(tmp_path / "text.pth")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "must hold one data.pkl" in refused(tmp_path / "other.pt")


def test_every_instruction_that_makes_data_exists():
    names = {opcode.name for opcode in pickletools.opcodes}
    known = torch_pickles._PUSHES | set(torch_pickles._MAKES) | set(torch_pickles._TUPLES) | torch_pickles._PUTS
    assert known | torch_pickles._GETS | torch_pickles._IGNORED | set(torch_pickles._METHODS) <= names
    # Functions that stand for names make data only.
    assert not any(
        function in vars(builtins).values() and function is not tuple for function in torch_pickles._FUNCTIONS
    )
