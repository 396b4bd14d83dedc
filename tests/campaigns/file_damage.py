"""Ways to damage a file: those that any file can suffer, and lies that only one format can tell."""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib

import h5py
import numpy as np

from sparsity_tf.datasets.images.records import masked_crc32c

# What a bomb unpacks to: more than is allowed of a small file.
_BOMB = 100 << 20
PACK = {".gz": lambda c: gzip.compress(c, 1), ".bz2": bz2.compress, ".xz": lambda c: lzma.compress(c, preset=0)}


# Damage of any file: functions of (path, random generator).


def _changed(change):
    def damage(path, random):
        with open(path, "rb") as file:
            content = bytearray(file.read())
        content = change(content, random)
        with open(path, "wb") as file:
            file.write(content)

    damage.__name__ = change.__name__.strip("_")
    return damage


@_changed
def _cut_off(content, random):
    return content[: int(random.integers(len(content) + 1))]


@_changed
def _cut_off_a_little(content, random):
    return content[: -int(random.integers(1, 20))]


@_changed
def _beginning_lost(content, random):
    return content[int(random.integers(1, len(content) + 1)) :]


@_changed
def _flipped_bits(content, random):
    for _ in range(int(random.integers(1, 20))):
        content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    return content


@_changed
def _flipped_bits_in_the_header(content, random):
    for _ in range(int(random.integers(1, 6))):
        content[int(random.integers(min(64, len(content))))] ^= 1 << int(random.integers(8))
    return content


@_changed
def _zeros(content, random):
    begin = int(random.integers(len(content)))
    end = min(len(content), begin + int(random.integers(1, 600)))
    content[begin:end] = bytes(end - begin)
    return content


@_changed
def _inserted(content, random):
    at = int(random.integers(len(content)))
    return content[:at] + random.bytes(int(random.integers(1, 200))) + content[at:]


@_changed
def _twice(content, random):
    return content + content


@_changed
def _largest_numbers(content, random):
    at = int(random.integers(len(content)))
    content[at : at + 4] = b"\xff" * len(content[at : at + 4])
    return content


@_changed
def _empty(content, random):
    return b""


@_changed
def _noise(content, random):
    return random.bytes(int(random.integers(1, 5000)))


@_changed
def _text(content, random):
    return b"<html><body>404 Not Found</body></html>\n"


@_changed
def _latin_1(content, random):
    return "Zwölf Boxkämpfer\tjagen,Viktor\n".encode("latin-1") * 20


@_changed
def _long_line(content, random):
    return b"x" * (3 << 20)


def _folder(path, random):
    os.remove(path)
    os.mkdir(path)


def _link_to_itself(path, random):
    os.remove(path)
    os.symlink(os.path.basename(path), path)


def _another_file(path, random):
    folder = os.path.dirname(path)
    others = [name for name in sorted(os.listdir(folder)) if os.path.isfile(os.path.join(folder, name))]
    shutil.copyfile(os.path.join(folder, others[int(random.integers(len(others)))]), path + ".new")
    os.replace(path + ".new", path)


ANY = (
    *(_cut_off, _cut_off_a_little, _beginning_lost, _flipped_bits, _flipped_bits, _flipped_bits_in_the_header),
    *(_zeros, _inserted, _twice, _largest_numbers, _empty, _noise, _text, _latin_1, _long_line),
    *(_folder, _link_to_itself, _another_file),
)


# Lies of one format: functions of the path.


def written(content):
    """A lie: the file has this content, bytes or a function without arguments that returns them."""

    def lie(path):
        with open(path, "wb") as file:
            file.write(content() if callable(content) else content)

    return lie


@functools.cache
def _bomb(packing, part):
    return PACK[packing](part * (_BOMB // len(part)))


def bomb(part=b"\0"):
    """A file that is packed as its name says and unpacks to 100 MiB."""
    return lambda path: written(_bomb(os.path.splitext(path)[1], part))(path)


def idx_lie(dtype, sizes, content=b"\0" * 100, pack=False):
    whole = bytes((0, 0, dtype, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + content
    return written(gzip.compress(whole) if pack else whole)


class _Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def pickle_lies(canary):
    """Pickles that would run code, or take memory that they do not hold."""
    nested = [1] * 10
    for _ in range(8):
        nested = [nested] * 10
    pixels = np.zeros((2, 3072), np.uint8)
    reconstruct = np.empty(0).__reduce__()[0]
    batches = [
        {b"data": _Call(os.system, (f"touch {canary}",)), b"labels": [1, 2]},
        {b"data": _Call(eval, (f"open({canary!r}, 'w')",)), b"labels": [1, 2]},
        {b"data": _Call(np.ndarray, ((1 << 40, 3072), "u1")), b"labels": [1, 2]},
        {b"data": _Call(reconstruct, (np.ndarray, (1 << 22, 3072), "u1")), b"labels": [1, 2]},
        {b"data": pixels, b"labels": nested},
        {b"data": pixels, b"labels": [1, 1 << 80]},
        {b"data": pixels, b"labels": np.array([None, None])},
        {b"data": pixels, b"labels": "ab"},
        {b"data": [[0] * 3072] * 2, b"labels": [1, 2]},
    ]
    contents = [pickle.dumps(batch, 2) for batch in batches]
    contents += [b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x.", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50)]
    return [written(content) for content in contents]


def torch_lies(canary):
    """Files of `torch.save`, in both its layouts, whose pickles would run code or take memory that they do not hold."""
    from tests.checkpoints.test_torch_files import old_file, zip_file

    calls = [
        _Call(os.system, (f"touch {canary}",)),
        _Call(eval, (f"open({canary!r}, 'w')",)),
        _Call(bytearray, (1 << 40,)),
    ]
    contents = [pickle.dumps({"state_dict": {"fc.weight": call}}, protocol) for call in calls for protocol in (2, 4)]
    contents += [b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x.", b"\x80\x02" + b"(" * (1 << 20) + b"."]
    return [
        lambda path, write=write, content=content: write(pathlib.Path(path), content)
        for content in contents
        for write in (zip_file, old_file)
    ]


def tar_lies():
    """Archives with members outside the folder, links, and sizes that the file does not hold."""

    def archive(**member):
        info = tarfile.TarInfo("model/model.ckpt-5.index")
        for name, value in member.items():
            setattr(info, name, value)
        return written(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))

    return [
        archive(size=1 << 40),
        archive(name="../../outside.ckpt-5.index"),
        archive(name="/etc/outside.ckpt-5.index"),
        archive(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        archive(type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        archive(type=tarfile.FIFOTYPE),
        archive(type=tarfile.GNUTYPE_SPARSE, size=1 << 40),
    ]


def npy(described="|u1", shape=(4, 28, 28), content=b""):
    header = f"{{'descr': {described!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def npz_lies(canary):
    def with_images(member):
        def lie(path):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in ("x_train", "x_test", "y_train", "y_test"):
                    labels = npy(shape=(4,), content=bytes(4))
                    archive.writestr(f"{name}.npy", member if name == "x_train" else labels)

        return lie

    objects = io.BytesIO()
    np.save(objects, np.array([_Call(os.system, (f"touch {canary}",))], dtype=object), allow_pickle=True)
    return [
        with_images(npy(shape=(1 << 40, 28, 28), content=bytes(100))),
        with_images(npy(shape=(-1, 28, 28), content=bytes(100))),
        with_images(npy(shape=(4, 28.5), content=bytes(100))),
        with_images(npy(shape=(_BOMB,), content=bytes(_BOMB))),
        with_images(npy(described="|O", content=bytes(25))),
        with_images(npy(described="|V1000000000000", content=bytes(25))),
        with_images(npy(described="__import__('os').getcwd()", content=bytes(25))),
        with_images(objects.getvalue()),
        with_images(pickle.dumps(_Call(os.system, (f"touch {canary}",)))),
        written(pickle.dumps(_Call(os.system, (f"touch {canary}",)))),
        written(npy(content=bytes(4 * 28 * 28))),
    ]


def keras_lies(canary):
    """`.keras` files whose parts are sound, but not what they say."""

    def with_config(change):
        def lie(path):
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            config = change(json.loads(members["config.json"]))
            members["config.json"] = config if isinstance(config, bytes) else json.dumps(config)
            _write_zip(path, members)

        return lie

    def with_weights(write):
        def lie(path):
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            held = io.BytesIO(members["model.weights.h5"])
            with h5py.File(held, "r+") as file:
                write(file)
            members["model.weights.h5"] = held.getvalue()
            _write_zip(path, members)

        return lie

    def each_layer(change):
        def changed(config):
            for layer in config["config"]["layers"]:
                change(layer)
            return config

        return with_config(changed)

    code = f"__import__('os').system('touch {canary}')"
    lambda_layer = {"module": "keras.layers", "class_name": "Lambda", "registered_name": None}
    lambda_layer["config"] = {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": code}}}
    call = {"module": "os", "class_name": "system", "registered_name": None, "config": f"touch {canary}"}
    bomb = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": bytes(_BOMB)}
    return [
        *map(with_config, (lambda c: {}, lambda c: [], lambda c: None, lambda c: 5, lambda c: "text", lambda c: b"{")),
        with_config(lambda c: b"[" * 100_000),
        with_config(lambda c: call),
        with_config(lambda c: lambda_layer),
        with_config(lambda c: {**c, "module": "os", "class_name": "system"}),
        with_config(lambda c: {**c, "class_name": "Unknown", "registered_name": "Other>Unknown", "module": None}),
        with_config(lambda c: {**c, "config": None}),
        with_config(lambda c: {**c, "config": {**c["config"], "layers": None}}),
        with_config(lambda c: {**c, "config": {k: v for k, v in c["config"].items() if k != "layers"}}),
        with_config(lambda c: {**c, "config": {**c["config"], "layers": []}}),
        each_layer(lambda layer: layer.update(config=lambda_layer)),
        each_layer(lambda layer: layer.update(class_name="Lambda", module="keras.layers")),
        each_layer(lambda layer: layer["config"].update(units=10**12)),
        each_layer(lambda layer: layer["config"].update(units=-3)),
        each_layer(lambda layer: layer["config"].update(units="many")),
        each_layer(lambda layer: layer["config"].update(units=7)),
        each_layer(lambda layer: layer["config"].update(activation=call)),
        each_layer(lambda layer: layer["config"].update(name=None)),
        each_layer(lambda layer: layer["config"].clear()),
        each_layer(lambda layer: layer.pop("inbound_nodes", None)),
        *map(with_weights, HDF5_WRITERS),
        lambda path: _write_zip(path, bomb),
        lambda path: _write_zip(path, {"config.json": b" " * _BOMB, "model.weights.h5": b""}),
        lambda path: _write_zip(path, {"../../config.json": b"{}", "model.weights.h5": b""}),
        lambda path: _write_zip(path, {}),
    ]


def _write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _first_variable(file):
    found = []
    file.visititems(lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) and item.ndim == 2 else None)
    return sorted(found)[0]


def _replaced(**options):
    def write(file):
        key = _first_variable(file)
        del file[key]
        file.create_dataset(key, **options)

    return write


def _link(make):
    def write(file):
        key = _first_variable(file)
        del file[key]
        file[key] = make()

    return write


HDF5_WRITERS = (
    _replaced(shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1024, 1024)),
    _replaced(shape=(1 << 14, 1 << 14), dtype="f4", chunks=(1024, 1024), compression="gzip"),
    _replaced(shape=(1 << 13, 1 << 13), dtype="f4"),
    _replaced(shape=(2, 2), dtype="f4", maxshape=(None, None), chunks=(1 << 14, 1 << 14)),
    _replaced(shape=(4, 4), dtype="f4", external=[("/etc/passwd", 0, 64)]),
    _replaced(shape=(1,) * 32, dtype="f4"),
    _replaced(shape=(0, 5), dtype="f4"),
    _replaced(data=np.array([[b"text"]])),
    _replaced(data=np.full((2, 2), np.nan)),
    _replaced(shape=(3,), dtype=h5py.string_dtype()),
    _link(lambda: h5py.ExternalLink("/etc/passwd", "/")),
    _link(lambda: h5py.SoftLink("/nowhere")),
    _link(lambda: h5py.SoftLink("/")),
    lambda file: file.clear(),
)


def hdf5_lies():
    def lie_of(write):
        def lie(path):
            with h5py.File(path, "r+") as file:
                write(file)

        return lie

    return [lie_of(write) for write in HDF5_WRITERS]


def _record(content, length=None):
    header = struct.pack("<Q", len(content) if length is None else length)
    return header + struct.pack("<I", masked_crc32c(header)) + content + struct.pack("<I", masked_crc32c(content))


def record_lies():
    return [
        written(_record(b"x" * 50, 1 << 40)),
        written(_record(b"x" * 50, (1 << 64) - 1)),
        written(_record(b"")),
        written(_record(b"no example")),
        written(_record(b"\n\xff\xff\xff\xff\x7f")),
    ]


def _png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image_lies():
    def larger_jpeg(path):
        with open(path, "rb") as file:
            content = file.read()
        at = content.index(b"\xff\xc0") + 5
        written(content[:at] + struct.pack(">HH", 65500, 65500) + content[at + 4 :])(path)

    return [larger_jpeg, *(written(_png(*size)) for size in ((60000, 60000), (1 << 31, 1), (0, 0), (16000, 16000)))]


def budget_lies():
    tables = (
        *("1e999999999%", "1e-999999999%", "1/0%", "nan%", "-5%", "101%", "%", "0x1%", "1" * 5000 + "%", "inf%"),
        "1_0%",
    )
    rows = ("a,0.5,0,0", "a,0.5,-3,", "a,0.5,1.5,", "a,nan,3,", "a,1e999,3,", "a,0.5,3,4", "a,0.5,3,-1", "a,,,", ",,,")
    texts = [f"Layer,STR\n1,{value}\n" for value in tables]
    texts += [f"name,sparsity,size,nonzeros\n{row}\n" for row in rows]
    texts += [f"name,sparsity\n{'a' * 200_000},0.5\n", f"{'abc,' * 20_000}\n", "name,sparsity\n\0,0.5\n", '"', "name\n"]
    texts += ["name,sparsity\n" + "a,0.5\n" * 50_000, "Metric,Params,FLOPs,Sparsity (%)\nOverall,1,1,1,2,3\n"]
    texts += ["Metric,Params,FLOPs,Sparsity (%)\nOverall,1,1,1\nLayer 1 - a\n"]
    return [written(text.encode()) for text in texts]


def metrics_lies():
    """Files of figures that grow by a row at a time: both kinds have the columns `epoch` and `step`."""
    header = "epoch,step,seconds,loss,test_error\n"
    rows = ("1,2,3,4", "1,2,3,4,5,6", "a,2,3,4,5", "1,2,3,4,", "-1,2,3,4,5", "1e3,2,3,4,5", f"{'9' * 5000},2,3,4,5")
    texts = ["", "\n", "epoch", "epoch,step\n", "epoch,epoch\n1,1\n", header, header + "1,2,3,4,5\n" * 2, '"', "\0\n"]
    texts += [f"{header}{row}\n" for row in rows]
    texts += [
        header + "x" * 200_000 + ",2,3,4,5\n",
        "a," * 20_000 + "\n",
        header + "1,2,\0,4,5\n",
        header + '1,2,3,4,"\n',
    ]
    return [written(text.encode()) for text in texts]


def vocabulary_lies():
    return [
        written(b"'<pad>'\n'<EOS>'\n"),
        written(b"'<pad>'\n'<EOS>'\n" + b"\n" * 1000),
        written(b"'<pad>_'\n"),
        written(b"\n"),
        written(b"\n\x05\n\x03abc"),
        written(b"\n\xff\xff\xff\xff\x0f"),
        written(b"\n" + b"\xff" * 9 + b"\x01"),
        written(b"'<pad>'\n'<EOS>'\n'" + b"x" * (3 << 20) + b"'\n"),
    ]


def json_lies():
    texts = [
        "null",
        "[]",
        "{}",
        "5",
        "[" * 100_000,
        '{"model": 5}',
        '{"model_options": 3, "epochs": "x"}',
        '{"a": NaN}',
    ]
    texts += ['{"lr_boundaries": 7}', '{"data_dir": {}}', '{"dataset": "x"}', '{"seed": "x"}', '{"normalize": 7}']
    return [written(text.encode()) for text in texts]


def state_file_lies():
    names = ("/etc/passwd", "../../../../etc/passwd", "", "nothing", "x" * 100_000)
    return [written(f'model_checkpoint_path: "{name}"\n'.encode()) for name in names]
