"""The handler for Lambda functions: a real server answers it, and the real greengrasssdk publishes what it says.

What greengrasssdk stands on, ``greengrass_common`` and ``greengrass_ipc_python_sdk``, is there only on a core: here a
stand-in keeps what the SDK posts. No Lambda function was ever run on a core.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge import lambda_adapter
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.lambda_adapter import TOPIC_VARIABLE, handler


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No connection and none of the SDK's modules from another test."""
    monkeypatch.setattr(lambda_adapter, "_client", None)
    monkeypatch.delenv(TOPIC_VARIABLE, raising=False)
    _forget_sdk()
    yield
    _forget_sdk()


def _forget_sdk() -> None:
    for name in [name for name in sys.modules if name.startswith(("greengrasssdk", "greengrass_"))]:
        del sys.modules[name]


@pytest.fixture(params=["inference", "tcp"])
def asked(request: pytest.FixtureRequest, echoes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A running server, named to the function by its socket or its port."""
    monkeypatch.setenv("HYBRIDGE_ENDPOINT", getattr(echoes.endpoint, request.param))
    return echoes


@dataclass
class Core:
    """What the SDK posts to the core: (function, payload, subject and more, kind)."""

    posted: list[tuple[str, bytes, dict[str, Any], str]] = field(default_factory=list)
    fault: str = ""


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core()
    common, variables, arns = (ModuleType(f"greengrass_common{name}") for name in ("", ".env_vars", ".arns"))
    variables.__dict__.update(SHADOW_FUNCTION_ARN="shadow", ROUTER_FUNCTION_ARN="router", MY_FUNCTION_ARN="mine")
    arns.__dict__["FunctionArnFields"] = object
    ipc, client = ModuleType("greengrass_ipc_python_sdk"), ModuleType("greengrass_ipc_python_sdk.ipc_client")

    class IPCException(Exception):
        pass

    class IPCClient:
        def __init__(self, endpoint: str) -> None:
            pass

        def post_work(self, function: str, payload: bytes, context: bytes, kind: str) -> str:
            if core.fault:
                raise IPCException(core.fault)
            core.posted.append((function, payload, json.loads(base64.b64decode(context)), kind))
            return "1"

    client.__dict__.update(IPCClient=IPCClient, IPCException=IPCException)
    for name, module in {
        "greengrass_common": common,
        "greengrass_common.env_vars": variables,
        "greengrass_common.function_arn_fields": arns,
        "greengrass_ipc_python_sdk": ipc,
        "greengrass_ipc_python_sdk.ipc_client": client,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return core


def watch(**changes: object) -> dict[str, Any]:
    values = numpy.arange(24, dtype=numpy.float32).reshape(1, 8, 3)
    tensor = {"name": "window", "datatype": "FP32", "shape": [1, 8, 3], "data": values.tolist()}
    return {"model_name": "watch", "id": "one", "inputs": [tensor], **changes}


def test_an_event_is_answered_as_the_protocol_says(asked: Any, kit: Any) -> None:
    answer = json.loads(json.dumps(handler(watch(), None)))
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("watch", "1.1.0", "one")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [1, 3])
    expected = kit.scores(numpy.arange(24, dtype=numpy.float32).reshape(1, 8, 3), 2.0)
    numpy.testing.assert_array_equal(numpy.array(output["data"], numpy.float32), expected.reshape(-1))
    flat = watch()
    flat["inputs"][0]["data"] = list(range(24))
    assert handler(flat)["outputs"] == answer["outputs"]


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_every_datatype_comes_back_as_it_was_sent(echoes: Any, kit: Any, datatype: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("HYBRIDGE_ENDPOINT", echoes.endpoint.inference)
    values = kit.echo_values(datatype).reshape(-1).tolist()
    if datatype == "BYTES":
        values = [value.decode() for value in values]
    if datatype.startswith("FP"):
        values = [value if numpy.isfinite(value) else None for value in values]
    tensor = {"name": "x", "datatype": datatype, "shape": [2, 3], "data": values}
    answer = json.loads(
        json.dumps(handler({"model_name": kit.echo_name(datatype), "inputs": [tensor]}), allow_nan=False)
    )
    assert answer["outputs"] == [{**tensor, "name": "y"}]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_name": 7}, "INVALID_ARGUMENT"),
        ({"model_name": "nobody"}, "NOT_FOUND"),
        ({"inputs": []}, "INVALID_ARGUMENT"),
        ({"inputs": "window"}, "INVALID_ARGUMENT"),
        ({"inputs": [7]}, "INVALID_ARGUMENT"),
        *(
            ({"inputs": [{**watch()["inputs"][0], **wrong}]}, "INVALID_ARGUMENT")
            for wrong in (
                {"datatype": "FP31"},
                {"datatype": ["FP32"]},
                {"shape": [1, 8, 4]},
                {"shape": [-1, 8, 3]},
                {"shape": "1"},
                {"data": None},
                {"data": ["a"] * 24},
                {"data": [[1, 2], [3]]},
                {"data": [1.5] * 24, "datatype": "INT32"},
                {"data": [True] * 24, "datatype": "INT32"},
                {"data": [10**30] * 24, "datatype": "INT32"},
                {"data": [5] * 24, "datatype": "BYTES"},
                {"name": "other"},
            )
        ),
    ],
)
def test_a_wrong_event_is_an_answer(echoes: Any, change: Any, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDGE_ENDPOINT", echoes.endpoint.inference)
    answer = handler(watch(**change))
    assert answer["code"] == code, answer
    assert answer["error"]
    assert handler([])["code"] == "INVALID_ARGUMENT"


def test_a_server_that_is_away_is_an_answer_and_found_again(
    echoes: Any, short: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(short))
    short.chmod(0o700)
    assert handler(watch())["code"] == "UNAVAILABLE"
    monkeypatch.setenv("HYBRIDGE_ENDPOINT", f"unix:{short}/nobody.sock")
    assert handler(watch())["code"] == "UNAVAILABLE"
    monkeypatch.setenv("HYBRIDGE_ENDPOINT", echoes.endpoint.inference)
    assert handler(watch())["model_version"] == "1.1.0"


def test_the_answer_is_published_by_the_real_sdk(asked: Any, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOPIC_VARIABLE, "hybridge/thing/results")
    answer = handler(watch())
    ((function, payload, context, kind),) = core.posted
    assert json.loads(payload) == answer
    assert (function, kind) == ("router", "Event")
    assert context["custom"]["subject"] == "hybridge/thing/results"
    assert context["custom"]["queueFullPolicy"] == "AllOrError", "the core says so where its queue is full"


def test_without_a_topic_nothing_is_published_and_no_sdk_is_imported(asked: Any, core: Core) -> None:
    assert handler(watch())["model_version"] == "1.1.0"
    assert core.posted == []
    assert "greengrasssdk" not in sys.modules


def test_a_core_that_does_not_take_it_is_an_answer(asked: Any, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOPIC_VARIABLE, "hybridge/thing/results")
    core.fault = "queue full"
    answer = handler(watch())
    assert answer["code"] == "UNAVAILABLE"
    assert "queue full" in answer["error"]
    monkeypatch.setattr(lambda_adapter, "MAX_PUBLISHED_BYTES", 10)
    assert handler(watch())["code"] == "REFUSED"


@pytest.mark.parametrize(("absent", "named"), [("greengrass_common", "greengrass_common"), ("greengrasssdk",) * 2])
def test_off_a_core_it_says_what_is_missing(
    asked: Any, monkeypatch: pytest.MonkeyPatch, absent: str, named: str
) -> None:
    """The first is the real SDK on this machine, which is no core."""
    monkeypatch.setenv(TOPIC_VARIABLE, "hybridge/thing/results")
    if absent == "greengrasssdk":
        monkeypatch.setitem(sys.modules, "greengrasssdk", None)
    answer = handler(watch())
    assert answer["code"] == "UNAVAILABLE"
    assert f"there is no module {named}" in answer["error"]


def test_importing_it_imports_no_sdk() -> None:
    program = "import sys, hybridge_edge.lambda_adapter; print([n for n in sys.modules if n.startswith('greengrass')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
