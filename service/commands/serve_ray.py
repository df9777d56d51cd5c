"""`rehead serve --engine ray`, and the app builder for `serve run` and KubeRay: the API on the replicas of Ray Serve.

The only module of the server that imports ray. Ray starts, routes, scales and replaces replicas; nothing of that may be
added here. Each replica builds the app that uvicorn serves, without the web UI.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field
from starlette.types import ASGIApp

from service.errors import BackendFailed, BadRequest
from service.server.ray_proxy import IMPORT_PATH
from service.settings import LISTS, EngineName, RuntimeSettings, ServeSettings

INSTALL = "pip install 'rehead[ray]'"
NAME = "rehead"
"""The name of the application and of its deployment."""

REFUSED = {
    "mcp": "its tools are part of the web UI",
    "allow_training": "training is part of the web UI",
    "bases": "training is part of the web UI",
    "tables": "tables are part of the web UI",
    "feedback": "corrections are part of the web UI",
    "max_feedback_rows": "corrections are part of the web UI",
    "max_upload_bytes": "uploads are part of the web UI",
    "tls_cert": "a reverse proxy or an ingress in front of Ray has the certificate",
    "tls_key": "a reverse proxy or an ingress in front of Ray has the certificate",
    "max_connections": "Ray's proxy does not bound connections; a reverse proxy in front of it does",
}
"""Options of the local engine, and why Ray has none of them."""

OBJECT_STORE_BYTES = 100_000_000
"""Memory that Ray reserves for shared objects: requests and answers here are too small to be shared."""

TARGET_SHARE = 16
"""Ray adds replicas where each has more running requests than `max_concurrent` divided by this."""

HEALTH_PERIOD_S = 1.0
"""Seconds between the checks by which Ray notices that a replica died."""

METRICS_S, STOPPING_S, QUEUED_S, DRAIN_S = 5.0, 10.0, 5.0, 0.5


class ClusterSettings(ServeSettings):
    """The arguments of `app`: those of `rehead serve`, without the ones that Ray's own configuration sets."""

    engine: EngineName = "ray"
    """Always ray."""

    host: str = "0.0.0.0"
    """The address that Ray's proxies listen on (http_options.host); one that others reach requires a key."""

    threads: int = Field(default=1, ge=1)
    """Threads of a replica, which Ray counts as its CPUs."""


class Replica:
    """The app on one replica, and what the others and the server ask of it."""

    def __init__(self, settings: ServeSettings) -> None:
        from service.server.telemetry import quiet_libraries

        quiet_libraries()
        self._settings, self._name = settings, secrets.token_hex(4)
        self._admission: Any = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the app; Ray calls this on the replica."""
        from service.app import create_app

        app = create_app(self._settings, say=_say, page=False, metrics_page=self._metrics_of_all)
        self._admission = app.state.admission
        return app

    async def metrics(self) -> tuple[str, bytes]:
        """Return the name of this replica and its metrics."""
        return self._name, self._admission.telemetry.page()

    async def drain(self, within_s: float) -> None:
        """Refuse new requests, and return once the running ones are answered."""
        self._admission.draining = True
        await asyncio.sleep(DRAIN_S)
        end = time.monotonic() + within_s
        while self._admission.requests and time.monotonic() < end:
            await asyncio.sleep(0.05)

    async def _metrics_of_all(self) -> bytes:
        from ray import serve

        from service.server.telemetry import merged

        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            answers = await handle.broadcast("metrics").results_async(timeout_s=METRICS_S, return_exceptions=True)
        except TimeoutError:  # one of them is too busy: the page has this replica alone, and says so
            answers = []
        pages = dict(answer for answer in answers if not isinstance(answer, BaseException))
        return merged(dict([await self.metrics()]) | pages)


def app(args: Mapping[str, Any]) -> Any:
    """Return the application, for `serve run service.commands.serve_ray:app models=/models` and serveConfigV2.

    Args:
        args: fields of `ClusterSettings`; lists also as text with commas. REHEAD_MODELS and so on set the others.

    Raises:
        BadRequest: an argument is not accepted, or there is no key.
        ModelNotFound: no model is served.
    """
    values = {
        name: [part.strip() for part in value.split(",")] if name in LISTS and isinstance(value, str) else value
        for name, value in args.items()
    }
    settings = ClusterSettings.from_environment(**values)
    return application(settings, settings.threads)


def application(settings: ServeSettings, threads: int) -> Any:
    """Return the application with replicas of so many threads."""
    serve = _ray().serve
    settings = on_replicas(settings)
    scaling: dict[str, Any] = {"num_replicas": settings.replicas or 1}
    if settings.max_replicas is not None:
        target = max(1, settings.max_concurrent // TARGET_SHARE)
        limits = {"min_replicas": settings.min_replicas, "max_replicas": settings.max_replicas}
        scaling = {"autoscaling_config": limits | {"target_ongoing_requests": target}}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        # a replica refuses what exceeds max_concurrent by itself, at once and in the shape of the dialect
        max_ongoing_requests=2 * settings.max_concurrent,
        max_queued_requests=settings.max_concurrent,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options={
            "num_cpus": threads,
            "num_gpus": settings.num_gpus_per_replica,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        },
        graceful_shutdown_timeout_s=settings.request_seconds,
        graceful_shutdown_wait_loop_s=DRAIN_S,
        health_check_period_s=HEALTH_PERIOD_S,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        **scaling,
    )
    return deployment.bind(settings)


def on_replicas(settings: ServeSettings) -> ServeSettings:
    """Return the settings of each replica: absolute paths, its share of the rate limit, and its device.

    Raises:
        BadRequest: Ray has no such option, or a key's requests a minute cannot be divided among the replicas.
    """
    for name, reason in REFUSED.items():
        if getattr(settings, name) != type(settings).model_fields[name].default:
            raise BadRequest(f"--{name.replace('_', '-')} does not go with --engine ray: {reason}")
    replicas = settings.max_replicas or settings.replicas or 1
    per_minute = settings.requests_per_minute
    if 0 < per_minute < replicas:
        raise BadRequest(
            f"--requests-per-minute {per_minute} cannot be divided among {replicas} replicas: set {replicas} or more"
        )
    device = RuntimeSettings.from_environment(device=settings.device).device
    if not settings.num_gpus_per_replica:
        if device not in ("auto", "cpu"):
            raise BadRequest(f"--device {device} needs --num-gpus-per-replica: Ray gives a replica no GPU without it")
        device = "cpu"
    file = settings.api_key_file
    paths = {"models": settings.models.resolve(), "api_key_file": None if file is None else file.resolve()}
    return settings.model_copy(update=paths | {"requests_per_minute": per_minute // replicas, "device": device})


def serve_on_ray(settings: ServeSettings, *, say: Callable[[str], None]) -> None:
    """Run Ray Serve on this machine until a signal stops it; `say` receives the address once it answers.

    Raises:
        BadRequest: ray is not installed, the address cannot be bound, or a setting is invalid.
        ModelNotFound: there is nothing to serve.
        BackendFailed: no replica could start.
    """
    from service.app import create_app, listen

    replicas = settings.max_replicas or settings.replicas or 1
    threads = max(1, RuntimeSettings.from_environment().threads // replicas)
    create_app(on_replicas(settings), page=False)  # raises here what would fail on each replica
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
    say(f"starting Ray Serve with up to {replicas} replicas of {threads} threads: the API only, without the web UI")
    stopped = threading.Event()
    with _Cluster(settings, port, cpus=replicas * threads) as cluster:
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, frame: stopped.set())
        cluster.run(application(settings, threads))
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        shown = f"[{host}]" if ":" in host else host
        say(f"rehead answers at http://{shown}:{port}{settings.root_path}   (API at /models/NAME, reference at /docs)")
        stopped.wait()


class _Cluster:
    """A Ray cluster of this process, on this machine alone."""

    def __init__(self, settings: ServeSettings, port: int, *, cpus: int) -> None:
        os.environ |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": IMPORT_PATH,
            "RAY_COLOR_PREFIX": "0",
            "RAY_worker_niceness": "0",  # default 15: anything else on the machine would starve the replicas
            "RAY_DEDUP_LOGS": "0",  # equal lines of the request log are no duplicates
            # whoever reaches Ray's own ports can run code: loopback as far as Ray has it, and a token for the others
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "REHEAD_MAX_BODY_BYTES": str(settings.max_body_bytes),
        }
        self._ray, self._settings, self._port, self._cpus = _ray(), settings, port, cpus
        self._handle: Any = None

    def __enter__(self) -> Self:
        gpus = {"num_gpus": 0} if not self._settings.num_gpus_per_replica else {}
        self._ray.init(
            address="local",
            num_cpus=self._cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            logging_level="warning",
            log_to_driver=True,
            **gpus,
        )
        return self

    def run(self, application: Any) -> None:
        """Start the replicas, and return once they answer."""
        serve = self._ray.serve
        # a request that waits for a replica has a deadline too; the replica's own ends earlier
        timeout_s = self._settings.request_seconds + QUEUED_S
        options = {"host": self._settings.host, "port": self._port, "request_timeout_s": timeout_s}
        try:
            serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"log_level": "WARNING"})
            self._handle = serve.run(application, name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise BackendFailed("no replica could start", hint="their log lines above say why") from error

    def __exit__(self, *error: object) -> None:
        seconds = self._settings.request_seconds
        if self._handle is not None:
            drained = self._handle.broadcast("drain", seconds)
            drained.results(timeout_s=seconds + STOPPING_S, return_exceptions=True)
        self._ray.serve.shutdown()
        self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise BadRequest(f"--engine ray needs Ray Serve: {INSTALL}") from error
    return ray


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
