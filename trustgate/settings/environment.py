"""What the environment holds besides settings: secrets that a setting or passport names, and addresses of servers.

A secret is read where it is needed and never kept in a setting; no message shows one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from trustgate.errors import SettingsError
from trustgate.settings.values import BUILTIN_SCHEME, HEADER_NAME, HEADERS_OF_A_MESSAGE, why_not_base_url

_SIGNING_SECRET_CHARACTERS = 16


def read_secret_variable(name: str) -> str:
    """Returns the secret in an environment variable. Raises ``SettingsError``, which never shows it."""
    return _checked_secret(os.environ.get(name), f"The environment variable {name}", f"Set it: export {name}=…")


def read_signing_secrets_variable(name: str) -> tuple[str, ...]:
    """Returns the secrets of a webhook, with commas between them. Raises ``SettingsError``, which never shows one.

    One that can be guessed is refused: who has it signs what they like. Of ``whsec_`` alone that is everybody.
    """
    secrets = tuple(read_secret_variable(name).split(","))
    if any(len(secret.removeprefix("whsec_")) < _SIGNING_SECRET_CHARACTERS for secret in secrets):
        raise SettingsError(
            f"The environment variable {name} holds a signing secret that is empty or too short to be safe.",
            hint=f"Copy the whole secret, at least {_SIGNING_SECRET_CHARACTERS} characters after whsec_; of two, with "
            "a comma between.",
            code="credential_bad",
        )
    return secrets


def read_secret_file(path: Path) -> str:
    """Returns the secret in a file, blanks around it taken off. Raises ``SettingsError``, which never shows it."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"The credential file {path} cannot be read: {error.strerror}.", hint="Write the key into it, mode 0600."
        ) from None
    return _checked_secret(text, f"The credential file {path}", "Write the key into it, mode 0600.")


def read_headers_variable(name: str) -> dict[str, str]:
    """Returns the headers in a variable: ``name=value`` pairs, separated by commas, values percent-encoded where need
    be.

    The form that OpenTelemetry's own variables have. Raises ``SettingsError``, which never shows a value.
    """
    hint = f"Set it: export {name}='authorization=Bearer%20…'"
    text = os.environ.get(name, "").strip()
    if not text:
        raise SettingsError(f"The environment variable {name} is not set.", hint=hint, code="credential_missing")
    return _headers_in(text, name, hint)


def _headers_in(text: str, where: str, hint: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for pair in text.split(","):
        header, _, value = pair.partition("=")
        header, value = header.strip().lower(), unquote(value.strip())
        is_value = value != "" and value.isascii() and value.isprintable()
        if not HEADER_NAME.fullmatch(header) or header in HEADERS_OF_A_MESSAGE or not is_value:
            raise SettingsError(
                f"{where} does not hold headers of the form name=value,name=value.", hint=hint, code="credential_bad"
            )
        headers[header] = value
    return headers


def read_headers_file(path: Path) -> dict[str, str]:
    """Returns the same from a file. Raises ``SettingsError``, which never shows a value."""
    return _headers_in(read_key_file(path), str(path), "Write name=value,name=value into it, mode 0600.")


def read_key_variable(name: str) -> str:
    """Returns a key that may be in PEM, over several lines. Raises ``SettingsError``, which never shows it."""
    return _checked_key(os.environ.get(name), f"The environment variable {name}", f"Set it: export {name}=…")


def read_key_file(path: Path) -> str:
    """Returns what is in a file that holds a key. Raises ``SettingsError``, which never shows it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"The credential file {path} cannot be read: {error.strerror}.",
            hint="Write the key into it, mode 0600.",
            code="credential_missing",
        ) from None
    return _checked_key(text, f"The credential file {path}", "Write the key into it, mode 0600.")


def _checked_key(text: str | None, where: str, hint: str) -> str:
    if text is None or not text.strip():
        raise SettingsError(
            f"{where} is {'not set' if text is None else 'empty'}.", hint=hint, code="credential_missing"
        )
    if not text.isascii():
        raise SettingsError(f"{where} holds characters that a key cannot have.", hint=hint, code="credential_bad")
    return text.strip()


def _checked_secret(text: str | None, where: str, hint: str) -> str:
    if text is None:
        raise SettingsError(f"{where} is not set.", hint=hint, code="credential_missing")
    secret = text.strip()
    if not secret:
        raise SettingsError(f"{where} is empty.", hint=hint, code="credential_missing")
    # What a header cannot carry would fail later, or split the header.
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise SettingsError(
            f"{where} holds blanks or other characters that a key cannot have.", hint=hint, code="credential_bad"
        )
    return secret


def secret_variable_set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


class RemoteServer(NamedTuple):
    """A server somewhere else that commands should go to."""

    url: str
    key: str


def remote_server() -> RemoteServer | None:
    """Returns where ``TRUSTGATE_URL`` sends commands, if it is set. Raises ``SettingsError``."""
    url = os.environ.get("TRUSTGATE_URL", "").strip()
    if not url:
        return None
    fault = why_not_base_url(url)
    if fault is not None or url.startswith(BUILTIN_SCHEME):
        raise SettingsError(
            f"TRUSTGATE_URL is not a server address: it {fault or 'is not http:// or https://'}.",
            hint="For example: TRUSTGATE_URL=https://gateway.example.com",
        )
    return RemoteServer(url.rstrip("/"), read_secret_variable("TRUSTGATE_ADMIN_KEY"))


def spare_this_machine_from_proxies() -> None:
    """From now on every HTTP client in this process reaches this machine itself, whatever proxy the environment names.

    For clients of others' making that cannot be told so.
    """
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))


def debug_wanted() -> bool:
    return os.environ.get("TRUSTGATE_DEBUG", "") not in ("", "0")


def plain_environment() -> dict[str, str]:
    """Returns the variables that a program of the operator's may have: none of them holds a secret."""
    return {name: value for name in _PLAIN_VARIABLES if (value := os.environ.get(name)) is not None}


class ServiceManagerAddress(NamedTuple):
    """Where a service manager takes reports of a service's state (sd_notify(3), sd_watchdog_enabled(3))."""

    socket: str
    #: In how many seconds it wants a sign of life, and of which process; 0: of none, of any.
    watchdog_s: float
    watchdog_pid: int


def service_manager() -> ServiceManagerAddress | None:
    """Returns what systemd has set for a unit of ``Type=notify``; None: nothing, or nothing that can be used."""
    socket = os.environ.get("NOTIFY_SOCKET", "")
    if socket[:1] not in ("/", "@") or len(socket) == 1:
        return None
    usec, pid = (os.environ.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
    return ServiceManagerAddress(
        socket, int(usec) / 1_000_000 if usec.isdecimal() else 0.0, int(pid) if pid.isdecimal() else 0
    )


def named_folder(variable: str, default: str) -> Path:
    """Returns the folder that another program's variable names, else ``default``, ``~`` being the user's home."""
    return Path(os.environ.get(variable, "").strip() or default).expanduser()


_PLAIN_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")


def heaps_limited() -> bool:
    """Returns whether a variable of glibc's says how many heaps the process's threads have (mallopt(3))."""
    return "MALLOC_ARENA_MAX" in os.environ
