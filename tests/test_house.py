"""The house rules that a machine can check: who may import whom, what the wheels hold, how large a file may be."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parent.parent
EDGE = ROOT / "edge" / "hybridge_edge"
CLOUD = ROOT / "cloud" / "hybridge_cloud"
CONTRACT = EDGE / "contract"
FORBIDDEN_ON_THE_EDGE = {"hybridge_cloud", "torch", "boto3", "botocore", "pickle", "cloudpickle", "joblib", "yaml"}
LINES_AT_MOST = 400


def imports(source: str) -> set[str]:
    """Top-level names of the modules that a source imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.add(name.value.split(".")[0])
    return found


def sources(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.py")) if "_pb2" not in path.name)


def test_the_import_finder_sees_every_kind_of_import() -> None:
    source = "import torch.nn\ndef f():\n    from boto3.session import x\n    importlib.import_module('pickle')\n"
    assert imports(source) == {"torch", "boto3", "pickle"}


def test_the_edge_imports_neither_the_cloud_nor_torch_nor_boto3_nor_pickle() -> None:
    found = {str(path.relative_to(ROOT)): imports(path.read_text()) & FORBIDDEN_ON_THE_EDGE for path in sources(EDGE)}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_contract_imports_the_standard_library_only() -> None:
    for path in sources(CONTRACT):
        if "protos" not in path.parts:
            assert imports(path.read_text()) <= set(sys.stdlib_module_names) | {"hybridge_edge"}, path


def test_the_contract_imports_nothing_heavy_at_run_time() -> None:
    modules = [path.stem for path in CONTRACT.glob("*.py") if path.stem != "__init__"]
    program = (
        f"import importlib, json, sys\nfor name in {modules!r}:\n"
        "    importlib.import_module('hybridge_edge.contract.' + name)\n"
        "print(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert "hybridge_edge" in loaded
    assert not {"numpy", "grpc", "google", "onnxruntime", "torch", "boto3", "awscrt", "hybridge_cloud"} & set(loaded)


def test_boto3_is_imported_in_the_aws_folder_and_the_sandbox_only() -> None:
    allowed = (CLOUD / "aws", CLOUD / "sandbox")
    for path in sources(CLOUD):
        if not any(path.is_relative_to(folder) for folder in allowed):
            assert not imports(path.read_text()) & {"boto3", "botocore"}, path


def test_only_one_module_of_the_edge_knows_greengrass_ipc() -> None:
    knowing = [path.name for path in sources(EDGE) if "greengrasscoreipc" in path.read_text()]
    assert knowing == ["greengrass.py"]


_PROCESSES = {"bench", "worker", "supervisor", "cli", "management"}
ONE_WAY = {
    "contract": {"admission", "serving", "engines", "store", "package", "worker", "cli", "management"},
    "engines": {"admission", "serving", "store", "worker", "cli", "management"},
    "http2": {"contract", "engine", "serving", "admission", "client", "direct", "observe", "front"} | _PROCESSES,
    "serving": {"admission", "client", "direct", "observe", "uplink"} | _PROCESSES,
    "admission": {"observe", "uplink", "client"} | _PROCESSES,
    "direct": {"admission", "client", "observe", "uplink"} | _PROCESSES,
    "client": {"admission", "engines", "observe", "store", "uplink"} | _PROCESSES,
    "observe": {"admission", "uplink"} | _PROCESSES,
    "targets": {"admission", "serving", "observe", "bench", "store", "worker", "cli", "management"},
    "bench": {"admission", "observe", "store", "worker", "supervisor", "management", "uplink"},
}
"""What a folder of the edge may never import: who it serves."""


def edge_parts(source: str) -> set[str]:
    """The parts of the edge that a source imports: folders, or modules beside them."""
    return {
        (f"{match[1]}.{match[2]}" if match[1] else match[2]).split(".")[0]
        for match in re.finditer(r"from hybridge_edge(?:\.([\w.]+))? import (\w+)", source)
    }


def test_the_part_finder_sees_both_ways_of_importing() -> None:
    source = "from hybridge_edge import store, trust\nfrom hybridge_edge.serving.gate import Gate\n"
    assert edge_parts(source) == {"store", "serving"}


@pytest.mark.parametrize("folder", sorted(ONE_WAY))
def test_folders_of_the_edge_import_one_way(folder: str) -> None:
    for path in sources(EDGE / folder):
        assert not edge_parts(path.read_text()) & ONE_WAY[folder], path


def test_the_two_dependency_lists_agree() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    edge = tomllib.loads((ROOT / "edge" / "pyproject.toml").read_text())["project"]
    assert root["dependencies"] == edge["dependencies"]
    for extra in ("cpu", "gpu", "stream-manager", "lambda", "images", "camera"):
        assert root["optional-dependencies"][extra] == edge["optional-dependencies"][extra]
    assert root["version"] == edge["version"]


def test_every_locked_file_has_a_hash_and_torch_has_both() -> None:
    for path in sorted((ROOT / "locks").glob("*.txt")):
        blocks = re.split(r"\n(?=[A-Za-z])", path.read_text().split("\n", 1)[1].strip())
        for block in blocks:
            assert re.match(r"[A-Za-z0-9._-]+==\S+", block), f"{path.name}: {block[:60]}"
            assert "--hash=sha256:" in block, f"{path.name}: {block[:60]}"
    cpu, cuda = ((ROOT / "locks" / name).read_text() for name in ("torch-cpu.txt", "torch.txt"))
    assert not set(re.findall(r"sha256:\w+", cpu)) & set(re.findall(r"sha256:\w+", cuda))


def test_the_edge_wheel_holds_the_edge_only(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT / "edge")],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hybridge_edge"}
    assert "hybridge_edge/contract/manifest.py" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("folder", ["cloud", "edge", "components", "examples", "benchmarks", "tests", "scripts"])
def test_no_file_is_longer_than_the_cap(folder: str) -> None:
    long = {
        str(path): lines
        for path in sources(ROOT / folder)
        if (lines := len(path.read_text().splitlines())) > LINES_AT_MOST
    }
    assert long == {}


def test_nothing_listens_beyond_loopback_by_its_source() -> None:
    wide = re.compile(r"""["'](0\.0\.0\.0|\[::\]|::)(:\d+)?["']""")
    assert wide.search('bind("0.0.0.0")')
    for folder in (EDGE, CLOUD, ROOT / "recipes", ROOT / "components"):
        for path in folder.rglob("*"):
            if path.suffix in {".py", ".yaml", ".yml", ".json"} and path.name != "loopback.py":
                assert not wide.search(path.read_text()), path


def test_a_module_that_leaves_the_environment_changed_is_noticed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    for changed in (False, True):
        if changed:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        hook = conftest.pytest_runtest_teardown(request.node, None)
        next(hook)
        with pytest.raises(AssertionError if changed else StopIteration):
            next(hook)
