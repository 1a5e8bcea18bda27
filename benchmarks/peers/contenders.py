"""The contenders: what they are called, where they are installed, how they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from peers import launches
from peers.environments import ENVIRONMENTS
from peers.launches import OUR_DIRECT, OUR_TCP, OUR_UNIX, Launch, Scene
from peers.load import DIRECT, HTTP, IN_PROCESS, STREAM, UNARY


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a way to ask a contender. ``way`` names the target."""

    name: str
    transport: str
    way: str = ""


@dataclass(frozen=True, slots=True)
class Contender:
    """One server.

    Attributes:
        environment: its name in ENVIRONMENTS; "" for the project's own. prepare: makes its launch ready, and may do
            what it has to find when it starts. distributions: whose versions are told.
    """

    name: str
    what: str
    environment: str
    rows: tuple[Row, ...]
    prepare: Callable[[Scene], Launch]
    distributions: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        if self.environment:
            project = {name: version(name) for name in self.distributions if name == "hybridge"}
            return {**project, **ENVIRONMENTS[self.environment].versions(*self.distributions)}
        return {name: version(name) for name in self.distributions}


CONTENDERS = (
    Contender(
        "in-process",
        "onnxruntime, session.run in the load generator's own process",
        "",
        (Row("in-process", IN_PROCESS),),
        launches.in_process,
        ("onnxruntime", "numpy"),
    ),
    Contender(
        "ours",
        "hybridge-edge serve as on a device, packages signed, features an identity graph",
        "hybridge",
        (
            Row("ours, unary, TCP", UNARY, OUR_TCP),
            Row("ours, unary, Unix socket", UNARY, OUR_UNIX),
            Row("ours, streaming, TCP", STREAM, OUR_TCP),
            Row("ours, streaming, Unix socket", STREAM, OUR_UNIX),
            Row("ours, direct socket", DIRECT, OUR_DIRECT),
        ),
        launches.ours,
        ("hybridge", "onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "bare grpcio",
        "grpcio's own server, a handler of ten lines over onnxruntime, in our environment: no check, no limit",
        "hybridge",
        (
            Row("bare grpcio, TCP", UNARY, OUR_TCP),
            Row("bare grpcio, Unix socket", UNARY, OUR_UNIX),
            Row("bare grpcio, streaming, Unix socket", STREAM, OUR_UNIX),
        ),
        launches.bare,
        ("onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "kserve",
        "KServe's Python model server, a Model class over onnxruntime",
        "kserve",
        (Row("KServe", UNARY),),
        launches.program("kserve", "kserve_server"),
        ("kserve", "onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "mlserver",
        "MLServer, a custom runtime over onnxruntime, no parallel workers",
        "mlserver",
        (Row("MLServer", UNARY),),
        launches.mlserver,
        ("mlserver", "onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "litserve",
        "LitServe, HTTP, JSON with base64 tensors, one worker",
        "litserve",
        (Row("LitServe", HTTP),),
        launches.litserve,
        ("litserve", "onnxruntime", "uvicorn", "numpy"),
    ),
    Contender(
        "bentoml",
        "BentoML, HTTP, JSON with base64 tensors, one worker",
        "bentoml",
        (Row("BentoML", HTTP),),
        launches.bentoml,
        ("bentoml", "onnxruntime", "uvicorn", "numpy"),
    ),
    Contender(
        "pytriton",
        "PyTriton: Triton in front, the functions in a Python process behind it",
        "pytriton",
        (Row("PyTriton", UNARY),),
        launches.pytriton,
        ("nvidia-pytriton", "onnxruntime", "numpy"),
    ),
    Contender(
        "triton",
        "the Triton inside PyTriton's wheel with its own Python backend over onnxruntime",
        "pytriton",
        (Row("Triton, Python backend", UNARY),),
        launches.triton,
        ("nvidia-pytriton", "onnxruntime", "numpy"),
    ),
)
