"""The contenders: how each one is started with the models, where it listens then, and how it is asked."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hybridge_edge import runtime
from peers import package
from peers.environments import ENVIRONMENTS
from peers.load import HTTP, IN_PROCESS, STREAM, UNARY
from peers.models import Exported
from peers.processes import surroundings
from peers.servers.session import Served, Task

BENCHMARKS = Path(__file__).resolve().parent.parent
OUR_TCP, OUR_UNIX = "tcp", "unix"
_LOOPBACK = "127.0.0.1"
_PROJECT = ("hybridge", "onnxruntime", "grpcio", "numpy")


@dataclass(frozen=True, slots=True)
class Scene:
    """What a contender is started with: a folder of its own, the models, three free ports, where environments lie."""

    folder: Path
    models: Sequence[Exported]
    ports: tuple[int, int, int]
    environments: Path

    def task(self) -> Path:
        path = self.folder / "task.json"
        served = (Served(one.model.name, str(one.path), one.model.shape, one.model.classes) for one in self.models)
        Task(tuple(served), *self.ports).write(path)
        return path


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, its environment variables, and the targets it will listen on, by the name of the way in."""

    command: list[str]
    environment: dict[str, str]
    targets: dict[str, str]


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
            return ENVIRONMENTS[self.environment].versions(*self.distributions)
        return {name: version(name) for name in self.distributions}


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((_LOOPBACK, 0))) for _ in range(count)]
        return tuple(one.getsockname()[1] for one in sockets)


def _python(scene: Scene, environment: str) -> Path:
    return ENVIRONMENTS[environment].python(scene.environments)


def _peer_surroundings(**more: str) -> dict[str, str]:
    return surroundings(PYTHONPATH=str(BENCHMARKS), **more)


def _in_process(scene: Scene) -> Launch:
    return Launch([], {}, {one.model.name: str(one.path) for one in scene.models})


def _ours(scene: Scene) -> Launch:
    (scene.folder / "run").mkdir(mode=0o700)
    environment = surroundings(
        HYBRIDGE_RUNTIME_DIR=str(scene.folder / "run"), HYBRIDGE_TRUST=str(scene.folder / "trust.json")
    )
    package.activate(scene.folder, environment, [one.model for one in scene.models])
    tcp = f"{_LOOPBACK}:{scene.ports[0]}"
    unix = f"unix:{scene.folder / 'run' / runtime.INFERENCE_SOCKET}"
    return Launch(package.command(scene.folder, tcp), environment, {OUR_TCP: tcp, OUR_UNIX: unix})


def _program(environment: str, module: str) -> Callable[[Scene], Launch]:
    """A contender whose server program is ours: ``python -m peers.servers.MODULE TASK``."""

    def prepare(scene: Scene) -> Launch:
        python = _python(scene, environment)
        command = [str(python), "-m", f"peers.servers.{module}", str(scene.task())]
        return Launch(command, _peer_surroundings(), {"": f"{_LOOPBACK}:{scene.ports[0]}"})

    return prepare


def _pytriton(scene: Scene) -> Launch:
    launch = _program("pytriton", "pytriton_server")(scene)
    return Launch(launch.command, {**launch.environment, "LD_LIBRARY_PATH": _library_of_python()}, launch.targets)


def _library_of_python() -> str:
    """Triton's Python process links libpython; it must be that of the environment's Python, not the system's."""
    return str(sysconfig.get_config_var("LIBDIR"))


def _litserve(scene: Scene) -> Launch:
    launch = _program("litserve", "litserve_server")(scene)
    return Launch(launch.command, launch.environment, {"": f"{_LOOPBACK}:{scene.ports[0]}/predict"})


def _bentoml(scene: Scene) -> Launch:
    program = _python(scene, "bentoml").parent / "bentoml"
    address = ["--host", _LOOPBACK, "--port", str(scene.ports[0])]
    environment = _peer_surroundings(
        PEERS_TASK=str(scene.task()), BENTOML_DO_NOT_TRACK="true", BENTOML_HOME=str(scene.folder / "home")
    )
    command = [str(program), "serve", "peers.servers.bentoml_service:Sessions", *address]
    return Launch(command, environment, {"": f"{_LOOPBACK}:{scene.ports[0]}/infer"})


def _mlserver(scene: Scene) -> Launch:
    """Its own program over a folder of models, in one process: what is fastest for small models."""
    program = _python(scene, "mlserver").parent / "mlserver"
    ports = dict(zip(("grpc_port", "http_port", "metrics_port"), scene.ports, strict=True))
    settings = {"host": _LOOPBACK, **ports, "parallel_workers": 0, "debug": False}
    (scene.folder / "settings.json").write_text(json.dumps(settings))
    for one in scene.models:
        place = scene.folder / one.model.name
        place.mkdir()
        described = {
            "name": one.model.name,
            "implementation": "peers.servers.mlserver_runtime.SessionRuntime",
            "parameters": {"uri": str(one.path)},
        }
        (place / "model-settings.json").write_text(json.dumps(described))
    command = [str(program), "start", str(scene.folder)]
    return Launch(command, _peer_surroundings(), {"": f"{_LOOPBACK}:{scene.ports[0]}"})


def _triton(scene: Scene) -> Launch:
    """The server inside PyTriton's wheel, with its own Python backend in place of PyTriton's proxy."""
    python = _python(scene, "pytriton")
    (packages,) = python.parent.parent.glob("lib/python3*/site-packages")
    bundled = packages / "pytriton" / "tritonserver"
    server, repository = scene.folder / "tritonserver", scene.folder / "repository"
    shutil.copytree(bundled, server, ignore=shutil.ignore_patterns("python_backend_stubs"))
    stub = bundled / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python")
    for one in scene.models:
        place = repository / one.model.name / "1"
        place.mkdir(parents=True)
        # The backend's own Python looks at no PYTHONPATH.
        (place / "model.py").write_text(
            f"import sys\nsys.path[:0] = [{str(BENCHMARKS)!r}, {str(packages)!r}]\n"
            "from peers.servers.triton_model import TritonPythonModel\n"
        )
        dims, graph = list(one.model.shape), one.path
        (place.parent / "config.pbtxt").write_text(
            f'name: "{one.model.name}"\nbackend: "python"\nmax_batch_size: 32\n'
            f'input [{{name: "input" data_type: TYPE_FP32 dims: {dims}}}]\n'
            f'output [{{name: "scores" data_type: TYPE_FP32 dims: [{one.model.classes}]}}]\n'
            f'parameters [{{key: "graph" value: {{string_value: "{graph}"}}}}]\n'
        )
    grpc, http, metrics = scene.ports
    options = {
        "model-repository": repository,
        "backend-directory": server / "backends",
        "grpc-address": _LOOPBACK,
        "grpc-port": grpc,
        "http-address": _LOOPBACK,
        "http-port": http,
        "metrics-address": _LOOPBACK,
        "metrics-port": metrics,
    }
    command = [str(server / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]
    libraries = f"{_library_of_python()}:{packages / 'nvidia_pytriton.libs'}"
    environment = surroundings(LD_LIBRARY_PATH=libraries)
    return Launch(command, environment, {"": f"{_LOOPBACK}:{grpc}"})


CONTENDERS = (
    Contender(
        "in-process",
        "onnxruntime, session.run in the load generator's own process",
        "",
        (Row("in-process", IN_PROCESS),),
        _in_process,
        ("onnxruntime", "numpy"),
    ),
    Contender(
        "ours",
        "hybridge-edge serve, packages signed, features an identity graph",
        "",
        (
            Row("ours, unary, TCP", UNARY, OUR_TCP),
            Row("ours, unary, Unix socket", UNARY, OUR_UNIX),
            Row("ours, streaming, TCP", STREAM, OUR_TCP),
            Row("ours, streaming, Unix socket", STREAM, OUR_UNIX),
        ),
        _ours,
        _PROJECT,
    ),
    Contender(
        "kserve",
        "KServe's Python model server, a Model class over onnxruntime",
        "kserve",
        (Row("KServe", UNARY),),
        _program("kserve", "kserve_server"),
        ("kserve", "onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "mlserver",
        "MLServer, a custom runtime over onnxruntime, no parallel workers",
        "mlserver",
        (Row("MLServer", UNARY),),
        _mlserver,
        ("mlserver", "onnxruntime", "grpcio", "numpy"),
    ),
    Contender(
        "litserve",
        "LitServe, HTTP, JSON with base64 tensors, one worker",
        "litserve",
        (Row("LitServe", HTTP),),
        _litserve,
        ("litserve", "onnxruntime", "uvicorn", "numpy"),
    ),
    Contender(
        "bentoml",
        "BentoML, HTTP, JSON with base64 tensors, one worker",
        "bentoml",
        (Row("BentoML", HTTP),),
        _bentoml,
        ("bentoml", "onnxruntime", "uvicorn", "numpy"),
    ),
    Contender(
        "pytriton",
        "PyTriton: Triton in front, the functions in a Python process behind it",
        "pytriton",
        (Row("PyTriton", UNARY),),
        _pytriton,
        ("nvidia-pytriton", "onnxruntime", "numpy"),
    ),
    Contender(
        "triton",
        "the Triton inside PyTriton's wheel with its own Python backend over onnxruntime",
        "pytriton",
        (Row("Triton, Python backend", UNARY),),
        _triton,
        ("nvidia-pytriton", "onnxruntime", "numpy"),
    ),
)
