"""What the wheel and the sdist hold."""

import email
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import sparsity_tf

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What is not of the project: caches, environments, build products, runs.
IGNORED = (
    ".git",
    ".venv",
    "venv",
    "build",
    "dist",
    "runs",
    "__pycache__",
    "*.egg-info",
    "*.pyc",
    ".*_cache",
    "bazel-*",
)
IGNORED += (".hypothesis", ".coverage", "htmlcov", "MODULE.bazel.lock")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(names of the files of the project, wheel, sdist): builds both from a copy of the project."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("distribution")
    project = folder / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(*IGNORED))
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    code = "from setuptools import build_meta as b; print(b.build_sdist('..')); print(b.build_wheel('..'))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return files, wheel, sdist


def test_the_wheel_holds_the_package_and_the_command_and_no_more(built):
    files, wheel, _ = built
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    ours = {name for name in files if name.startswith("sparsity_tf/")} | {"sparsity_tf_cli.py"}
    assert {"sparsity_tf/py.typed", "sparsity_tf/datasets/sonnets.txt"} <= ours
    assert sorted(names) == sorted(ours)


def test_the_wheel_says_what_it_is(built):
    wheel = zipfile.ZipFile(built[1])
    [folder] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.message_from_string(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Name"] == "sparsity-tf" and metadata["Version"] == sparsity_tf.__version__
    assert {"tensorflow", "jax", "torch", "train", "text", "plot", "demo"} <= set(metadata.get_all("Provides-Extra"))
    assert wheel.read(f"{folder}/entry_points.txt").decode().split("\n")[:2] == [
        "[console_scripts]",
        "sparsity-tf = sparsity_tf_cli:main",
    ]
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()


def test_the_sdist_holds_every_file_of_the_project(built):
    files, _, sdist = built
    members = [member.name.partition("/")[2] for member in tarfile.open(sdist) if member.isfile()]
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in members if "egg-info" not in name} - made == files


def test_a_release_names_the_repository_and_its_readme_has_absolute_links(tmp_path):
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    address = runpy.run_path(str(ROOT / ".ci" / "address.py"))
    for _ in range(2):  # The second run changes nothing.
        address["main"]("https://host.example/owner/name/", "abc123", tmp_path)
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert "https://host.example/owner/name/raw/abc123/docs/pictures/" in text
        links = re.findall(r"\]\(([^)]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        ours = [link for link in links if link.startswith("https://host.example/owner/name/")]
        assert len(ours) > 10 and all(link.startswith("https://") for link in links)
        for link in ours:
            assert (ROOT / link.split("/abc123/")[1].partition("#")[0]).exists(), link
        project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["urls"]["Source"] == "https://host.example/owner/name"
        assert project["urls"].keys() == {"Source", "Documentation", "Changelog", "Issues"}


def test_the_sources_name_no_address_and_the_workflow_gives_it():
    assert "urls" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    workflow = ROOT / ".github" / "workflows" / "package.yml"
    if not workflow.exists():
        pytest.skip("no workflows here")
    steps = workflow.read_text(encoding="utf-8")
    assert 0 < steps.index(".ci/address.py") < steps.index("python -m build")
