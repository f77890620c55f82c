"""Every setting of Hypercorn, decided: what is set and to what, and what is never read on the way it is used here.

Hypercorn serves connections that are given to it (``hypercorn_adapter``): it listens on nothing, starts no processes,
makes no TLS and ends nothing by itself. A test holds the two lists against its configuration's fields, so that one that
is new or changes its name is noticed.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from hypercorn.config import Config

from trustgate.http.parser import MAX_HEAD_BYTES
from trustgate.http.timeouts import ConnectionTimeouts

#: No request is the last of its connection because of those before it: answers in flight would be cut.
_UNLIMITED = sys.maxsize

_SET: dict[str, Any] = {
    # requests are told in our own log
    "accesslog": None,
    "access_log_format": "",
    "errorlog": logging.getLogger("trustgate.hypercorn"),
    "logconfig": None,
    "logconfig_dict": None,
    # what is added to answers
    "alt_svc_headers": [],
    "include_date_header": True,
    "include_server_header": False,
    # how requests are read
    "h11_max_incomplete_size": MAX_HEAD_BYTES,
    "h11_pass_raw_headers": False,
    "h2_max_concurrent_streams": 100,
    "h2_max_header_list_size": MAX_HEAD_BYTES,
    "h2_max_inbound_frame_size": 16 * 1024,
    "root_path": "",
    "server_names": [],  # the Host field decides nothing
    # characters; what an event of a client's may have
    "websocket_max_message_size": 4 * 1024 * 1024,
    # so that one that has gone without a word is noticed
    "websocket_ping_interval": 20.0,
    # the end of a connection
    "keep_alive_max_requests": _UNLIMITED,
    "max_requests": None,
    "max_requests_jitter": 0,
}
#: Of listening sockets, TLS, processes, signals, WSGI and statsd; and ``read_timeout`` and ``max_app_queue_size``: the
#: adapter reads, and holds what the application has not read, by itself.
UNUSED = frozenset(
    (
        *("application_path", "backlog", "bind", "daemon", "debug", "dogstatsd_tags", "graceful_timeout", "group"),
        *(
            "insecure_bind",
            "log",
            "logger_class",
            "loglevel",
            "max_app_queue_size",
            "pid_path",
            "quic_bind",
            "read_timeout",
        ),
        *("shutdown_timeout", "startup_timeout", "statsd_host", "statsd_prefix", "umask", "use_reloader", "user"),
        *("worker_class", "workers", "wsgi_max_body_size"),
        *("alpn_protocols", "ca_certs", "cert_reqs", "certfile", "ciphers", "keyfile", "keyfile_password"),
        *("ssl_enabled", "ssl_handshake_timeout", "verify_flags", "verify_mode"),
    )
)


def settings_of(timeouts: ConnectionTimeouts) -> dict[str, Any]:
    """Returns all that is set, by name."""
    return {**_SET, "keep_alive_timeout": timeouts.keep_alive_s}


def make_config(timeouts: ConnectionTimeouts) -> Config:
    config = Config()
    for name, value in settings_of(timeouts).items():
        setattr(config, name, value)
    return config
