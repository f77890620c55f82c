"""Settings: one frozen record, made of defaults < ``trustgate.toml`` < ``TRUSTGATE_*`` variables < flags.

Owns the settings, the home folder and the paths in it. The only module that reads the environment, so it also reads
the secrets that settings and passports *name* (a variable or a file): those are never part of a setting themselves.
What is unknown or out of range is refused, with the place where it stands.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from trustgate.errors import HomeUnusable, SettingsError

if TYPE_CHECKING:
    from trustgate.types import Passport

_KIB, _MIB, _GIB = 1024, 1024 * 1024, 1024 * 1024 * 1024


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[serve]``: the public side."""

    host: Annotated[str, Meta(min_length=1, description="The address to listen on; 0.0.0.0 is every interface.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="The port to listen on; 0 lets the system choose.")] = 4010
    shutdown_grace_s: Annotated[
        float, Meta(ge=0, le=3600, description="How long a stop waits for running requests, seconds.")
    ] = 30.0
    max_body_bytes: Annotated[
        int, Meta(ge=_KIB, le=_GIB, description="The largest request body that is taken, bytes.")
    ] = 50 * _MIB  # what OpenAI takes in one request with images; its audio files, 25 MB, fit as well
    max_upload_bytes: Annotated[
        int, Meta(ge=_KIB, le=16 * _GIB, description="The largest form (audio, images, files) that is taken, bytes.")
    ] = 512 * _MIB
    tls_certificate: Annotated[
        str | None,
        Meta(
            description="A PEM file with the certificate chain to serve HTTPS with; needs tls_key.",
            examples=["certificate.pem"],
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        Meta(description="A PEM file with the certificate's key, without a password.", examples=["key.pem"]),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins whose web pages may call the gateway from a browser, or * for all."),
    ] = ()
    page: Annotated[
        bool, Meta(description="Whether / shows people a page: status, how to connect, the log, the receipt checker.")
    ] = True
    head_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may take to send the head of a request, seconds.")
    ] = 15.0
    stall_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may take nothing of its answer, seconds.")
    ] = 60.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may take to send a body, seconds.")
    ] = 30.0
    max_concurrent_requests: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Requests in flight; more are refused with 503.")
    ] = 1000
    request_timeout_s: Annotated[
        float, Meta(gt=0, le=86400, description="How long one request may take in all, streams included, seconds.")
    ] = 600.0
    trust_request_id: Annotated[
        bool, Meta(description="Whether a client's x-request-id is kept (if it is sane) or always replaced.")
    ] = True


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[upstream]``: the LLM server behind every passport that names no other, and how upstreams are called."""

    url: Annotated[str, Meta(description="Base URL of the default LLM server; LiteLLM's usual address.")] = (
        "http://127.0.0.1:4000/v1"
    )
    key_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the default LLM server's key.",
            examples=["LITELLM_MASTER_KEY"],
        ),
    ] = None
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long connecting to an upstream may take, seconds.")
    ] = 5.0
    read_timeout_s: Annotated[
        float, Meta(gt=0, le=86400, description="How long an upstream may stay silent, seconds.")
    ] = 300.0
    retries: Annotated[int, Meta(ge=0, le=10, description="Further tries per upstream before the first byte.")] = 2
    max_connections: Annotated[
        int, Meta(ge=1, le=100_000, description="Connections kept to upstreams at the same time.")
    ] = 512
    health_interval_s: Annotated[
        float, Meta(ge=0.1, le=86400, description="Time between two health probes of an upstream, seconds.")
    ] = 15.0
    forward_headers: Annotated[
        tuple[str, ...], Meta(description="Further request headers (x-…) that travel on to the upstream.")
    ] = ()
    forward_response_headers: Annotated[
        tuple[str, ...], Meta(description="Further response headers of the upstream that clients get.")
    ] = ()


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[journal]``: where receipts wait for the database."""

    sync_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="How often the journal is forced to the disk, milliseconds.")
    ] = 50
    segment_bytes: Annotated[int, Meta(ge=64 * _KIB, le=_GIB, description="Size of one journal file, bytes.")] = (
        16 * _MIB
    )


class ReceiptSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[receipts]``: the log that they form."""

    origin: Annotated[
        str,
        Meta(
            description="The log's name in its checkpoints, usually a host and path without a scheme, such as "
            "example.com/log. Fixed when the log is made; empty: a name is made up."
        ),
    ] = ""
    checkpoint_every_s: Annotated[
        float, Meta(ge=0.01, le=86400, description="How often the log signs its growing state, seconds.")
    ] = 1.0


class AnchorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[anchor]``: posting the log's state to Solana. Nothing is posted by itself unless one of the first two is set.

    A failing chain is a warning (``doctor``, ``/metrics``), never a failing request.
    """

    every: Annotated[
        str, Meta(description="Anchor so often while serving, such as 30m, 1h or 1d; empty: not by the clock.")
    ] = ""
    after_receipts: Annotated[
        int,
        Meta(ge=0, le=2**53 - 1, description="Anchor while serving after so many receipts; 0: not by their number."),
    ] = 0
    rpc: Annotated[
        str,
        Meta(
            description="devnet, testnet, mainnet-beta, local, or the URL of an RPC node; it may hold a key of yours."
        ),
    ] = "devnet"
    mainnet: Annotated[
        bool, Meta(description="Whether a URL under rpc may lead to mainnet, where fees are real money.")
    ] = False
    keypair: Annotated[
        str,
        Meta(description="The file with the key that pays, as the Solana CLI writes it; relative to the home folder."),
    ] = "anchor.json"
    commitment: Annotated[
        Literal["confirmed", "finalized"], Meta(description="How settled a transaction must be to count as anchored.")
    ] = "finalized"
    max_fee_lamports: Annotated[
        int, Meta(ge=5_000, le=1_000_000_000, description="The most that one anchor may cost, lamports.")
    ] = 100_000

    @property
    def every_s(self) -> float | None:
        return duration_s(self.every) if self.every else None


class PaymentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[payment]``: how x402 payments are judged, settled and looked up. Which tenant pays what is no setting."""

    keypair: Annotated[
        str,
        Meta(
            description="The file with the key that pays the network's fees where the gateway settles payments itself "
            "(facilitator embedded), as the Solana CLI writes it; relative to the home folder."
        ),
    ] = "facilitator.json"
    solana_rpc: Annotated[
        str, Meta(description="The RPC node that is asked about Solana mainnet: mainnet-beta, local or a URL.")
    ] = "mainnet-beta"
    solana_devnet_rpc: Annotated[
        str,
        Meta(description="The same for Solana devnet: devnet, local or a URL; local is a chain that poses as devnet."),
    ] = "devnet"
    base_rpc: Annotated[str, Meta(description="The RPC node that is asked about Base.")] = "https://mainnet.base.org"
    base_sepolia_rpc: Annotated[str, Meta(description="The RPC node that is asked about Base Sepolia.")] = (
        "https://sepolia.base.org"
    )
    public_url: Annotated[
        str,
        Meta(
            description="What clients call the gateway, such as https://llm.example.com; payments name it as what they "
            "are for. Empty: the address it listens on."
        ),
    ] = ""
    verify_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a facilitator may take to verify a payment, seconds.")
    ] = 15.0
    settle_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="How long settling may take before a payment counts as unknown, seconds.")
    ] = 60.0
    reconcile_every_s: Annotated[
        float, Meta(ge=0.1, le=86400, description="How often payments of unknown fate are looked up, seconds.")
    ] = 15.0


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[admin]``: remote management, off by default."""

    key_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the admin key. When set, whoever has that key can "
            "manage the server on its public port (TRUSTGATE_URL and TRUSTGATE_ADMIN_KEY on their side).",
            examples=["TRUSTGATE_ADMIN_KEY"],
        ),
    ] = None


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[metrics]``: who sees what at ``/metrics``."""

    key_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the key /metrics asks for (as a bearer token); "
            "without one it is open to whoever reaches the port.",
            examples=["TRUSTGATE_METRICS_KEY"],
        ),
    ] = None
    labels: Annotated[
        tuple[Literal["model", "tenant"], ...],
        Meta(description="What requests, tokens and cost are told apart by: model, tenant. Tenants are named then."),
    ] = ("model",)


class OtlpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[otlp]``: traces and metrics, sent to an OpenTelemetry collector; this needs the extra ``otlp``."""

    endpoint: Annotated[
        str,
        Meta(
            description="Base URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318; /v1/traces "
            "and /v1/metrics are below it. Empty: nothing is sent."
        ),
    ] = ""
    headers_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds headers for the collector, such as its key, as "
            "name=value,name=value.",
            examples=["OTEL_EXPORTER_OTLP_HEADERS"],
        ),
    ] = None
    signals: Annotated[tuple[Literal["traces", "metrics"], ...], Meta(description="What is sent: traces, metrics.")] = (
        "traces",
        "metrics",
    )
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Which part of the traces that begin here is sent, from 0 to 1. Clients that bring a trace "
            "(traceparent) decide for theirs.",
        ),
    ] = 1.0
    metrics_every_s: Annotated[float, Meta(ge=1, le=86400, description="How often metrics are sent, seconds.")] = 60.0
    service_name: Annotated[
        str, Meta(min_length=1, max_length=255, description="What this gateway is called there.")
    ] = "trustgate"
    attributes: Annotated[
        tuple[str, ...],
        Meta(description="More about this gateway, as name=value, such as deployment.environment.name=production."),
    ] = ()


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[log]``: what the server tells on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe messages that are shown.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="text for people, or json: one JSON object a line.")
    ] = "text"
    requests: Annotated[bool, Meta(description="Whether each request, and each refusal, is a line too.")] = False


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "serve": ServeSettings,
    "upstream": UpstreamSettings,
    "journal": JournalSettings,
    "receipts": ReceiptSettings,
    "anchor": AnchorSettings,
    "payment": PaymentSettings,
    "admin": AdminSettings,
    "metrics": MetricsSettings,
    "otlp": OtlpSettings,
    "log": LogSettings,
}

#: Variables of this program that are no settings: where home is, how to reach a server far away, how to debug.
_RESERVED = frozenset(
    {"TRUSTGATE_HOME", "TRUSTGATE_URL", "TRUSTGATE_ADMIN_KEY", "TRUSTGATE_DEBUG", "TRUSTGATE_UNPACK_DIR"}
)

#: The settings that name a variable with a key in it.
_KEY_VARIABLES = ("upstream.key_env", "admin.key_env", "metrics.key_env", "otlp.headers_env")

#: sun_path holds 104 bytes on macOS and the BSDs (108 on Linux), the closing zero included.
_SOCKET_PATH_BYTES = 103
_ADMIN_KEY_CHARACTERS = 16
#: A memo carries the name twice and has room for about a thousand bytes.
_ORIGIN_CHARACTERS = 128
_ANCHOR_LEAST_S = 10

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    home: Path
    serve: ServeSettings = ServeSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    journal: JournalSettings = JournalSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    anchor: AnchorSettings = AnchorSettings()
    payment: PaymentSettings = PaymentSettings()
    admin: AdminSettings = AdminSettings()
    metrics: MetricsSettings = MetricsSettings()
    otlp: OtlpSettings = OtlpSettings()
    log: LogSettings = LogSettings()

    # paths

    @property
    def config_file(self) -> Path:
        return self.home / "trustgate.toml"

    @property
    def database(self) -> Path:
        return self.home / "trustgate.duckdb"

    def tls_files(self) -> tuple[Path, Path] | None:
        """The files of the certificate and its key; None: no TLS. Raises ``SettingsError`` when one is missing."""
        certificate, key = self.serve.tls_certificate, self.serve.tls_key
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise SettingsError(
                "serve.tls_certificate and serve.tls_key belong together; one of them is missing.",
                hint="Give both files, or neither to serve without TLS.",
            )
        return self.home / Path(certificate).expanduser(), self.home / Path(key).expanduser()

    @property
    def handles_file(self) -> Path:
        """Which tenant each id belongs to that an upstream gave out (responses, files, batches)."""
        return self.home / "handles.jsonl"

    @property
    def journal_folder(self) -> Path:
        return self.home / "journal"

    @property
    def log_key(self) -> Path:
        """The key that signs the log's checkpoints."""
        return self.home / "log.key"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint that was signed."""
        return self.home / "checkpoint"

    @property
    def anchor_keypair(self) -> Path:
        """The key that pays for anchors."""
        return self.home / Path(self.anchor.keypair).expanduser()

    @property
    def payment_keypair(self) -> Path:
        """The key that pays the network's fees of payments that the gateway settles itself."""
        return self.home / Path(self.payment.keypair).expanduser()

    @property
    def localnet_folder(self) -> Path:
        return self.home / "localnet"

    @property
    def socket(self) -> Path:
        """The admin socket: in the home folder, or, where that path is too long for a socket, in a folder of its own.

        That folder is in the user's runtime or temporary folder and named after the home, so that the server and
        the command line find the same one.
        """
        beside = self.home / "admin.sock"
        if len(os.fsencode(beside)) <= _SOCKET_PATH_BYTES:
            return beside
        digest = hashlib.sha256(os.fsencode(self.home.resolve())).hexdigest()[:16]
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        folder = f"trustgate-{os.getuid()}-{digest}"
        path = runtime / folder / "admin.sock"
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            path = Path("/tmp") / folder / "admin.sock"  # noqa: S108 - its owner and mode are checked
        return path

    def make_home(self) -> None:
        """Create the home folder, and the socket's where that is another one, for this user alone.

        Raises ``HomeUnusable``. A home that exists already is left as it is.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(
                f"The home folder {self.home} cannot be made: {error.strerror}.",
                hint="Choose another folder with --home or TRUSTGATE_HOME, or mend who may write there.",
            ) from None
        if not os.access(self.home, os.W_OK | os.X_OK):
            raise HomeUnusable(
                f"The home folder {self.home} cannot be written by this user.",
                hint=f"Run as its owner, or choose another folder with --home. See who owns it: ls -ld {self.home}",
            )
        if self.socket.parent != self.home:
            self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.check_socket_folder()

    def check_socket_folder(self) -> None:
        """Raise ``HomeUnusable`` where the socket's folder is not this user's alone, as somebody else could make it."""
        folder = self.socket.parent
        if folder == self.home or not os.path.lexists(folder):
            return
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise HomeUnusable(
                f"The folder {folder} for the admin socket does not belong to this user alone.",
                hint=f"Remove it, or choose a --home with a shorter path than {self.home}",
            )

    # secrets

    def facilitator_override(self) -> str | None:
        """``X402_FACILITATOR_URL``: takes the place of every remote facilitator. Raises ``SettingsError``."""
        url = os.environ.get("X402_FACILITATOR_URL")
        if not url:
            return None
        fault = why_not_base_url(url)
        if fault is not None:
            raise SettingsError(f"X402_FACILITATOR_URL {fault}.", hint="It looks like https://x402.org/facilitator")
        return url.rstrip("/")

    def upstream_key(self) -> str | None:
        """The key of the default upstream, or None where it needs none. Raises ``SettingsError``."""
        return None if self.upstream.key_env is None else read_secret_variable(self.upstream.key_env)

    def admin_key(self) -> str | None:
        """The key that opens the admin routes on the public port; None: they stay shut. Raises ``SettingsError``."""
        if self.admin.key_env is None:
            return None
        key = read_secret_variable(self.admin.key_env)
        if len(key) < _ADMIN_KEY_CHARACTERS:
            raise SettingsError(
                f"The admin key in {self.admin.key_env} is too short to be safe.",
                hint=f"Use at least {_ADMIN_KEY_CHARACTERS} random characters, as `openssl rand -hex 32` makes them.",
            )
        return key

    def metrics_key(self) -> str | None:
        """The key that ``/metrics`` asks for; None: it asks for none. Raises ``SettingsError``."""
        return None if self.metrics.key_env is None else read_secret_variable(self.metrics.key_env)

    def otlp_headers(self) -> dict[str, str]:
        """What the collector is to be told with every request. Raises ``SettingsError``."""
        return {} if self.otlp.headers_env is None else _read_headers_variable(self.otlp.headers_env)

    def read_credential(self, passport: Passport) -> str | None:
        """The upstream's key for a passport; None where the upstream needs none. Raises ``SettingsError``.

        The default upstream's key goes to the default upstream alone, never to the address of another passport.
        """
        if passport.credential_env is not None:
            return read_secret_variable(passport.credential_env)
        if passport.credential_file is not None:
            return read_secret_file(self.home / Path(passport.credential_file).expanduser())
        if passport.base_url is None or passport.base_url.rstrip("/") == self.upstream.url.rstrip("/"):
            return self.upstream_key()
        return None


# secrets that a setting or a passport names


def read_secret_variable(name: str) -> str:
    """The secret in an environment variable. Raises ``SettingsError``, which never shows it."""
    return _checked_secret(os.environ.get(name), f"The environment variable {name}", f"Set it: export {name}=…")


def read_secret_file(path: Path) -> str:
    """The secret in a file, blanks around it taken off. Raises ``SettingsError``, which never shows it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"The credential file {path} cannot be read: {error.strerror}.", hint="Write the key into it, mode 0600."
        ) from None
    return _checked_secret(text, f"The credential file {path}", "Write the key into it, mode 0600.")


def _read_headers_variable(name: str) -> dict[str, str]:
    """The headers in a variable: ``name=value`` pairs, separated by commas, values percent-encoded where need be.

    The form that OpenTelemetry's own variables have. Raises ``SettingsError``, which never shows a value.
    """
    hint = f"Set it: export {name}='authorization=Bearer%20…'"
    text = os.environ.get(name, "").strip()
    if not text:
        raise SettingsError(f"The environment variable {name} is not set.", hint=hint, code="credential_missing")
    headers: dict[str, str] = {}
    for pair in text.split(","):
        header, _, value = pair.partition("=")
        header, value = header.strip().lower(), unquote(value.strip())
        is_value = value != "" and value.isascii() and value.isprintable()
        if not _HEADER_NAME.fullmatch(header) or header in _HEADERS_OF_A_MESSAGE or not is_value:
            raise SettingsError(f"{name} holds no headers as name=value,name=value.", hint=hint, code="credential_bad")
        headers[header] = value
    return headers


def _checked_secret(text: str | None, where: str, hint: str) -> str:
    if text is None:
        raise SettingsError(f"{where} is not set.", hint=hint, code="credential_missing")
    secret = text.strip()
    if not secret:
        raise SettingsError(f"{where} is empty.", hint=hint, code="credential_missing")
    # What a header cannot carry would fail later, or split the header.
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise SettingsError(f"{where} holds blanks or characters that no key has.", hint=hint, code="credential_bad")
    return secret


def secret_variable_set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


class RemoteServer(NamedTuple):
    """A server somewhere else that commands should go to."""

    url: str
    key: str


def remote_server() -> RemoteServer | None:
    """Where ``TRUSTGATE_URL`` sends commands, if it is set. Raises ``SettingsError``."""
    url = os.environ.get("TRUSTGATE_URL", "").strip()
    if not url:
        return None
    fault = why_not_base_url(url)
    if fault is not None or url.startswith(BUILTIN_SCHEME):
        raise SettingsError(
            f"TRUSTGATE_URL is no address of a server: it {fault or 'is not http:// or https://'}.",
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


# values

BUILTIN_SCHEME = "builtin:"
_BUILTINS = frozenset({"builtin:echo"})
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that must never be copied from one side to the other.
_HEADERS_OURS = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "set-cookie", "host"),
        *("connection", "keep-alive", "upgrade", "te", "trailer", "proxy-authenticate", "proxy-connection"),
        *("content-length", "content-encoding", "transfer-encoding"),
    )
)

#: What describes a message as it is sent: whoever sends it says that.
_HEADERS_OF_A_MESSAGE = frozenset(
    ("content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "host")
)


def why_not_base_url(url: str) -> str | None:
    """What is wrong with a base URL, as the end of a sentence ("it …"); None if it is one."""
    if url.startswith(BUILTIN_SCHEME):
        return None if url in _BUILTINS else f"names no built-in model server ({', '.join(sorted(_BUILTINS))})"
    try:
        parts = urlsplit(url)
        port_fault = parts.port == 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must begin with http:// or https:// and name a host"
    if port_fault or not url.isprintable() or " " in url:
        return "is not a URL"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password: name an environment variable for the key instead"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    return None


def _check_value(name: str, value: Any) -> str | None:
    """What is wrong with a value beyond its type, as the end of a sentence; None if nothing is."""
    if name == "upstream.url" or (name == "payment.public_url" and value):
        return why_not_base_url(value)
    if name == "otlp.endpoint" and value:
        return (
            why_not_base_url(value) if not value.startswith(BUILTIN_SCHEME) else "must begin with http:// or https://"
        )
    if name == "otlp.attributes":
        bad = [pair for pair in value if not all(part.strip() for part in pair.partition("="))]
        return f"holds {bad[0]!r}, which is not name=value" if bad else None
    if name == "anchor.every" and value:
        return None if (duration_s(value) or 0) >= _ANCHOR_LEAST_S else "must be a time from 10s on, such as 30m or 1h"
    if name == "receipts.origin" and value:
        return why_not_origin(value)
    if name.endswith((".key_env", ".headers_env")) and value is not None:
        return why_not_variable_name(value)
    if name == "serve.cors_origins":
        bad = [origin for origin in value if origin != "*" and not _ORIGIN.fullmatch(origin)]
        return f"holds {bad[0]!r}, which is no origin such as https://app.example.com" if bad else None
    if name in ("upstream.forward_headers", "upstream.forward_response_headers"):
        for header in value:
            if not _HEADER_NAME.fullmatch(header):
                return f"holds {header!r}, which is no header name"
            if header.lower() in _HEADERS_OURS:
                return f"must not hold {header}: that header is the gateway's own"
    return None


def why_not_origin(origin: str) -> str | None:
    """What is wrong with a log's name (C2SP signed-note: not empty, no blanks, no plus); None if nothing is."""
    if len(origin) > _ORIGIN_CHARACTERS or not (origin.isascii() and origin.isprintable()):
        return f"must be at most {_ORIGIN_CHARACTERS} printable ASCII characters"
    return "must not hold blanks or a plus sign" if " " in origin or "+" in origin else None


def duration_s(text: str) -> int | None:
    """``30s``, ``15m``, ``1h``, ``7d`` or ``2w`` in seconds; None for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return None if found is None else int(found[1]) * SECONDS[found[2]]


def why_not_variable_name(name: str) -> str | None:
    """What is wrong with the name of an environment variable. Does not repeat it: it may be a pasted key."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        return None
    return "must be the name of an environment variable, not the key itself"


# loading


def load_settings(home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of a home folder; None means ``TRUSTGATE_HOME`` or the platform's user data folder.

    ``overrides`` are flags: names like ``serve.port`` to values, None for flags that were not given.
    Raises ``SettingsError`` naming the file and line, the variable or the flag that is wrong.
    """
    return trace_settings(home, overrides).settings


class Source(NamedTuple):
    """Where a value comes from. ``place``: the file with the line, the variable; empty for a default or a flag."""

    kind: Literal["default", "file", "variable", "flag"]
    place: str = ""


class Traced(NamedTuple):
    """Settings, and where the home folder and each setting that is no default come from, by name."""

    settings: Settings
    home: Source
    sources: dict[str, Source]


def trace_settings(home: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Traced:
    """``load_settings``, and where each value comes from. Raises ``SettingsError``."""
    folder = find_home(home)
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, value, source in (*_from_file(folder / "trustgate.toml"), *_from_environment()):
        values[name], sources[name] = value, source
    for name, value in (overrides or {}).items():
        if value is not None:
            flag = _Place(f"The flag for {name}", "See trustgate serve --help.")
            values[name], sources[name] = _convert(name, value, flag, strict=True), Source("flag")
    _refuse_unknown_variables(str(values.get(name)) for name in _KEY_VARIABLES)
    sections: dict[str, Any] = {section: _build(section, values) for section in _SECTIONS}
    return Traced(Settings(home=folder, **sections), _source_of_home(home), sources)


def _build(section: str, values: Mapping[str, Any]) -> msgspec.Struct:
    kind = _SECTIONS[section]
    given = {field: values[f"{section}.{field}"] for field in kind.__struct_fields__ if f"{section}.{field}" in values}
    return kind(**given)


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ``SettingsError`` for a value that its setting cannot have."""
    for name, value in values.items():
        _convert(name, value, _Place(name, "Give another value."), strict=True)


class Described(NamedTuple):
    """One setting, for documentation."""

    name: str
    default: Any
    variable: str
    doc: str
    #: What a value may look like, for settings whose default is none.
    example: Any = None


def describe_sections() -> dict[str, str]:
    """What each section is about, in order: the sentence after the colon of its docstring."""
    docs = {section: (kind.__doc__ or "").partition(": ")[2] for section, kind in _SECTIONS.items()}
    return {section: " ".join(doc.split()) for section, doc in docs.items()}


def describe() -> list[Described]:
    """Every setting there is, in order."""
    return [
        Described(name, field.default, _variable_of(name), *_doc_of(_HINTS[name]))
        for section, kind in _SECTIONS.items()
        for field in msgspec.structs.fields(kind)
        for name in [f"{section}.{field.name}"]
    ]


class _Place(NamedTuple):
    """Where a value came from: how to begin the sentence about it, and what to do."""

    what: str
    hint: str


def _source_of_home(home: Path | None) -> Source:
    if home is not None:
        return Source("flag", "--home")
    return Source("variable", "TRUSTGATE_HOME") if os.environ.get("TRUSTGATE_HOME", "") else Source("default")


def find_home(home: Path | None) -> Path:
    """The home folder: ``home``, else ``TRUSTGATE_HOME``, else the platform's. Raises ``HomeUnusable``."""
    chosen = home or (Path(named) if (named := os.environ.get("TRUSTGATE_HOME", "")) else None)
    if chosen is None:
        chosen = _user_data_folder() / "trustgate"
    try:
        return chosen.expanduser().absolute()
    except (RuntimeError, OSError):  # there is no such user, or no current folder
        raise HomeUnusable(
            f"The home folder {chosen} cannot be found.", hint="Give a whole path with --home or TRUSTGATE_HOME."
        ) from None


def _user_data_folder() -> Path:
    if sys.platform == "darwin":
        return Path("~/Library/Application Support")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    named = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore what is not absolute.
    return Path(named) if named.startswith("/") else Path("~/.local/share")


def _from_file(path: Path) -> Iterator[tuple[str, Any, Source]]:
    import tomllib

    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):  # make_home says what is wrong with such a home
        return
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", hint="Mend its permissions.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: this is not UTF-8.", hint="Save the file as UTF-8.") from None
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad_toml(path, text, error) from None
    for section, members in document.items():
        place = f"{path}, line {_line_of(text, section, None)}"
        if section not in _SECTIONS:
            raise SettingsError(
                f"{place}: there is no section [{section}].", hint=_did_you_mean(section, _SECTIONS, "The sections are")
            )
        if not isinstance(members, dict):
            raise SettingsError(f"{place}: {section} is a section, not a value.", hint=f"Write [{section}] on a line.")
        for field, value in members.items():
            place = f"{path}, line {_line_of(text, section, field)}"
            name = f"{section}.{field}"
            if name not in _HINTS:
                fields = _SECTIONS[section].__struct_fields__
                raise SettingsError(
                    f"{place}: there is no setting {field} in [{section}].",
                    hint=_did_you_mean(field, fields, f"The settings of [{section}] are"),
                )
            converted = _convert(name, value, _Place(f"{place}: {name}", "Mend that line."), strict=True)
            yield name, converted, Source("file", place)


def _bad_toml(path: Path, text: str, error: Exception) -> SettingsError:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
    if found is None:
        return SettingsError(f"{path} is no TOML file: {error}.")
    line = found[2] or str(len(text.splitlines()))
    column = f", column {found[3]}" if found[3] else ""
    return SettingsError(f"{path}, line {line}{column}: {found[1]}.", hint="Mend that line; the file is TOML.")


def _line_of(text: str, section: str, field: str | None) -> int:
    """The line of a section's header, or of a member of it. Works on text that is valid TOML."""
    quoted = {name: rf"[\"']?{re.escape(name)}[\"']?" for name in (section, field or "")}
    header = re.compile(rf"\s*\[\s*{quoted[section]}\s*[\].]")
    dotted = re.compile(
        rf"\s*{quoted[section]}\s*(\.|=)"
        if field is None
        else rf"\s*{quoted[section]}\s*(\.\s*|=.*[{{,]\s*){quoted[field]}\s*[.=]"
    )
    member = None if field is None else re.compile(rf"\s*{quoted[field]}\s*[.=]")
    inside = at_top = False
    at_top = True
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*\[", line):
            inside, at_top = header.match(line) is not None, False
            if inside and field is None:
                return number
        elif (inside and member is not None and member.match(line)) or (at_top and dotted.match(line)):
            return number
    return 1


def _from_environment() -> Iterator[tuple[str, Any, Source]]:
    for name in _HINTS:
        variable = _variable_of(name)
        text = os.environ.get(variable, "")
        if text and variable not in _RESERVED:
            place = _Place(variable, f"Mend or unset {variable}.")
            yield name, _convert(name, _from_text(name, text), place, strict=False), Source("variable", variable)


def _from_text(name: str, text: str) -> Any:
    """A variable's text as what its type is converted from: lists are separated by commas."""
    if get_origin(_bare(_HINTS[name])) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(name: str, value: Any, place: _Place, *, strict: bool) -> Any:
    try:
        hint = _HINTS[name]
    except KeyError:
        raise SettingsError(
            f"There is no setting {name}.", hint=_did_you_mean(name, _HINTS, "The settings are")
        ) from None
    try:
        converted = msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{place.what}: {_plain(str(error))}.", hint=place.hint) from None
    fault = _check_value(name, converted)
    if fault is not None:
        raise SettingsError(f"{place.what} {fault}.", hint=place.hint)
    return converted


def _plain(message: str) -> str:
    """msgspec's sentence without its marks: "expected int <= 65535"."""
    message = re.sub(r" - at `\$[^`]*`", "", message).replace("`", "")
    return message[:1].lower() + message[1:]


def _refuse_unknown_variables(key_variables: Iterator[str]) -> None:
    """Raise ``SettingsError`` for a variable that looks like a setting and is none. A named key is not one."""
    known = {_variable_of(name) for name in _HINTS} | _RESERVED
    allowed = known | set(key_variables)
    sections = tuple(f"TRUSTGATE_{section.upper()}_" for section in _SECTIONS)
    for variable in os.environ:
        if not variable.startswith("TRUSTGATE_") or variable in allowed:
            continue
        close = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
        if close or variable.startswith(sections):
            raise SettingsError(
                f"The environment variable {variable} is no setting of TrustGate.",
                hint=_did_you_mean(variable, known, "Unset it. The variables are"),
            )


def _did_you_mean(name: str, known: Any, listing: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else f"{listing}: {', '.join(sorted(known))}."


def _variable_of(name: str) -> str:
    return f"TRUSTGATE_{name.replace('.', '_').upper()}"


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _doc_of(hint: Any) -> tuple[str, Any]:
    """A setting's description, and an example of its value if it has one."""
    for meta in get_args(hint)[1:]:
        if isinstance(meta, Meta) and meta.description is not None:
            return meta.description, (meta.examples or [None])[0]
    raise AssertionError(f"a setting without a description: {hint}")


#: Every setting by its name, with its annotated type.
_HINTS: dict[str, Any] = {
    f"{section}.{field}": hint
    for section, kind in _SECTIONS.items()
    for field, hint in get_type_hints(kind, include_extras=True).items()
}
