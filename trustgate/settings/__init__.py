"""Settings: one frozen record, made of defaults < ``trustgate.toml`` < ``TRUSTGATE_*`` variables < flags.

Owns the settings, the home folder and the paths in it. The only package that reads the environment, so it also reads
the secrets that settings and passports *name* (a variable or a file): those are never part of a setting themselves.
What is unknown or out of range is refused, with the place where it stands.
"""

from __future__ import annotations

from trustgate.settings.environment import (
    RemoteServer,
    debug_wanted,
    read_headers_file,
    read_headers_variable,
    read_key_file,
    read_key_variable,
    read_secret_file,
    read_secret_variable,
    remote_server,
    secret_variable_set,
    spare_this_machine_from_proxies,
)
from trustgate.settings.record import PostgresAddress, Settings, is_read_only
from trustgate.settings.sections import (
    AdminSettings,
    AnchorSettings,
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
from trustgate.settings.sources import (
    Described,
    Source,
    Traced,
    check_values,
    describe,
    describe_sections,
    find_home,
    load_settings,
    trace_settings,
)
from trustgate.settings.values import (
    BUILTIN_SCHEME,
    SECONDS,
    duration_s,
    shown_value,
    why_not_base_url,
    why_not_origin,
    why_not_variable_name,
)

__all__ = [
    "BUILTIN_SCHEME",
    "SECONDS",
    "AdminSettings",
    "AnchorSettings",
    "Described",
    "JournalSettings",
    "LogSettings",
    "MetricsSettings",
    "NotifySettings",
    "OtlpSettings",
    "PaymentSettings",
    "PostgresAddress",
    "ReceiptSettings",
    "RemoteServer",
    "ServeSettings",
    "Settings",
    "Source",
    "StoreSettings",
    "Traced",
    "UpstreamSettings",
    "check_values",
    "debug_wanted",
    "describe",
    "describe_sections",
    "duration_s",
    "find_home",
    "is_read_only",
    "load_settings",
    "read_headers_file",
    "read_headers_variable",
    "read_key_file",
    "read_key_variable",
    "read_secret_file",
    "read_secret_variable",
    "remote_server",
    "secret_variable_set",
    "shown_value",
    "spare_this_machine_from_proxies",
    "trace_settings",
    "why_not_base_url",
    "why_not_origin",
    "why_not_variable_name",
]
