"""Every durable step has a point at which a test can have the server die, and every point is reached."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridge_edge import failpoint
from hybridge_edge.admission.trial import try_in_child
from hybridge_edge.contract.states import Mode

EDGE = Path(failpoint.__file__).parent
DURABLE = {"write", "create", "make_folder", "rename", "remove", "remove_tree"}
"""Operations of ``durable`` that change what a restart finds; ``sync_folder`` makes sure of it."""
FOLLOWED_BY = {("package.py", "copy_to"): "store.copied"}
"""Functions whose last durable operation is followed by a point in their only caller."""
ADMISSION = sorted(path.name for path in (EDGE / "admission").glob("*.py"))
OF_STORE_AND_ACTIVATION = ["store.py", "package.py", *(f"admission/{name}" for name in ADMISSION)]


def named(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of points and their lines: of ``failpoint.reach("name")``, and of ``at="name"``, which is passed on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) == "failpoint.reach" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno
            for keyword in node.keywords:
                if keyword.arg == "at" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                    yield str(keyword.value.value), node.lineno


def without_a_point(source: str, file: str) -> list[str]:
    """Functions that change something durably and reach no point after it."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        changes = [
            node.lineno
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and re.fullmatch(r"durable\.(\w+)", ast.unparse(node.func))
            if ast.unparse(node.func).removeprefix("durable.") in DURABLE
        ]
        points = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Call)
                  and ast.unparse(node.func) == "failpoint.reach"]  # fmt: skip
        followed = bool(points) and max(points) > max(changes, default=0)
        if changes and not followed and (file, function.name) not in FOLLOWED_BY:
            found.append(function.name)
    return found


def test_the_points_are_what_the_code_names() -> None:
    found = [name for path in EDGE.rglob("*.py") for name, _ in named(ast.parse(path.read_text()))]
    assert set(found) == set(failpoint.POINTS)
    assert len(set(failpoint.POINTS)) == len(failpoint.POINTS)
    assert set(FOLLOWED_BY.values()) <= set(failpoint.POINTS)


@pytest.mark.parametrize("file", OF_STORE_AND_ACTIVATION)
def test_every_durable_step_has_a_point(file: str) -> None:
    assert without_a_point((EDGE / file).read_text(), file) == []


def test_a_step_without_a_point_is_found() -> None:
    """The control."""
    source = "def f():\n    failpoint.reach('a')\n    durable.write(path, data)\n"
    assert without_a_point(source, "store.py") == ["f"]
    assert without_a_point(source + "    failpoint.reach('b')\n", "store.py") == []


def test_every_point_is_reached(device: Any, packages: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[str] = set()
    monkeypatch.setattr(failpoint, "reach", reached.add)
    device.trial = lambda package, stop: try_in_child(package, 1, stop)
    device.restart()
    built = [packages(f"1.{number}.0", 1.0 + number, probes=2) for number in range(4)]
    for number, one in enumerate(built):
        device.activation.hand_over(one.handover(number + 1))
    device.restart()
    device.activation.resume()
    device.activation.hand_over(built[3].handover(5))  # behind what was resumed
    device.service.residents.let_go("watch")
    device.activation.quarantine("watch", built[3].digest, "it hung")
    device.activation.hand_over(built[3].handover(6, Mode.RETIRE))
    device.stop()
    (device.folder / "packages" / ".incoming-1").mkdir()
    (device.folder / "state.json").write_text("{")
    device.start()
    assert reached == set(failpoint.POINTS)
