"""The settings as one frozen record: the sections, the home folder and the paths in it, and the secrets they name."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trustgate.errors import HomeUnusable, SettingsError, disk_hint
from trustgate.settings.environment import (
    read_headers_variable,
    read_secret_file,
    read_secret_variable,
    read_signing_secrets_variable,
)
from trustgate.settings.sections import (
    AdminSettings,
    AnchorSettings,
    CreditSettings,
    JournalSettings,
    LogSettings,
    MetricsSettings,
    NotifySettings,
    OtlpSettings,
    PaymentSettings,
    ReceiptSettings,
    ServeSettings,
    StoreSettings,
    UpstreamSettings,
)
from trustgate.settings.values import why_not_base_url

if TYPE_CHECKING:
    from trustgate.types import Passport

#: sun_path holds 104 bytes on macOS and the BSDs (108 on Linux), the closing zero included.
_SOCKET_PATH_BYTES = 103
_ADMIN_KEY_CHARACTERS = 16


class PostgresAddress:
    """Where a Postgres database is, and its password, which is not shown. None: as libpq finds one."""

    __slots__ = ("password", "url")

    def __init__(self, url: str, password: str | None = None) -> None:
        self.url = url
        self.password = password

    def __str__(self) -> str:
        return self.url

    __repr__ = __str__


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    home: Path
    serve: ServeSettings = ServeSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    journal: JournalSettings = JournalSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    anchor: AnchorSettings = AnchorSettings()
    payment: PaymentSettings = PaymentSettings()
    credit: CreditSettings = CreditSettings()
    admin: AdminSettings = AdminSettings()
    metrics: MetricsSettings = MetricsSettings()
    otlp: OtlpSettings = OtlpSettings()
    notify: NotifySettings = NotifySettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    #: Which of several processes with this home it is, from 1 on; 0: the only one.
    worker: int = 0
    #: Whether other processes may serve the database beside this one: what is counted is decided there then, not in
    #: memory.
    several: bool = False

    # paths

    @property
    def config_file(self) -> Path:
        return self.home / "trustgate.toml"

    @property
    def database(self) -> Path:
        return self.home / "trustgate.duckdb"

    @property
    def may_have_database(self) -> bool:
        """Whether there is a database file, or one that was moved to Postgres, or Postgres, which is not asked."""
        # Opening a file that was moved raises an error that names the move.
        moved = self.database.with_name(f"{self.database.name}.moved")
        return bool(self.store.url) or self.database.exists() or moved.exists()

    @property
    def worker_folder(self) -> Path:
        """The folder of what each process has for itself: the home, or a worker's folder in it."""
        return self.home / "workers" / str(self.worker) if self.worker else self.home

    @property
    def mark_folder(self) -> Path:
        """The folder of the mark that is kept of a database on Postgres; the first worker's is the home's."""
        return self.home if self.worker <= 1 else self.worker_folder

    def tls_files(self) -> tuple[Path, Path] | None:
        """Returns the files of the certificate and its key; None: no TLS. Raises ``SettingsError`` when one is
        missing.
        """
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
        return self.worker_folder / "handles.jsonl"

    @property
    def journal_folder(self) -> Path:
        return self.worker_folder / "journal"

    @property
    def drafts_folder(self) -> Path:
        """The journal of one process among several, with receipts that have no places yet."""
        return self.worker_folder / "drafts"

    def all_drafts(self) -> tuple[Path, ...]:
        """Returns those of all processes that may have served with this home, whether they are there or not."""
        return (self.home / "drafts", *(worker / "drafts" for worker in sorted(self.home.glob("workers/*"))))

    @property
    def log_key(self) -> Path:
        """The key that signs the log's checkpoints."""
        return self.home / "log.key"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint that was signed."""
        return self.home / "checkpoint"

    @property
    def seen_checkpoint(self) -> Path:
        """The last checkpoint that this process has seen, where another may have signed it."""
        return self.worker_folder / "checkpoint"

    @property
    def anchor_keypair(self) -> Path:
        """The key that pays for anchors."""
        return self.home / Path(self.anchor.keypair).expanduser()

    @property
    def payment_keypair(self) -> Path:
        """The key that pays the network's fees of payments that the gateway settles itself."""
        return self.home / Path(self.payment.keypair).expanduser()

    @property
    def kept_answers_folder(self) -> Path:
        """Where answers that were paid for are kept for retries."""
        return self.home / "answers"

    @property
    def console_folder(self) -> Path:
        """The console's links, sessions and work, for all processes of this home while its server runs."""
        return self.home / "console"

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
                f"The home folder {self.home} cannot be created: {error.strerror}.",
                hint=disk_hint(
                    error, "Choose another folder with --home or TRUSTGATE_HOME, or correct its permissions."
                ),
            ) from None
        if not os.access(self.home, os.W_OK | os.X_OK):
            if is_read_only(self.home):
                raise HomeUnusable(
                    f"The home folder {self.home} is on a disk that is mounted read-only.",
                    hint="Mount it for writing (a container's volume without :ro), or choose another --home. "
                    "A disk with errors becomes read-only, too: see the system's log.",
                )
            raise HomeUnusable(
                f"The home folder {self.home} cannot be written by this user.",
                hint=f"Run as its owner, or choose another folder with --home. See who owns it: ls -ld {self.home}",
            )
        try:
            if self.worker:
                self.worker_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.socket.parent != self.home:
                self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(
                f"The folder {error.filename} cannot be created: {error.strerror}.",
                hint=f"Correct its permissions, or choose a --home with a shorter path than {self.home}, in which the "
                "admin socket fits.",
            ) from None
        if self.socket.parent != self.home:
            self.check_socket_folder()

    def check_socket_folder(self) -> None:
        """Raise ``HomeUnusable`` where the socket's folder is not this user's alone, as another user could make it."""
        folder = self.socket.parent
        if folder == self.home or not os.path.lexists(folder):
            return
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise HomeUnusable(
                f"The folder {folder} for the admin socket does not belong to this user alone.",
                hint=f"Remove it, or choose a --home with a shorter path than {self.home}",
            )

    def postgres(self, url: str | None = None) -> PostgresAddress | None:
        """Returns the database that takes the place of the file, with its password. None: the file.

        ``url``: of another database, in place of ``store.url``.

        Raises ``SettingsError``.
        """
        store = self.store
        url = url or store.url
        if not url:
            return None
        if store.password_env is not None:
            password: str | None = read_secret_variable(store.password_env)
        elif store.password_file is not None:
            password = read_secret_file(self.home / Path(store.password_file).expanduser())
        else:
            password = None
        return PostgresAddress(url, password)

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
        """Returns the key of the default upstream, or None where it needs none. Raises ``SettingsError``."""
        return None if self.upstream.key_env is None else read_secret_variable(self.upstream.key_env)

    def admin_key(self) -> str | None:
        """Returns the key that opens the admin routes on the public port; None: they stay shut. Raises
        ``SettingsError``.
        """
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
        """Returns the key that ``/metrics`` asks for; None: it asks for none. Raises ``SettingsError``."""
        return None if self.metrics.key_env is None else read_secret_variable(self.metrics.key_env)

    def credit_secrets(self) -> dict[str, tuple[str, ...]]:
        """Returns the secrets of the credit webhooks that are switched on, by form. Raises ``SettingsError``."""
        named = {"stripe": self.credit.stripe_secret_env, "standard": self.credit.webhook_secret_env}
        return {form: read_signing_secrets_variable(name) for form, name in named.items() if name is not None}

    def otlp_headers(self) -> dict[str, str]:
        """Returns the headers for every request to the collector. Raises ``SettingsError``."""
        return {} if self.otlp.headers_env is None else read_headers_variable(self.otlp.headers_env)

    def read_credential(self, passport: Passport) -> str | None:
        """Returns the upstream's key for a passport; None where the upstream needs none. Raises ``SettingsError``.

        The default upstream's key goes to the default upstream alone, never to the address of another passport.
        """
        if passport.credential_env is not None:
            return read_secret_variable(passport.credential_env)
        if passport.credential_file is not None:
            return read_secret_file(self.home / Path(passport.credential_file).expanduser())
        if passport.base_url is None or passport.base_url.rstrip("/") == self.upstream.url.rstrip("/"):
            return self.upstream_key()
        return None


def is_read_only(folder: Path) -> bool:
    """Returns whether a folder is on a disk that is mounted for reading alone."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
