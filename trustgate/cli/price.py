"""``trustgate passport prices``: what models cost and did, and the price list that prices those without a price."""

from __future__ import annotations

import codecs
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from trustgate.admin.money import PriceChanged, PriceFound, PriceHistory, PriceListUpdate, PriceShow, PriceUpdate
from trustgate.cli import render
from trustgate.cli.context import JsonOption, confirm, execute
from trustgate.errors import InvalidRequest, OperatorError, SettingsError
from trustgate.models.prices import is_priced
from trustgate.types import ConditionalRates, Prices

prices_app = typer.Typer(help="Prices: what a model costs, and the list of prices.", no_args_is_help=True)

_SHOWN = 20
_BYTES_MOST = 32 * 1024 * 1024
_FETCH_TIMEOUT_S = 60.0
_FETCH_HINT = "Check the address, or download the file yourself: --from-litellm FILE"
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_OK = 200

#: What each rate is shown as, in order: its title and what it is for.
_RATE_TITLES = {
    "input_pico_usd": ("Input", "per million tokens"),
    "cached_input_pico_usd": ("Input, cached", "per million tokens"),
    "cache_write_pico_usd": ("Cache write", "per million tokens"),
    "cache_write_1h_pico_usd": ("Cache write, 1 h", "per million tokens"),
    "output_pico_usd": ("Output", "per million tokens"),
    "reasoning_pico_usd": ("Reasoning", "per million tokens"),
    "audio_input_pico_usd": ("Audio input", "per million tokens"),
    "audio_output_pico_usd": ("Audio output", "per million tokens"),
    "image_input_pico_usd": ("Image input", "per million tokens"),
    "image_output_pico_usd": ("Image output", "per million tokens"),
    "call_nano_usd": ("Call", "each"),
    "image_nano_usd": ("Image", "each"),
    "search_nano_usd": ("Search", "each"),
    "audio_second_nano_usd": ("Audio", "a second"),
    "character_pico_usd": ("Speech", "per million characters"),
}


@prices_app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL|HASH", help="A model's name, or the price_hash of a receipt.")],
    json: JsonOption = False,
) -> None:
    """Show what a model costs now, and where its price comes from; or which price a receipt's price_hash stands for."""
    found = execute(context, PriceShow(name=name))
    if json:
        render.document({"prices": found})
        return
    for each in found:
        render.card(_found_fields(each))


@prices_app.command("history")
def history(
    context: typer.Context,
    passport: Annotated[str, typer.Argument(metavar="PASSPORT", help="The passport's slug or id.")],
    json: JsonOption = False,
) -> None:
    """Show the prices that a passport has had of its own, the oldest first."""
    found = execute(context, PriceHistory(passport=passport))
    if json:
        render.document({"prices": found})
        return
    if not found:
        render.say(f"{passport} has never had a price of its own.")
    for each in found:
        render.card(_found_fields(each))


@prices_app.command("update", short_help="Renew the price list.")
def update(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A price list of TrustGate's.")] = None,
    litellm: Annotated[
        str | None,
        typer.Option(
            "--from-litellm",
            metavar="FILE|URL",
            help="LiteLLM's model_prices_and_context_window.json instead: a file, or its https:// address.",
        ),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="The date of LiteLLM's prices.  [default: today]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take it from now on, not only show what it changes.")] = False,
    json: JsonOption = False,
) -> None:
    """Renew the list that prices models whose passports have no price of their own.

    Shows what changes, and asks; takes it at once with --yes. Older lists are kept: receipts stay what they were, and
    their price_hash leads to the price that held.
    """
    if (file is None) == (litellm is None):
        raise typer.BadParameter("give a FILE, or --from-litellm FILE|URL.")
    notes: tuple[str, ...] = ()
    if litellm is not None:
        data, notes = _from_litellm(litellm, _date(as_of))
    else:
        assert file is not None
        data = _read(file)
    done = execute(context, PriceListUpdate(data=data, install=yes))
    if json:
        render.document({**render.plain(done), "notes": notes})
        return
    _print_update(done, notes)
    if not done.installed and sys.stdin.isatty():
        confirm("Take it from now on?", yes=False, command="")
        done = execute(context, PriceListUpdate(data=data, install=True))
    if done.installed:
        render.say("It holds from the next request on.")
    else:
        render.say("Nothing has been changed. To take it, give --yes.")


def _from_litellm(where: str, as_of: str) -> tuple[bytes, tuple[str, ...]]:
    """LiteLLM's table at a path or an address, as a list, with the notes on what was not taken."""
    from trustgate.models.pricelist import read_litellm

    if "://" not in where:
        return read_litellm(Path(where), f"LiteLLM ({Path(where).name})", as_of)
    data = fetch(where)
    with tempfile.TemporaryDirectory(prefix="trustgate-prices-") as folder:
        path = Path(folder) / "model_prices.json"
        path.write_bytes(data)
        try:
            return read_litellm(path, f"LiteLLM ({urlsplit(where).hostname})", as_of)
        except SettingsError as error:
            raise SettingsError(error.message.replace(str(path), where), hint=error.hint) from None


def fetch(url: str) -> bytes:
    """Returns what is at an address: over https, or from this machine; no redirect is followed.

    Raises ``OperatorError``, ``InvalidRequest`` for another address.
    """
    import asyncio

    from trustgate.net.peer import Peer, PeerFailed, PeerResponse

    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _THIS_MACHINE):
        raise InvalidRequest(
            "Prices are taken over https:// alone.", hint="Or download the file yourself: --from-litellm FILE"
        )

    async def asked() -> PeerResponse:
        peer = Peer(url, timeout_s=_FETCH_TIMEOUT_S, most_bytes=_BYTES_MOST)
        try:
            return await peer.exchange("the prices", None)
        finally:
            await peer.close()

    try:
        with render.waiting(f"Asking {parts.hostname}", quiet=False):
            answer = asyncio.run(asked())
    except PeerFailed as error:
        raise OperatorError(f"{parts.hostname} {error}.", hint=_FETCH_HINT) from None
    if answer.status != _OK:
        raise OperatorError(f"{parts.hostname} answered with status {answer.status}.", hint=_FETCH_HINT)
    return answer.body


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_BYTES_MOST).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from None


def _date(text: str | None) -> str:
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date, such as 2026-11-29.", param_hint="'--as-of'") from None


def _print_update(done: PriceUpdate, notes: tuple[str, ...]) -> None:
    render.say(f"{done.source}, {done.as_of}: {done.models:,} models. Now: {done.before}.")
    render.say(f"{done.added:,} models more, {done.removed:,} fewer, {done.changes:,} at another price.")
    for changed in done.changed[:_SHOWN]:
        render.say(f"  {changed.name}: {_difference(changed)}")
    if done.changes > _SHOWN:
        render.say(f"  and {done.changes - _SHOWN:,} more")
    for note in notes:
        render.say(render.Styled(f"Note: {note}", "yellow"))


def _difference(changed: PriceChanged) -> str:
    parts = []
    for name, (title, unit) in _RATE_TITLES.items():
        before, after = getattr(changed.before, name), getattr(changed.after, name)
        if before != after:
            parts.append(f"{title.lower()} {_maybe(before, name)} → {_maybe(after, name)} {unit}")
    if changed.before.conditional != changed.after.conditional:
        parts.append("conditions")
    return "; ".join(parts)


def _maybe(rate: int | None, name: str) -> str:
    return "none" if rate is None else _usd(rate, name)


def _found_fields(found: PriceFound) -> list[tuple[str, render.Cell]]:
    return [
        ("Model", found.model),
        *([("Passport", found.passport)] if found.passport and found.passport != found.model else []),
        *price_fields(found.prices),
        ("Source", source_text(found.source, found.from_us) or "not known"),
        ("Price hash", found.price_hash),
    ]


# what the other commands show too


def source_text(source: str, from_us: int) -> str:
    """Where a price comes from and since when it holds."""
    return source if not from_us or not source else f"{source}, {render.instant_utc(from_us)}"


def per_million(prices: Prices, pico_usd: int | None) -> str:
    """A price a million, ``free``, or ``not priced``; "" where the table has no such rate."""
    if prices.free:
        return "free"
    if pico_usd is None:
        return "" if is_priced(prices) else "not priced"
    return render.usd_per_million(pico_usd)


def price_fields(prices: Prices) -> list[tuple[str, render.Cell]]:
    """A price table, one line a rate, then one line a set of conditions."""
    if prices.free:
        return [("Price", "free")]
    if not is_priced(prices):
        return [("Price", "not priced")]
    fields: list[tuple[str, render.Cell]] = [
        (title, f"{_usd(rate, name)} {unit}")
        for name, (title, unit) in _RATE_TITLES.items()
        if (rate := getattr(prices, name)) is not None
    ]
    for rates in prices.conditional:
        told = [
            f"{title[0].lower()}{title[1:]} {_usd(rate, name)}"
            for name, (title, _) in _RATE_TITLES.items()
            if (rate := getattr(rates, name)) is not None
        ]
        fields.append((_conditions(rates), "; ".join(told)))
    return fields


def _usd(rate: int, name: str) -> str:
    return render.usd(rate) if name.endswith("_nano_usd") else render.usd_per_million(rate)


def _conditions(rates: ConditionalRates) -> str:
    told = []
    if rates.above_prompt_tokens is not None:
        told.append(f"above {render.number(rates.above_prompt_tokens)} prompt tokens")
    if rates.service_tier is not None:
        told.append(f"tier {rates.service_tier}")
    told += [text for text in (rates.image_size, rates.image_quality) if text is not None]
    if rates.from_us is not None:
        told.append(f"from {render.instant_utc(rates.from_us)}")
    if rates.until_us is not None:
        told.append(f"until {render.instant_utc(rates.until_us)}")
    text = ", ".join(told)
    return text[0].upper() + text[1:]
