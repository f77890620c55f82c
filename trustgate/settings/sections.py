"""The sections of the settings: one frozen record each, with the type, range and description of every setting."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trustgate.settings.values import duration_s

_KIB, _MIB, _GIB = 1024, 1024 * 1024, 1024 * 1024 * 1024


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[serve]``: the public side."""

    host: Annotated[str, Meta(min_length=1, description="The address to listen on; 0.0.0.0 is every interface.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="The port to listen on; 0 lets the system choose.")] = 4010
    workers: Annotated[
        int,
        Meta(ge=1, le=64, description="How many processes serve the port. More than 1 need a database on Postgres."),
    ] = 1
    wait: Annotated[
        bool,
        Meta(
            description="Whether the server waits until no other process serves the database, and then has it to "
            "itself. Without it several serve a Postgres at once."
        ),
    ] = False
    worker_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long one of several workers may give no sign of life (it hangs, or was stopped) before it "
            "is killed and replaced, seconds; 0: for ever.",
        ),
    ] = 30.0
    shutdown_grace_s: Annotated[
        float, Meta(ge=0, le=3600, description="How long a stop waits for running requests, seconds.")
    ] = 30.0
    stop_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="How long a stop goes on serving while /health and /ready answer 503, seconds: for a "
            "proxy that finds out by them where to send requests.",
        ),
    ] = 0.0
    max_body_bytes: Annotated[int, Meta(ge=_KIB, le=_GIB, description="The largest request body, bytes.")] = (
        50 * _MIB
    )  # what OpenAI takes in one request with images; its audio files, 25 MB, fit as well
    max_upload_bytes: Annotated[
        int, Meta(ge=_KIB, le=16 * _GIB, description="The largest form (audio, images, files), bytes.")
    ] = 512 * _MIB
    max_buffered_bytes: Annotated[
        int,
        Meta(
            ge=_KIB,
            le=1024 * _GIB,
            description="The memory for request bodies, bytes, at most four fifths of it for one tenant; where there "
            "is none left, requests are refused with 503. At least max_body_bytes.",
        ),
    ] = 256 * _MIB
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
        bool, Meta(description="Whether / serves a page with status, how to connect, the log and the receipt checker.")
    ] = True
    account: Annotated[
        bool,
        Meta(
            description="Whether /account serves the page on which tenants sign in with a key: usage, limits, keys, "
            "receipts, statements, balance, and a playground."
        ),
    ] = True
    console: Annotated[
        Literal["off", "loopback", "network"],
        Meta(
            description="From where the operator's console may be used, once `trustgate console` has made a link to "
            "it: loopback is this machine alone, network is over TLS from elsewhere too."
        ),
    ] = "loopback"
    head_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may take to send the head of a request, seconds.")
    ] = 15.0
    stall_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may read nothing of its response, seconds.")
    ] = 60.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long a client may take to send a body, seconds.")
    ] = 30.0
    max_concurrent_requests: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Requests in flight, at most four fifths of them one tenant's (1,000 of 1,250); more are "
            "refused with 503.",
        ),
    ] = 1250
    request_timeout_s: Annotated[
        float, Meta(gt=0, le=86400, description="How long one request may take in all, streams included, seconds.")
    ] = 600.0
    trust_request_id: Annotated[
        bool, Meta(description="Whether a client's x-request-id is kept (if well-formed) or always replaced.")
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
    retries: Annotated[int, Meta(ge=0, le=10, description="Retries per upstream before the first byte.")] = 2
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Connections to upstreams at the same time. Each request in flight needs one, and waits where "
            "all are in use.",
        ),
    ] = 1500
    hold_s: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="How long a stream is held back at most until its first content, seconds: what fails in that "
            "time is retried, falls back or is an error with a status, and costs nothing.",
        ),
    ] = 10.0
    max_event_bytes: Annotated[
        int, Meta(ge=64 * _KIB, le=_GIB, description="The largest event of a stream from an upstream, bytes.")
    ] = 64 * _MIB
    health_interval_s: Annotated[
        float, Meta(ge=0.1, le=86400, description="Time between two health probes of an upstream, seconds.")
    ] = 15.0
    background_interval_s: Annotated[
        float,
        Meta(ge=0.1, le=86400, description="Time between two looks at batches that are not settled yet, seconds."),
    ] = 60.0
    forward_headers: Annotated[
        tuple[str, ...], Meta(description="More request headers (x-…) to forward to the upstream.")
    ] = ()
    forward_response_headers: Annotated[
        tuple[str, ...], Meta(description="More response headers of the upstream to forward to clients.")
    ] = ()


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[journal]``: where receipts wait for the database."""

    sync_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="How often the journal is synced to the disk, milliseconds.")
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
            "example.com/log. Fixed when the log is made; empty: a random name."
        ),
    ] = ""
    checkpoint_every_s: Annotated[
        float, Meta(ge=0.01, le=86400, description="How often the log signs a checkpoint, seconds.")
    ] = 1.0


class AnchorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[anchor]``: posting the log's state to Solana. Nothing is posted by itself unless one of the first two is set.

    A failing chain is a warning (``doctor``, ``/metrics``), never a failing request.
    """

    every: Annotated[
        str, Meta(description="Time between anchors while serving, such as 30m, 1h or 1d; empty: none by time.")
    ] = ""
    after_receipts: Annotated[
        int,
        Meta(
            ge=0, le=2**53 - 1, description="Number of receipts after which to anchor while serving; 0: none by number."
        ),
    ] = 0
    rpc: Annotated[
        str,
        Meta(description="devnet, testnet, mainnet-beta, local, or the URL of an RPC node (it may hold an API key)."),
    ] = "devnet"
    mainnet: Annotated[bool, Meta(description="Whether a URL in rpc may be of mainnet, where fees are real money.")] = (
        False
    )
    keypair: Annotated[
        str,
        Meta(description="The file with the key that pays, as the Solana CLI writes it; relative to the home folder."),
    ] = "anchor.json"
    commitment: Annotated[
        Literal["confirmed", "finalized"],
        Meta(description="The commitment that a transaction must reach to count as anchored."),
    ] = "finalized"
    max_fee_lamports: Annotated[
        int, Meta(ge=5_000, le=1_000_000_000, description="The highest fee to pay for one anchor, lamports.")
    ] = 100_000

    @property
    def every_s(self) -> float | None:
        return duration_s(self.every) if self.every else None


class PaymentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[payment]``: how x402 payments are judged, settled and looked up. Which tenant pays what is no setting."""

    keypair: Annotated[
        str,
        Meta(
            description="The file with the key that pays network fees where the gateway settles payments itself "
            "(facilitator embedded), as the Solana CLI writes it; relative to the home folder."
        ),
    ] = "facilitator.json"
    solana_rpc: Annotated[str, Meta(description="The RPC node for Solana mainnet: mainnet-beta, local or a URL.")] = (
        "mainnet-beta"
    )
    solana_devnet_rpc: Annotated[
        str,
        Meta(description="The RPC node for Solana devnet: devnet, local or a URL; local runs a chain in its place."),
    ] = "devnet"
    base_rpc: Annotated[str, Meta(description="The RPC node for Base.")] = "https://mainnet.base.org"
    base_sepolia_rpc: Annotated[str, Meta(description="The RPC node for Base Sepolia.")] = "https://sepolia.base.org"
    nodes: Annotated[
        tuple[str, ...],
        Meta(
            description="RPC nodes of further networks, NETWORK=URL: what becomes of a payment is looked up there. A "
            "network without one cannot be offered.",
            examples=[["polygon=https://polygon-rpc.example.com"]],
        ),
    ] = ()
    public_url: Annotated[
        str,
        Meta(
            description="The gateway's public address, such as https://llm.example.com, which offers and payments "
            "name. Empty: the address it listens on."
        ),
    ] = ""
    contact: Annotated[
        str,
        Meta(
            max_length=200,
            description="How tenants that draw on prepaid credit get more, for people: a page or a mail address, which "
            "refusals for want of credit name.",
        ),
    ] = ""
    verify_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a facilitator may take to verify a payment, seconds.")
    ] = 15.0
    settle_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="How long settling may take before a payment counts as unknown, seconds.")
    ] = 60.0
    settle_within_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="How long an answer is waited for before a Solana payment is settled without it, seconds: a "
            "payment is void once its blockhash is 60 to 90 s old. Where no answer follows, it is credited.",
        ),
    ] = 20.0
    unsettled_per_payer: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="How many payments of one wallet may wait for their answers before they are settled; each "
            "further one is settled before the LLM server is asked.",
        ),
    ] = 2
    kept_answers_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="How much of paid answers is kept on disk for retries, bytes, all together, for an hour at "
            "most; encrypted with the API key that asked. 0: none.",
        ),
    ] = 64 * 1024 * 1024
    facilitator_auth: Annotated[
        tuple[str, ...],
        Meta(
            description="What a hosted facilitator is shown: URL=headers:VARIABLE, URL=headers-file:PATH, "
            "URL=cdp:ID_VARIABLE:SECRET_VARIABLE or URL=cdp-file:PATH (Coinbase). Coinbase's is also shown the key in "
            "CDP_API_KEY_ID and CDP_API_KEY_SECRET. Secrets themselves are no settings.",
            examples=[["https://facilitator.example.com=headers:FACILITATOR_HEADERS"]],
        ),
    ] = ()
    facilitator_every_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86400,
            description="How often facilitators are asked again who pays the fees and where they settle, seconds. "
            "Offers follow.",
        ),
    ] = 600.0
    reconcile_every_s: Annotated[
        float, Meta(ge=0.1, le=86400, description="How often payments of unknown outcome are looked up, seconds.")
    ] = 15.0


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[admin]``: remote management, off by default."""

    key_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the admin key. When set, holders of that key can "
            "manage the server on its public port (with TRUSTGATE_URL and TRUSTGATE_ADMIN_KEY). "
            "A credit or refund that a program sends to /admin/v1/execute counts once by its Idempotency-Key.",
            examples=["TRUSTGATE_ADMIN_KEY"],
        ),
    ] = None


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[metrics]``: who sees what at ``/metrics``."""

    key_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the key /metrics asks for (as a bearer token); "
            "without one it is open to every client that reaches the port.",
            examples=["TRUSTGATE_METRICS_KEY"],
        ),
    ] = None
    labels: Annotated[
        tuple[Literal["model", "tenant"], ...],
        Meta(description="What requests, tokens and cost are told apart by: model, tenant. Tenants are named then."),
    ] = ("model",)


class CreditSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[credit]``: webhooks by which a shop or a bank's script adds credit to tenants' balances."""

    stripe_secret_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the signing secret of a Stripe webhook (two "
            "while one is replaced, with a comma between); paid checkouts are then booked at "
            "POST /v1/credit-webhooks/stripe.",
            examples=["STRIPE_WEBHOOK_SECRET"],
        ),
    ] = None
    webhook_secret_env: Annotated[
        str | None,
        Meta(
            description="The same for a sender of your own, which signs as Standard Webhooks has it: "
            "POST /v1/credit-webhooks/standard.",
            examples=["CREDIT_WEBHOOK_SECRET"],
        ),
    ] = None


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
    signals: Annotated[
        tuple[Literal["traces", "metrics"], ...], Meta(description="The signals to send: traces, metrics.")
    ] = (
        "traces",
        "metrics",
    )
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="The share of traces that begin here to send, from 0 to 1. Clients that bring a trace "
            "(traceparent) decide for theirs.",
        ),
    ] = 1.0
    metrics_every_s: Annotated[float, Meta(ge=1, le=86400, description="How often metrics are sent, seconds.")] = 60.0
    service_name: Annotated[
        str, Meta(min_length=1, max_length=255, description="The gateway's service.name there.")
    ] = "trustgate"
    attributes: Annotated[
        tuple[str, ...],
        Meta(description="More resource attributes, as name=value, such as deployment.environment.name=production."),
    ] = ()


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[notify]``: when notices are sent. Their subscribers are no settings (``trustgate notify add``)."""

    check_every_s: Annotated[
        float, Meta(ge=0.05, le=86400, description="Time between two looks at what is worth telling, seconds.")
    ] = 15.0
    resolve_after_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="How long something must be over before that is told, seconds."),
    ] = 60.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a webhook or program may take for one notice, seconds.")
    ] = 10.0
    credit_low_cents: Annotated[
        int,
        Meta(ge=0, le=2**31, description="The balance of a prepaid tenant below which notice is given, US cents."),
    ] = 100
    anchor_late_after_s: Annotated[
        float,
        Meta(gt=0, le=31_536_000, description="How late a scheduled anchor may be before notice is given, seconds."),
    ] = 900.0


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[store]``: where what is kept lies, unless it is the file trustgate.duckdb in the home folder."""

    url: Annotated[
        str | None,
        Meta(
            description="A Postgres database in place of the file: postgresql://user@host:port/database, without a "
            "password. ?search_path=NAME chooses a schema, ?sslmode=verify-full checks the server's certificate.",
            examples=["postgresql://trustgate@db.internal/trustgate?sslmode=verify-full"],
        ),
    ] = None
    password_env: Annotated[
        str | None,
        Meta(
            description="Name of the environment variable that holds the database's password. Without it and "
            "password_file, PGPASSWORD and ~/.pgpass are used.",
            examples=["TRUSTGATE_DATABASE_PASSWORD"],
        ),
    ] = None
    password_file: Annotated[
        str | None,
        Meta(description="A file that holds the database's password.", examples=["/run/secrets/database-password"]),
    ] = None
    lease_s: Annotated[
        float,
        Meta(
            ge=1,
            le=300,
            description="How long a process that does not reach its Postgres database may go on serving, seconds; "
            "another may take its place after it. The same for all processes of a database.",
        ),
    ] = 10.0
    finish_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="For how long running answers go on at such a process once it serves no new requests, seconds; "
            "then they are cut, since their keys may have been revoked. 0: they are cut at once.",
        ),
    ] = 60.0


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[log]``: what the server writes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe messages that are shown.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="text for people, or json: one JSON object a line.")
    ] = "text"
    requests: Annotated[bool, Meta(description="Whether each request and each refusal is logged as a line.")] = False


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "serve": ServeSettings,
    "upstream": UpstreamSettings,
    "journal": JournalSettings,
    "receipts": ReceiptSettings,
    "anchor": AnchorSettings,
    "payment": PaymentSettings,
    "credit": CreditSettings,
    "admin": AdminSettings,
    "metrics": MetricsSettings,
    "otlp": OtlpSettings,
    "notify": NotifySettings,
    "log": LogSettings,
    "store": StoreSettings,
}
