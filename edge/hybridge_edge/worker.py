"""The serving worker: ``python -m hybridge_edge.worker ALIVE TCP SETTINGS SOURCE``, started by the supervisor.

Order of a start: store, last good models, capture, sockets, endpoint.json, activations cut off by a crash. Order of a
stop: no new calls, running ones end, the management socket, the activation under way, the nucleus, which is asked to
wait until then, the spool's last group.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread, stack_size

from hybridge_edge import engine, runtime, trust, vitals
from hybridge_edge.adjusted import Adjusted
from hybridge_edge.admission.activation import Activation
from hybridge_edge.admission.factory import Factory
from hybridge_edge.admission.trial import try_in_child
from hybridge_edge.contract.errors import HybridgeError, Unavailable
from hybridge_edge.direct.server import DirectServer
from hybridge_edge.lines import LineServer
from hybridge_edge.live_settings import LiveSettings
from hybridge_edge.management import Facts, Management
from hybridge_edge.nucleus_watch import NucleusWatch, Objection
from hybridge_edge.observe import logs, observer
from hybridge_edge.reporting import Reporter, Snapshot
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.standing import durations, standing, under_evaluation
from hybridge_edge.serving.watchdog import Watchdog
from hybridge_edge.settings import ServeSettings, Source
from hybridge_edge.store import Store
from hybridge_edge.targets.target import choose, usable_cores
from hybridge_edge.version import installed_version

_LOG = logging.getLogger(__name__)
_STOPS = (signal.SIGTERM, signal.SIGINT)
THREAD_STACK_BYTES = 2 * 1024 * 1024
DRAIN_S = 5.0
"""How long running calls may go on after SIGTERM."""


def main() -> int:
    """Serve until SIGTERM, or until the supervisor is gone. Returns the exit code."""
    # Blocked here, before any thread starts, and waited for in serve(): a handler that runs just before a blocking call
    # would leave it blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    # The system's 8 MiB would count against the bound on memory for every caller at once, used or not.
    stack_size(THREAD_STACK_BYTES)
    Thread(target=_watch, args=(int(sys.argv[1]),), name="supervisor-watch", daemon=True).start()
    try:
        settings = ServeSettings.from_json(sys.argv[3])
        logs.configure(settings.log_format, settings.log_level)
        code = serve(settings, Source.from_json(sys.argv[4]), sys.argv[2])
    except HybridgeError as error:
        print(f"hybridge-edge: {error}", file=sys.stderr)
        return error.exit_code
    # Everything of ours is closed. The end of the process ends the connections, which callers know to be UNAVAILABLE;
    # to wait for threads that answer somebody still would be to wait without a limit.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def serve(settings: ServeSettings, source: Source, tcp: str) -> int:
    """Run the server until SIGTERM or SIGINT, which the caller has blocked; it also holds the store's lock.

    Args:
        source: where the settings come from; a deployment's later ones are followed. tcp: where the front listens.

    Returns:
        The exit code: 0, or vitals.MEMORY_EXIT where it went for want of memory.

    Raises:
        Refused: the store, a socket or a port cannot be had.
    """
    version = installed_version()
    runtime_folder = runtime.folder()
    target = choose(settings.target)
    threads = target.threads_of_a_run(settings.threads)
    runs_at_once = max(1, usable_cores() // threads)
    gate = Gate(runs_at_once)
    store = Store(settings.store)
    ended_for: list[str] = []

    def out_of_memory(reason: str) -> None:
        _LOG.critical("%s It drains and starts again.", reason)
        vitals.blame_the_only_one(store)
        ended_for.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    life = vitals.Vitals(store, settings.memory_megabytes, out_of_memory)
    life.start()
    watchdog = Watchdog(
        settings.run_seconds,
        lambda resident, reason: _quarantine(activation, resident, reason),
        lambda resident: vitals.end_now(f"A run of {resident.manifest.name} {resident.manifest.version} hangs."),
    )

    def broken(resident: Resident, reason: str) -> None:
        activation.fall_back(resident.manifest.name, resident.digest, reason)

    service = Service(
        gate, lambda model, digest: activation.proven(model, digest), settings.live_share, watchdog, broken,
        settings.shadow_share,
    )  # fmt: skip
    activation = Activation(
        store,
        service,
        trust.read_trust,
        lambda package, without: engine.load(package, threads, target, without),
        lambda: changed(),
        trial=lambda package, stop: try_in_child(package, threads, stop, target=target.name),
        choice=lambda manifest: engine.choose(manifest, target),
        factory=Factory(settings.factory),
        memory_megabytes=settings.memory_megabytes,
    )
    reporter = _reporter(settings, service, store, version)
    changed: Callable[[], None] = reporter.changed if reporter is not None else lambda: None
    watchdog.start()
    activation.restore()
    vitals.bound_memory(settings.memory_megabytes)
    socket = runtime_folder / runtime.INFERENCE_SOCKET
    network = runtime_folder / runtime.NETWORK_SOCKET if tcp else None
    repository = Repository.of(store, service.residents, activation.load)
    server = InferenceServer(service, socket, network, version, lambda: _ready(store, service), repository)
    direct = DirectServer(runtime_folder / runtime.DIRECT_SOCKET, server.answering, server.max_message_bytes)
    watched = observer.start(settings, service, store, version)
    facts = Facts(version, f"unix:{socket}", tcp, target.name, watched.metrics)
    management_socket = runtime_folder / runtime.MANAGEMENT_SOCKET
    endpoint = runtime.Endpoint(facts.inference, tcp, str(management_socket), "", os.getpid())
    adjusted = Adjusted(service, watchdog, reporter, watched, endpoint, runtime_folder)
    live = LiveSettings(settings, source, adjusted.apply, runtime_folder)
    answers = Management(service, store, activation, facts, live.standing)
    management = LineServer(management_socket, answers.answer)
    adjusted.capture(settings)
    adjusted.bound_sequences(settings)
    draining = Event()
    nucleus = NucleusWatch(
        configured=live.configured if source.deployed else None,
        objection=Objection(lambda: draining.is_set() or activation.busy()),
        fault=live.fault if source.deployed else None,
    )
    try:
        # What was made until now stays; the collector, which would look at all of it time and again, need not.
        gc.collect()
        gc.freeze()
        server.start()
        direct.start()
        management.start()
        adjusted.publish()
        _LOG.info("serving on %s%s", facts.inference, f" and {tcp}" if tcp else "")
        service.live.start()
        if reporter is not None:
            reporter.start()
        nucleus.start()
        activation.resume()
        signal.sigwait(_STOPS)
    finally:
        draining.set()
        live.close()
        server.drain(DRAIN_S)
        direct.stop()
        management.close()
        watched.close()
        activation.close()
        nucleus.close()
        service.live.close()
        service.shadowing.close()
        if service.capture is not None:
            service.capture.close()
        if reporter is not None:
            reporter.close()
        watchdog.close()
        life.close()
    return vitals.MEMORY_EXIT if ended_for else 0


def _quarantine(activation: Activation, resident: Resident, reason: str) -> None:
    """Without waiting for it: the watchdog has other runs to look at."""
    with suppress(Unavailable, RuntimeError):  # under way; or the server stops
        activation.quarantine(resident.manifest.name, resident.digest, reason, timeout_s=0)


def _ready(store: Store, service: Service) -> bool:
    """Every model that should be active answers."""
    return all(service.residents.active(record.model) for record in store.records().values() if record.should_answer)


def _reporter(settings: ServeSettings, service: Service, store: Store, version: str) -> Reporter | None:
    """Tells the cloud what this device runs; None on a machine that is no Greengrass device."""
    thing = os.environ.get("AWS_IOT_THING_NAME")
    if not thing:
        _LOG.info("no AWS_IOT_THING_NAME: this server reports to nobody")
        return None

    def snapshot() -> Snapshot:
        counters = service.capture.counters() if service.capture is not None else None
        return Snapshot(
            runtime_version=version,
            models=standing(store, service),
            captured=counters.spool_records if counters else 0,
            spool_bytes=counters.spool_bytes if counters else 0,
            evaluating=under_evaluation(store, service),
            durations=durations(store, service),
        )

    return Reporter(thing, snapshot, settings.store, evaluating_seconds=settings.report_seconds)


def _watch(alive: int) -> None:
    """The pipe ends when the supervisor does, however it died."""
    while os.read(alive, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
