"""The repository keeps its promises: build files are complete, one version, light imports."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsity_tf.extras import BACKENDS, EXTRAS
from tests import fresh_process

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_files(folder):
    files = (ROOT / folder).rglob("*.py")
    return sorted(str(path.relative_to(ROOT)) for path in files)


def glob(patterns, exclude=()):
    """Bazel's `glob`, over the files of the repository."""

    def matching(patterns):
        return {
            str(path.relative_to(ROOT))
            for pattern in patterns
            for path in ROOT.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
            if path.is_file()
        }

    return sorted(matching(patterns) - matching(exclude))


def bazel_targets():
    """Runs the BUILD file, which is also Python, and returns (rule, arguments) of each target."""
    targets = []

    def rule(name):
        return lambda **arguments: targets.append((name, arguments))

    rules = {name: rule(name) for name in ("py_library", "py_test", "test_suite")}
    ignored = {name: lambda *a, **k: None for name in ("package", "licenses", "exports_files")}
    exec((ROOT / "BUILD").read_text(), {**rules, **ignored, "glob": glob})
    return targets


def package_version():
    for node in ast.parse((ROOT / "sparsity_tf" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return ast.literal_eval(node.value)
    raise AssertionError("sparsity_tf/__init__.py sets no __version__")


def test_bazel_library_holds_every_module_of_the_package():
    [library] = [a for r, a in bazel_targets() if r == "py_library" and a["name"] == "sparsity_tf"]
    assert [*python_files("sparsity_tf"), "sparsity_tf_cli.py"] == library["srcs"]


def test_bazel_has_one_target_for_each_test_file_and_runs_it():
    tests = {a["name"]: a for rule, a in bazel_targets() if rule == "py_test"}
    files = [f for f in python_files("tests") if Path(f).name.startswith("test_")]
    assert sorted(argument for a in tests.values() for argument in a["args"]) == files
    assert len(tests) == len(files)
    for arguments in tests.values():
        assert arguments["args"][0] in arguments["srcs"]
        assert arguments["main"] == "tests/bazel_main.py"


def test_every_other_file_under_tests_is_support_that_bazel_knows():
    [support] = [a for r, a in bazel_targets() if r == "py_library" and a["name"] != "sparsity_tf"]
    assert support["srcs"] == [f for f in python_files("tests") if not Path(f).name.startswith("test_")]
    assert {"pyproject.toml", "BUILD", "Makefile"} <= set(support["data"])


def test_the_version_has_one_source():
    version = package_version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    dynamic = PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert dynamic == {"attr": "sparsity_tf.__version__"}
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    try:
        assert importlib.metadata.version("sparsity-tf") == version
    except importlib.metadata.PackageNotFoundError:
        pass  # Run from a source tree that is not installed.


def test_every_extra_that_the_makefile_installs_exists():
    asked = re.findall(r'install --editable "\.\[([^\]]+)\]"', (ROOT / "Makefile").read_text())
    names = {name for group in asked for name in group.replace("$(CUDA)", ",cuda").split(",")}
    assert names and names <= set(PYPROJECT["project"]["optional-dependencies"])


def test_make_train_and_make_test_install_a_backend():
    makefile = (ROOT / "Makefile").read_text()
    extras = PYPROJECT["project"]["optional-dependencies"]
    for target in ("DEMO", "DEV"):
        [names] = re.findall(rf'^\$\(HAS_{target}\): .*\n.*\n.*"\.\[([a-z,]+)\$\(CUDA\)\]"', makefile, re.MULTILINE)
        requirements = [one for name in names.split(",") for one in [f"sparsity-tf[{name}]", *extras[name]]]
        assert any(re.match(r"sparsity-tf\[.*\btensorflow\b.*\]", one) for one in requirements)


def test_continuous_integration_runs_lint_and_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^exec make .*lint test", script.read_text(), re.MULTILINE)


def workflows():
    """Text of each workflow of GitHub, by the name of its file. (A build folder of Bazel has none.)"""
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    return {path.name: path.read_text() for path in files} or pytest.skip("no workflows here")


@pytest.mark.parametrize("name", ["package.yml", "tests.yml"])
def test_workflows_run_on_every_python_and_backend(name):
    found = re.findall(r"^        (backend|python): \[(.*)\]$", workflows()[name], re.MULTILINE)
    matrix = {key: [value.strip(' "') for value in values.split(",")] for key, values in found}
    python = re.compile(r"Programming Language :: Python :: (\d\.\d+)")
    assert matrix["python"] == python.findall("\n".join(PYPROJECT["project"]["classifiers"]))
    assert sorted(matrix["backend"]) == sorted(BACKENDS)


def test_workflows_name_targets_of_the_makefile():
    text = "\n".join(workflows().values())
    asked = set(re.findall(r"target: ([a-z-]+)", text)) | set(re.findall(r"run: make ([a-z-]+)$", text, re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"lint", "test", "test-jax", "test-torch"} <= asked <= set(phony.split())


def test_actions_are_pinned_by_major_version():
    used = re.findall(r"uses: (?!\./)(\S+)", "\n".join(workflows().values()))
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", one) for one in used), used


def test_the_entry_for_the_ecosystem_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # It writes a file.
    text = (ROOT / "docs" / "ecosystem_entry.md").read_text()
    [block] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names = {"__name__": "docs"}
    exec(compile(block, "ecosystem_entry.md", "exec"), names)
    assert names["small"].count_params() < 0.6 * names["sparsity_tf"].to_dense(names["model"]).count_params()


def run_python(code, backend):
    """Standard output of `code` in a fresh process with the given backend of Keras."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow  # JAX and torch: `test_imports.py`.
def test_importing_the_package_imports_no_tensorflow_under_numpy():
    pytest.importorskip("jax")  # Keras's numpy backend needs it, too.
    modules = set(run_python("import sys, sparsity_tf; print(*sys.modules)", "numpy").split())
    assert "sparsity_tf" in modules
    assert "tensorflow" not in modules


@pytest.mark.tensorflow
def test_importing_the_package_imports_nothing_that_is_only_needed_for_reports():
    # Some releases of Keras import matplotlib and PIL themselves.
    code = "import sys, keras; before = set(sys.modules); import sparsity_tf; print(*(set(sys.modules) - before))"
    finished = fresh_process.run(code, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    ours = set(finished.stdout.split())
    assert "sparsity_tf" in ours
    assert not ours & {"tabulate", *(set(EXTRAS) - set(BACKENDS))}


@pytest.mark.tensorflow
def test_importing_the_package_changes_nothing_in_keras():
    finished = fresh_process.run(
        "import keras\n"
        "def state():\n"
        "    classes = [keras.layers.Dense, keras.layers.Layer, keras.Model]\n"
        "    settings = [keras.config.floatx(), keras.config.dtype_policy().name]\n"
        "    return settings + [dict(vars(cls)) for cls in classes]\n"
        "before = state()\n"
        "import sparsity_tf\n"
        "assert state() == before\n",
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr
