"""curl over HTTP/2, by prior knowledge."""

from __future__ import annotations

from tests.clients.programs.curl_http1 import asker, leave, upload
from tests.clients.programs.wire import report_all

_OPTION = "--http2-prior-knowledge"

if __name__ == "__main__":
    report_all(asker(_OPTION, "2"), transcriptions=lambda: upload(_OPTION), hang_up=lambda: leave(_OPTION))
