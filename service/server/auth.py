"""API keys, browser sessions, and the check that a server without keys is not reachable from a network."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Self

from starlette.datastructures import Headers

from service.errors import BadRequest, Unauthorized
from service.settings import ServeSettings

SESSION_COOKIE = "rehead_session"
MIN_KEY_LENGTH = 16
ENVIRONMENT = "REHEAD_API_KEYS"
MAKE_A_KEY = "create one with: openssl rand -hex 32"


class ApiKeys:
    """API keys by name; empty where the server needs none."""

    def __init__(self, named: dict[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in named.items()}
        self._secret = secrets.token_bytes(32)

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def read(cls, settings: ServeSettings) -> Self:
        """Return the keys of the settings' key file and of REHEAD_API_KEYS.

        Raises:
            BadRequest: the file cannot be read or holds no key, or a key or its name cannot be used.
        """
        named: dict[str, str] = {}
        for where, line in _key_lines(settings):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            # a key may end in "=" (base64): only an "=" with something behind it separates name and key
            parts = re.fullmatch(r"([^=]+?)\s*=\s*([^\s=].*)", line.strip())
            name, key = parts.groups() if parts else (f"key{len(named) + 1}", line.strip())
            if len(key) < MIN_KEY_LENGTH:
                raise BadRequest(f"{where}: a key needs {MIN_KEY_LENGTH} characters or more", hint=MAKE_A_KEY)
            if not re.fullmatch(r"[\w.-]{1,64}", name):
                raise BadRequest(f"{where}: the key name {name[:64]!r} must consist of letters, digits, . _ and -")
            if name in named:
                raise BadRequest(f"{where}: the key name {name!r} is taken")
            named[name] = key
        if settings.api_key_file is not None and not named:
            raise BadRequest(f"{settings.api_key_file} holds no key", hint=MAKE_A_KEY)
        return cls(named)

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None; compares in constant time."""
        digest, match = _digest(key), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                match = name
        return match

    def session(self, name: str) -> str:
        """Return the cookie value of a login with the key `name`, valid until the server stops."""
        return f"{name}:{self._signature(name)}"

    def name_of_session(self, cookie: str) -> str | None:
        """Return the name of the key that a session was opened with, or None for an invalid cookie."""
        name, _, signature = cookie.rpartition(":")
        valid = hmac.compare_digest(signature.encode(), self._signature(name).encode())
        return name if valid and name in self._digests else None

    def authenticate(self, headers: Headers) -> str:
        """Return the name of the key that a request carries, as a bearer token, `X-API-Key` or a session cookie.

        Raises:
            Unauthorized: no key, or an invalid one.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        name = self.name_of(key) if key else self._session_name(headers)
        if name is None:
            problem = "invalid API key" if key else "API key required"
            raise Unauthorized(problem, hint="send it as Authorization: Bearer KEY")
        return name

    def _session_name(self, headers: Headers) -> str | None:
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        return self.name_of_session(cookies[SESSION_COOKIE].value) if SESSION_COOKIE in cookies else None

    def _signature(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()


def check_exposure(settings: ServeSettings, keys: ApiKeys) -> None:
    """Refuse to serve a network without authentication.

    Raises:
        BadRequest: the host is not loopback, there is no key, and `--no-auth` is not set.
    """
    if not is_loopback(settings.host) and not keys and not settings.no_auth:
        raise BadRequest(
            f"--host {settings.host} is reachable from other machines: configure a key with --api-key-file FILE or "
            f"{ENVIRONMENT}, or allow access without one with --no-auth"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _key_lines(settings: ServeSettings) -> list[tuple[str, str]]:
    """Return each line that may hold a key, with where it stands."""
    lines: list[tuple[str, str]] = []
    file = settings.api_key_file
    if file is not None:
        try:
            content = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"{file}: the keys cannot be read ({error})") from error
        lines += [(f"{file}, line {number}", line) for number, line in enumerate(content.splitlines(), 1)]
    values = os.environ.get(ENVIRONMENT, "").split(",")
    return lines + [(f"{ENVIRONMENT}, key {number}", value) for number, value in enumerate(values, 1)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
