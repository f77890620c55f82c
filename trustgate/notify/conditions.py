"""What is looked at again and again, and worth telling people while it holds.

Owns which states of the parts count as conditions, and the sentence for each. What the states are is known by the parts
themselves; ``disk_space`` is what ``doctor`` goes by, too. No message holds a URL, a path outside the home folder, a
prompt or a key's secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from trustgate.access.directory import Directory
from trustgate.formats.written import counted
from trustgate.http.tls import Certificate
from trustgate.ids import MICROSECONDS_PER_SECOND, iso_us, now_us
from trustgate.models.upstream.targets import Targets, Upstream
from trustgate.net.addresses import host_of
from trustgate.notify.disk import disk_space
from trustgate.observe.notices import Notice
from trustgate.payment.balance import Balances
from trustgate.receipts.log import Log
from trustgate.settings import BUILTIN_SCHEME, Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import PaymentFilter, Store
from trustgate.types import ApiKey

_US_PER_DAY = 86_400 * MICROSECONDS_PER_SECOND
_KEY_STEPS_DAYS = (1, 3, 14)
_CERTIFICATE_STEPS_DAYS = (1, 3, 14)
#: Payments of unknown outcome are looked up every few seconds: most are decided by then.
_IN_DOUBT_AFTER_US = 60 * MICROSECONDS_PER_SECOND
_PAYMENTS_MOST = 1_000
_NANO_USD_PER_CENT = 10_000_000
_MODELS_SHOWN = 3
_NAME_MOST = 100


class GatewayConditions:
    """The conditions of a running gateway (``notifier.Watch``)."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        directory: Directory,
        targets: Targets,
        anchoring: Anchoring,
        log: Log,
        store: Store,
        balances: Balances,
        certificate: Certificate | None,
        started_us: int,
    ) -> None:
        """``settings``: as they hold now."""
        self._settings = settings
        self._directory = directory
        self._targets = targets
        self._anchoring = anchoring
        self._log = log
        self._store = store
        self._balances = balances
        self._certificate = certificate
        self._started_us = started_us

    async def firing(self, is_open: Callable[[str], bool]) -> Sequence[Notice]:
        """Returns a notice of each condition that holds; see ``notifier.Watch``. Raises what the store raises."""
        await self._balances.refresh()
        at_us = now_us()
        found = [*self._keys(at_us, is_open), *self._credit(at_us), *self._upstreams(at_us), *self._anchors(at_us)]
        found += [*self._certificates(at_us), *self._receipts(at_us)]
        found += await asyncio.to_thread(lambda: list(self._disk(at_us)))
        found += await self._payments(at_us)
        return found

    def _keys(self, at_us: int, is_open: Callable[[str], bool]) -> Iterator[Notice]:
        """Keys that end soon or have just ended, but for those that a rotation has replaced."""
        newest: dict[str, ApiKey] = {}
        for key in self._directory.keys():  # noqa: SIM118 - not a dict
            if key.revoked_us is None and key.created_us >= getattr(newest.get(key.account_id), "created_us", 0):
                newest[key.account_id] = key
        for key in newest.values():
            if key.expires_us is None or self._directory.tenant(key.tenant_id).status != "active":
                continue
            left_us = key.expires_us - at_us
            name = f"Key {_shown(key.name)} ({key.redacted}) of {_shown(self._tenant(key.tenant_id))}"
            data: dict[str, str | int | bool | None] = {"tenant": key.tenant_id, "expires_us": key.expires_us}
            renew = f" Renew it: trustgate key set {key.id} --expires 90d"
            condition = f"{key.id}:expired"
            step = next((days for days in _KEY_STEPS_DAYS if left_us <= days * _US_PER_DAY), None)
            if left_us <= 0 and (-left_us < _US_PER_DAY or is_open(f"key:{condition}")):
                text = f"{name} has expired on {iso_us(key.expires_us)}.{renew}"
                yield Notice(kind="key", subject=key.id, condition=condition, message=text, data=data, at_us=at_us)
            elif left_us > 0 and step is not None:
                text = f"{name} expires within {_days(step)}, on {iso_us(key.expires_us)}.{renew}"
                yield Notice(
                    kind="key",
                    subject=key.id,
                    condition=f"{key.id}:{step}d",
                    message=text,
                    data={**data, "within_days": step},
                    at_us=at_us,
                )

    def _credit(self, at_us: int) -> Iterator[Notice]:
        low_nano_usd = self._settings().notify.credit_low_cents * _NANO_USD_PER_CENT
        balances = self._balances.tenants()
        for terms in self._directory.all_terms():
            balance = balances.get(terms.tenant_id)
            if terms.mode != "prepaid" or balance is None or balance >= low_nano_usd:
                continue
            if self._directory.tenant(terms.tenant_id).status == "removed":
                continue
            name = _shown(self._tenant(terms.tenant_id))
            shown = f"{'-' if balance < 0 else ''}${abs(balance) / 1e9:.2f}"
            yield Notice(
                kind="credit",
                subject=terms.tenant_id,
                message=f"The prepaid credit of {name} is low: {shown} is left.",
                data={"tenant": terms.tenant_id, "balance_nano_usd": balance},
                at_us=at_us,
            )

    def _upstreams(self, at_us: int) -> Iterator[Notice]:
        """One condition for each host: that it does not answer, or that requests for models of it keep failing."""
        failing = self._targets.failing_models()
        by_host: dict[str, list[Upstream]] = {}
        for _, upstream in self._targets.upstreams():
            if not upstream.base_url.startswith(BUILTIN_SCHEME):
                by_host.setdefault(host_of(upstream.base_url), []).append(upstream)
        for host, upstreams in by_host.items():
            models = [_shown(model) for each in upstreams for model in failing.get(each.base_url, ())]
            if any(each.healthy is False for each in upstreams):
                message = f"The upstream {host} does not answer. See why: trustgate doctor"
            elif models:
                named = ", ".join(models[:_MODELS_SHOWN])
                more = f" and {len(models) - _MODELS_SHOWN} more" if len(models) > _MODELS_SHOWN else ""
                message = f"The upstream {host} keeps failing for {named}{more}. See why: trustgate doctor"
            else:
                continue
            yield Notice(
                kind="upstream", subject=host, message=message, data={"failing_models": len(models)}, at_us=at_us
            )

    def _anchors(self, at_us: int) -> Iterator[Notice]:
        anchoring = self._anchoring
        late_s = anchoring.late_s(self._log.last_seq, self._started_us)
        if late_s < self._settings().notify.anchor_late_after_s:
            return
        why = f": {anchoring.problem}" if anchoring.problem else "."
        yield Notice(
            kind="anchor",
            subject="log",
            message=f"The log's anchor is {int(late_s) // 60} minutes late{why} Try it now: trustgate anchor flush",
            data={"receipts": self._log.last_seq, "anchored": anchoring.anchored_size, "failures": anchoring.failures},
            at_us=at_us,
        )

    def _certificates(self, at_us: int) -> Iterator[Notice]:
        certificate = self._certificate
        if certificate is None:
            return
        if certificate.fault is not None:
            message = f"The changed certificate cannot be used ({certificate.fault}); the earlier one is still served."
            yield Notice(kind="certificate", subject="tls", condition="unusable", message=message, data={}, at_us=at_us)
        if certificate.expires_us is None:
            return
        left_us = certificate.expires_us - at_us
        step = next((days for days in (0, *_CERTIFICATE_STEPS_DAYS) if left_us <= days * _US_PER_DAY), None)
        if step is not None:
            when = iso_us(certificate.expires_us)
            ends = f"ends within {_days(step)}, on" if step else "ended on"
            yield Notice(
                kind="certificate",
                subject="tls",
                condition=f"expires:{step}d",
                message=f"The certificate {ends} {when}. Renew it; its files are read again by themselves.",
                data={"expires_us": certificate.expires_us},
                at_us=at_us,
            )

    def _receipts(self, at_us: int) -> Iterator[Notice]:
        if self._log.fault is not None:
            yield Notice(
                kind="log",
                subject="receipts",
                condition="fault",
                message="Receipts cannot be stored right now. See why: trustgate doctor",
                data={"pending": self._log.pending},
                at_us=at_us,
            )
        aside = sum(not each.accepted for each in self._store.set_aside)
        if aside:
            yield Notice(
                kind="log",
                subject="set_aside",
                message="The database cannot hold some receipts, which are set aside "
                f"({aside:,}). Store them: trustgate receipt mend",
                data={"receipts": aside},
                at_us=at_us,
            )

    def _disk(self, at_us: int) -> Iterator[Notice]:
        try:
            space = disk_space(self._settings().home)
        except OSError:
            return
        if space.state != "ok":
            yield Notice(
                kind="disk",
                subject="home",
                condition=space.state,
                message=f"{space.free_bytes // 2**20} MiB are free on the disk of the home folder. Free some space: "
                "without any, receipts cannot be stored and requests are refused.",
                data={"free_bytes": space.free_bytes},
                at_us=at_us,
            )

    async def _payments(self, at_us: int) -> list[Notice]:
        unknown = await self._store.payments(PaymentFilter(states=("unknown",), limit=_PAYMENTS_MOST))
        doubtful = [payment for payment in unknown if at_us - payment.updated_us >= _IN_DOUBT_AFTER_US]
        if not doubtful:
            return []
        message = (
            f"The outcome of {counted(len(doubtful), 'payment')} is unknown. Look it up: trustgate payment reconcile"
        )
        data: dict[str, str | int | bool | None] = {"payments": len(doubtful)}
        return [Notice(kind="payment", subject="unknown", message=message, data=data, at_us=at_us)]

    def _tenant(self, tenant_id: str) -> str:
        return self._directory.tenant(tenant_id).name


def _shown(name: str) -> str:
    """Returns a name as it was chosen, on one line and not long."""
    return "".join(c if c.isprintable() else "�" for c in name)[:_NAME_MOST]


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
