"""How each contender is started with the models, and where it listens then."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import our_server

from hybridge_edge import runtime
from peers import package
from peers.environments import ENVIRONMENTS, OUR_SOURCES
from peers.models import Exported
from peers.processes import surroundings
from peers.servers.session import Served, Task

BENCHMARKS = Path(__file__).resolve().parent.parent
OUR_TCP, OUR_UNIX, OUR_DIRECT = "tcp", "unix", "direct"
BARE_SOCKET = "bare"
"""As peers.servers.bare_server names it, which only an environment with grpcio can import."""
_LOOPBACK = "127.0.0.1"


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


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((_LOOPBACK, 0))) for _ in range(count)]
        return tuple(one.getsockname()[1] for one in sockets)


def _python(scene: Scene, environment: str) -> Path:
    return ENVIRONMENTS[environment].python(scene.environments)


def _peer_surroundings(**more: str) -> dict[str, str]:
    return surroundings(PYTHONPATH=str(BENCHMARKS), **more)


def in_process(scene: Scene) -> Launch:
    return Launch([], {}, {one.model.name: str(one.path) for one in scene.models})


def ours(scene: Scene) -> Launch:
    (scene.folder / "run").mkdir(mode=0o700)
    environment = surroundings(
        HYBRIDGE_RUNTIME_DIR=str(scene.folder / "run"), HYBRIDGE_TRUST=str(scene.folder / "trust.json")
    )
    package.activate(scene.folder, environment, [one.model for one in scene.models])
    tcp = f"{_LOOPBACK}:{scene.ports[0]}"
    unix = f"unix:{scene.folder / 'run' / runtime.INFERENCE_SOCKET}"
    command = our_server.command(scene.folder, tcp, str(_python(scene, "hybridge")))
    targets = {OUR_TCP: tcp, OUR_UNIX: unix, OUR_DIRECT: str(scene.folder / "run" / runtime.DIRECT_SOCKET)}
    return Launch(command, {**environment, "PYTHONPATH": str(OUR_SOURCES)}, targets)


def bare(scene: Scene) -> Launch:
    python, task = _python(scene, "hybridge"), scene.task()
    command = [str(python), "-m", "peers.servers.bare_server", str(task)]
    environment = surroundings(PYTHONPATH=f"{BENCHMARKS}:{OUR_SOURCES}")
    targets = {OUR_TCP: f"{_LOOPBACK}:{scene.ports[0]}", OUR_UNIX: f"unix:{task.parent / BARE_SOCKET}"}
    return Launch(command, environment, targets)


def program(environment: str, module: str) -> Callable[[Scene], Launch]:
    """A contender whose server program is ours: ``python -m peers.servers.MODULE TASK``."""

    def prepare(scene: Scene) -> Launch:
        python = _python(scene, environment)
        command = [str(python), "-m", f"peers.servers.{module}", str(scene.task())]
        return Launch(command, _peer_surroundings(), {"": f"{_LOOPBACK}:{scene.ports[0]}"})

    return prepare


def pytriton(scene: Scene) -> Launch:
    launch = program("pytriton", "pytriton_server")(scene)
    return Launch(launch.command, {**launch.environment, "LD_LIBRARY_PATH": _library_of_python()}, launch.targets)


def _library_of_python() -> str:
    """Triton's Python process links libpython; it must be that of the environment's Python, not the system's."""
    return str(sysconfig.get_config_var("LIBDIR"))


def litserve(scene: Scene) -> Launch:
    launch = program("litserve", "litserve_server")(scene)
    return Launch(launch.command, launch.environment, {"": f"{_LOOPBACK}:{scene.ports[0]}/predict"})


def bentoml(scene: Scene) -> Launch:
    program = _python(scene, "bentoml").parent / "bentoml"
    address = ["--host", _LOOPBACK, "--port", str(scene.ports[0])]
    environment = _peer_surroundings(
        PEERS_TASK=str(scene.task()), BENTOML_DO_NOT_TRACK="true", BENTOML_HOME=str(scene.folder / "home")
    )
    command = [str(program), "serve", "peers.servers.bentoml_service:Sessions", *address]
    return Launch(command, environment, {"": f"{_LOOPBACK}:{scene.ports[0]}/infer"})


def mlserver(scene: Scene) -> Launch:
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


def triton(scene: Scene) -> Launch:
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
