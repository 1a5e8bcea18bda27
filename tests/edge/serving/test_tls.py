"""A real server under TLS: who may ask what (S9), what an expired certificate stops and what not (S17), its clients."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
from certificates import Authority, Leaf, put
from tritonclient import grpc as triton

from hybridge_edge import settings
from hybridge_edge.cli import main
from hybridge_edge.client import AsyncClient, Client, ClientTls
from hybridge_edge.client import tls as client_tls
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable, UsageError
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.front.process import listen
from hybridge_edge.live_settings import FILE
from hybridge_edge.settings import ServeSettings, Source

NAME = "press-7.plant.example"
OK, UNAVAILABLE, DENIED = "OK", "UNAVAILABLE", "PERMISSION_DENIED"


@dataclass
class Plant:
    """A server with a model, under TLS, and what its clients need."""

    folder: Path
    server: Any
    authority: Authority

    @property
    def address(self) -> str:
        return str(self.server.endpoint.tcp)

    def start(
        self, packages: Callable, certificate: Leaf | None = None, *more: str, revoked: Leaf | None = None
    ) -> Plant:
        shown = certificate or self.authority.server()
        public, private = shown.files(self.folder, "server")
        put(self.folder / "ca.pem", self.authority.certificate)
        put(self.folder / "clients", NAME.encode())
        put(self.folder / "revoked", f"sha256 {revoked.fingerprint}".encode() if revoked is not None else b"")
        self.server.arguments = [
            "--tcp", "127.0.0.1:0", "--tls-certificate", str(public), "--tls-key", str(private),
            "--tls-client-ca", str(self.folder / "ca.pem"), "--tls-clients", str(self.folder / "clients"),
            "--tls-revoked", str(self.folder / "revoked"), *more,
        ]  # fmt: skip
        self.server.start()
        self.server.hand_over(packages("1.0.0", 2.0).handover(1))
        return self

    def tls(self, leaf: Leaf | None = None, name: str = "client") -> ClientTls:
        certificate, key = (leaf or self.authority.leaf(NAME)).files(self.folder, name)
        return ClientTls(self.folder / "ca.pem", certificate, key)

    def status(self) -> dict[str, Any]:
        return dict(self.server.say(verb="status")["tls"])


@pytest.fixture
def plant(server: Any, short: Path) -> Plant:
    return Plant(short, server, Authority())


CLIENTS: dict[str, Callable[[Plant], Leaf | None]] = {
    "no certificate": lambda plant: None,
    "self-signed": lambda plant: plant.authority.leaf(NAME, itself=True),
    "wrong authority": lambda plant: Authority().leaf(NAME),
    "expired": lambda plant: plant.authority.leaf(NAME, begins=-9.0, ends=-1.0),
    "not yet valid": lambda plant: plant.authority.leaf(NAME, begins=1.0, ends=9.0),
    "wrong name": lambda plant: plant.authority.leaf(f"not-{NAME}"),
    "revoked": lambda plant: plant.authority.leaf(NAME),
    "right": lambda plant: plant.authority.leaf(NAME),
}
COUNTED = {"no certificate": "no-certificate", "self-signed": "untrusted", "wrong authority": "untrusted",
           "expired": "expired", "not yet valid": "not-yet-valid", "wrong name": "not-allowed", "revoked": "revoked",
           "right": "ok"}  # fmt: skip
REFUSED = {"infer": UNAVAILABLE, "metadata": UNAVAILABLE, "health": UNAVAILABLE, "manage": UNAVAILABLE}
TABLE = {**dict.fromkeys(CLIENTS, REFUSED), "right": {"infer": OK, "metadata": OK, "health": OK, "manage": DENIED}}


def asked(channel: grpc.Channel, verb: str, kit: ModuleType) -> tuple[str, bytes]:
    """What grpc says to one of the four, and the answer's bytes."""
    request = messages.ModelInferRequest(model_name=kit.MODEL)
    tensor = request.inputs.add(name="window", datatype="FP32", shape=[1, kit.STEPS, kit.CHANNELS])
    tensor.contents.fp32_contents.extend(kit.window().ravel().tolist())
    method, content = {
        "infer": ("ModelInfer", request),
        "metadata": ("ModelMetadata", messages.ModelMetadataRequest(name=kit.MODEL)),
        "health": ("ServerReady", messages.ServerReadyRequest()),
        "manage": ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name=kit.MODEL)),
    }[verb]
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    try:
        return OK, call(content.SerializeToString(), timeout=10)
    except grpc.RpcError as error:
        return error.code().name, b""


def test_who_shows_what_may_ask_what(plant: Plant, packages: Callable, kit: ModuleType) -> None:
    shown = {name: make(plant) for name, make in CLIENTS.items()}
    plant.start(packages, revoked=shown["revoked"])
    table: dict[str, dict[str, str]] = {}
    for name, leaf in shown.items():
        pair = (leaf.key, leaf.certificate) if leaf is not None else (None, None)
        table[name] = {}
        for verb in REFUSED:
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
            credentials = grpc.ssl_channel_credentials(plant.authority.certificate, *pair)
            with grpc.secure_channel(plant.address, credentials, options=options) as channel:
                table[name][verb], answer = asked(channel, verb, kit)
            if (name, verb) == ("right", "health"):
                assert messages.ServerReadyResponse.FromString(answer) == messages.ServerReadyResponse(ready=True)
                assert len(answer) == 2, "health says ready, and nothing else"
    assert table == TABLE
    # Each was refused for what was wrong with it, and not for something else.
    asked_for = Counter(COUNTED[name] for name in CLIENTS for _ in REFUSED)
    until = time.monotonic() + 10
    while plant.status()["handshakes"]["ok"] < len(REFUSED) and time.monotonic() < until:
        time.sleep(0.05)
    counted = {result: count for result, count in plant.status()["handshakes"].items() if count}
    counted.pop("gone", 0)  # a client that tries again and is closed by its test
    assert {result: min(count, asked_for[result]) for result, count in counted.items()} == asked_for
    assert counted["ok"] == len(REFUSED)


def test_an_expired_certificate_is_reported_and_the_device_goes_on(
    plant: Plant,
    packages: Callable,
    kit: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expired = plant.authority.server(begins=-90.0, ends=-1.0)
    plant.start(packages, expired, "--metrics", "127.0.0.1:0")
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(plant.server.runtime))

    def metric(name: str) -> float:
        page = f"http://{plant.server.say(verb='status')['server']['metrics']}/metrics"
        lines = urllib.request.urlopen(page, timeout=5).read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    with Client(plant.server.endpoint.inference) as local:
        assert local.infer(kit.MODEL, {"window": kit.window()}).version == "1.0.0"
        with (
            Client(plant.address, tls=plant.tls(), retry=False) as remote,
            pytest.raises(Unavailable, match="TLS handshake with the server at"),
        ):
            remote.infer(kit.MODEL, {"window": kit.window()})
        assert plant.status()["state"] == "expired"
        assert metric("hybridge_tls_certificate_expiry_seconds") < -80_000
        assert main(["status"]) == 0
        assert "TLS expired: certificate of localhost until" in capsys.readouterr().out
        plant.authority.server(ends=20.0).files(plant.folder, "server")
        until = time.monotonic() + 15
        while plant.status()["state"] != "expiring" and time.monotonic() < until:
            time.sleep(0.05)
        with Client(plant.address, tls=plant.tls(), retry=False) as remote:
            assert remote.infer(kit.MODEL, {"window": kit.window()}).version == "1.0.0"
        assert local.infer(kit.MODEL, {"window": kit.window()}).version == "1.0.0"
    assert 19 * 86400 < metric("hybridge_tls_certificate_expiry_seconds") < 20 * 86400
    assert plant.server.stop() == 0
    assert "The server's certificate has expired" in plant.server.said
    assert "expires in 20.0 days" in plant.server.said


def test_clients_of_every_kind_and_a_list_that_changes_while_it_serves(
    plant: Plant,
    packages: Callable,
    kit: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant.start(packages)
    tls, inputs = plant.tls(), {"window": kit.window()}
    monkeypatch.setattr(client_tls, "LOOK_S", 0.0)
    with Client(plant.address, tls=tls) as client:
        for _ in range(6):  # calls, and then a stream
            assert client.infer(kit.MODEL, inputs).version == "1.0.0"
        first = client._connected
        plant.tls()  # a certificate anew, in the same files
        assert client.infer(kit.MODEL, inputs).version == "1.0.0"
        assert client._connected is not first
        again = client._connected
        put(tls.certificate, b"half")  # type: ignore[arg-type]
        assert client.infer(kit.MODEL, inputs).version == "1.0.0"
        assert client._connected is again, "files that are being replaced change nothing"
        plant.tls()
        with pytest.raises(HybridgeError, match="TCP"):
            client.feedback("a" * 32, "rest", model=kit.MODEL)

    async def ask() -> str:
        async with AsyncClient(plant.address, tls=tls) as client:
            for _ in range(6):
                await client.infer(kit.MODEL, inputs)
            before = client._connected
            plant.tls()
            version = (await client.infer(kit.MODEL, inputs)).version
            assert client._connected is not before
            return version

    assert asyncio.run(ask()) == "1.0.0"

    files = {"root_certificates": tls.ca, "private_key": tls.key, "certificate_chain": tls.certificate}
    with triton.InferenceServerClient(
        plant.address, ssl=True, **{name: str(path) for name, path in files.items()}
    ) as one:
        tensor = triton.InferInput("window", [1, kit.STEPS, kit.CHANNELS], "FP32")
        tensor.set_data_from_numpy(kit.window())
        assert one.infer(kit.MODEL, [tensor]).as_numpy("scores").shape == (1, kit.CHANNELS)

    window = plant.folder / "window.npy"
    numpy.save(window, kit.window())
    flags = ["--model", kit.MODEL, "--input", str(window), "--address", plant.address, "--tls-ca", str(tls.ca)]
    flags += ["--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key)]
    assert main(["infer", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "1.0.0"
    assert main(["bench", *flags, "--seconds", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == {}
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(plant.server.runtime))
    assert main(["bench", *flags[:4], "--tcp"]) == 1
    assert "TCP is under TLS" in capsys.readouterr().err
    assert main(["infer", *flags[:-2]]) == 2
    assert "--tls-key missing" in capsys.readouterr().err
    assert main(["infer", *flags, "--tls-name", "another"]) == 1
    assert "TLS handshake with the server at" in capsys.readouterr().err

    # As the worker tells its supervisor of a deployment that names others: at once, and without a restart.
    held = ServeSettings.from_json(_told(plant))
    (plant.server.runtime / FILE).write_bytes(replace(held, tls_clients="somebody.else").to_json())
    until = time.monotonic() + 15
    with Client(plant.address, tls=tls, retry=False) as client:
        with suppress(Unavailable):  # where the list is faster
            client.infer(kit.MODEL, inputs)
        while not plant.status()["handshakes"]["not-allowed"] and time.monotonic() < until:
            with suppress(Unavailable):
                client.infer(kit.MODEL, inputs)
            time.sleep(0.05)
        with pytest.raises(Unavailable):
            client.infer(kit.MODEL, inputs)
        assert plant.status()["clients"] == 1
        assert plant.server.endpoint.pid == plant.server.say(verb="status")["server"]["pid"]


def _told(plant: Plant) -> bytes:
    arguments = dict(zip(plant.server.arguments[::2], plant.server.arguments[1::2], strict=True))
    named = {flag[2:].replace("-", "_"): value for flag, value in arguments.items()}
    camel = {"".join(p.title() if i else p for i, p in enumerate(k.split("_"))): v for k, v in named.items()}
    return Source(Configuration({**camel, "store": str(plant.server.store)}).given()).settings({}).to_json()


FULL = {"tlsCertificate": "c.pem", "tlsKey": "c.key", "tlsClientCa": "ca.pem", "tlsClients": NAME}


@pytest.mark.parametrize("tcp", ["192.0.2.1:8001", "[2001:db8::1]:8001", "127.0.0.1:8001"])
def test_beyond_this_machine_tls_is_whole_or_the_server_does_not_start(tcp: str) -> None:
    assert Source({"tcp": tcp, **FULL}).settings({}).tls is not None
    for name in FULL:
        with pytest.raises(UsageError, match=rf"{name} is missing"):
            Source({"tcp": tcp, **{key: value for key, value in FULL.items() if key != name}}).settings({})
    if tcp.startswith("127"):
        assert Source({"tcp": tcp}).settings({}).tls is None
    else:
        with pytest.raises(UsageError, match="tlsCertificate, tlsKey, tlsClientCa, tlsClients are missing"):
            Source({"tcp": tcp}).settings({})
        with pytest.raises(Unavailable):  # not this machine's address, so nothing listens here either
            listen(tcp, anywhere=True)
    with pytest.raises(UsageError, match="missing"):
        Source({"tcp": tcp, "tlsRevoked": "r"}).settings({})
    with pytest.raises(UsageError, match="longer than"):
        Source({"tcp": tcp, **FULL, "tlsClients": "a," * 3000}).settings({})


def test_what_decides_whether_there_is_tls_waits_for_a_restart_and_the_list_does_not() -> None:
    old = Source({"tcp": "127.0.0.1:1", **FULL}).settings({})
    new = old.following(
        Source({"tcp": "127.0.0.1:1", "tlsClients": "b", **{k: v + "2" for k, v in list(FULL.items())[:3]}}).settings(
            {}
        )
    )
    assert (new.tls_clients, new.tls_certificate) == ("b", old.tls_certificate)
    plain = old.following(Source({"tcp": "127.0.0.1:1"}).settings({}))
    assert plain.tls is not None
    assert {"tlsClients", "tlsConnectionSeconds"} == {name for name in settings.LIVE if name.startswith("tls")}
    assert ServeSettings.from_json(old.to_json()) == old


def test_a_clients_own_mistakes_are_said_before_anything_is_sent(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.leaf(NAME).files(tmp_path, "one")
    _, other = authority.leaf(NAME).files(tmp_path, "other")
    put(tmp_path / "ca.pem", authority.certificate)
    with pytest.raises(UsageError, match="own sockets"):
        Client(tls=ClientTls(tmp_path / "ca.pem", certificate, key))
    for tls, words in (
        (ClientTls(tmp_path / "none", certificate, key), "cannot be read"),
        (ClientTls(tmp_path / "ca.pem", certificate, other), "KEY_VALUES_MISMATCH"),
    ):
        with Client("127.0.0.1:9", tls=tls) as client, pytest.raises(Refused, match=words):
            client.infer("watch", {"window": numpy.zeros(1)})
