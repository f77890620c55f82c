"""Settings that change while the gateway serves: which may change, what has changed, and applying it.

A new ``trustgate.toml`` is taken whole or not at all: what is wrong in it is the answer, and the old settings stay. Of
a good one, everything in ``RELOADED`` holds from the next request on; the rest is named, because it wants a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence

import msgspec

from trustgate.admin.commands import Reloaded
from trustgate.errors import Conflict
from trustgate.settings import Settings

_logger = logging.getLogger("trustgate.server")

#: The settings that a reload changes. A whole section is named with a star.
RELOADED = frozenset(
    (
        *("serve.max_body_bytes", "serve.max_upload_bytes", "serve.body_timeout_s", "serve.stall_timeout_s"),
        *("serve.max_concurrent_requests", "serve.request_timeout_s", "serve.trust_request_id"),
        *("serve.page", "serve.account", "serve.console"),
        *("upstream.*", "anchor.*", "metrics.*", "notify.*", "credit.*", "receipts.checkpoint_every_s", "log.*"),
    )
)


#: Settings of the sockets, which are bound once, and of the supervisor where there are several workers.
BOUND = frozenset(("serve.host", "serve.port", "serve.workers", "serve.worker_timeout_s"))


def is_reloaded(name: str) -> bool:
    return name in RELOADED or f"{name.partition('.')[0]}.*" in RELOADED


def differences(old: Settings, new: Settings) -> list[str]:
    """Returns the names of the settings that differ."""
    return [name for name, before, after in _pairs(old, new) if before != after]


def adopted(old: Settings, new: Settings) -> Settings:
    """Returns the settings that hold after a reload: the new ones, but for those that want a restart."""
    sections: dict[str, msgspec.Struct] = {}
    for name, _, after in _pairs(old, new):
        section, _, field = name.partition(".")
        if is_reloaded(name):
            kept = sections.get(section) or getattr(old, section)
            sections[section] = msgspec.structs.replace(kept, **{field: after})
    return msgspec.structs.replace(old, **sections)


def _pairs(old: Settings, new: Settings) -> Iterator[tuple[str, object, object]]:
    for section in Settings.__struct_fields__:
        before = getattr(old, section)
        if isinstance(before, msgspec.Struct):
            for field in before.__struct_fields__:
                yield f"{section}.{field}", getattr(before, field), getattr(getattr(new, section), field)


class SettingsReload:
    """The settings as they hold now; ``apply_settings`` of each part is called with those that hold next."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings] | None,
        apply_settings: Sequence[Callable[[Settings], None]],
    ) -> None:
        """``load`` reads the settings anew: the file, the variables and the flags of this process."""
        self.settings = settings
        self._load = load
        self._apply_settings = apply_settings
        self._one_at_a_time = asyncio.Lock()
        self._supervisor = os.getppid() if settings.worker else None

    async def reload(self) -> tuple[list[str], list[str]]:
        """Read the settings anew and apply those that a reload may change.

        Returns:
            The names of the changed settings that hold from now on, and of those that want a restart.

        Raises:
            SettingsError: a value is wrong; nothing has changed then.
            Conflict: this server was started without a way to read them again.
        """
        if self._load is None:
            raise Conflict("This server's settings cannot be read again.", hint="Restart it.")
        async with self._one_at_a_time:
            new = await asyncio.to_thread(self._load)
            for read_key in (new.upstream_key, new.metrics_key, new.credit_secrets):
                read_key()
            changed = differences(self.settings, new)
            self.settings = adopted(self.settings, new)
            for part in self._apply_settings:
                part(self.settings)
        holds = [name for name in changed if is_reloaded(name)]
        waits = [name for name in changed if not is_reloaded(name)]
        _logger.info("settings reloaded: changed %s", ", ".join(holds) or "nothing")
        if waits:
            _logger.warning("these settings want a restart: %s", ", ".join(waits))
        return holds, waits

    async def reload_all(self) -> Reloaded:
        """Reload as ``reload`` does; where this is one of several workers, the others reload, too.

        Their supervisor gets SIGHUP. It replaces the workers for settings that need a restart.
        """
        holds, waits = await self.reload()
        # A worker whose supervisor is gone is about to stop.
        if self._supervisor is None or self._supervisor != os.getppid():
            return Reloaded(changed=tuple(holds), restart=tuple(waits))
        os.kill(self._supervisor, signal.SIGHUP)
        return Reloaded(
            changed=tuple(holds),
            restart=tuple(name for name in waits if name in BOUND),
            replacing=tuple(name for name in waits if name not in BOUND),
        )
