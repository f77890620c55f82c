"""The price list: what well-known models cost, for passports that say no price of their own.

Owns the list's format, how a model's name is looked up in it, and the list that comes with the program
(``data/pricelist.json``, made from LiteLLM's table by ``python -m trustgate.models.pricelist FILE VERSION DATE``; its
licence is beside it). A name is found as it is written, never by likeness: a model that the list lacks is not priced.

    the upstream's host names the provider    that provider's price of the name, or none
    it does not (a proxy, a local server)     ``provider/name`` as it is; a bare name only by its own maker's price

A list is JSON: format, source, as_of, and models: name → [provider, prices]. One model a line, so that changes can be
read.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.ids import now_us
from trustgate.models.prices import is_priced, price_hash
from trustgate.models.pricing import PriceTable
from trustgate.types import PriceList, Prices

FORMAT = "trustgate-price-list@v1"
_MODELS_MOST = 50_000
_BYTES_MOST = 32 * 1024 * 1024

#: Providers as the list calls them, by the end of an upstream's host.
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.together.xyz": "together_ai",
    "api.together.ai": "together_ai",
    "api.fireworks.ai": "fireworks_ai",
    "openrouter.ai": "openrouter",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.voyageai.com": "voyage",
    "api.cerebras.ai": "cerebras",
    "api.deepinfra.com": "deepinfra",
    "api.moonshot.ai": "moonshot",
    "dashscope.aliyuncs.com": "dashscope",
    "dashscope-intl.aliyuncs.com": "dashscope",
    "api.novita.ai": "novita",
    "api.sambanova.ai": "sambanova",
    "api.hyperbolic.xyz": "hyperbolic",
    "ai-gateway.vercel.sh": "vercel_ai_gateway",
    "api.z.ai": "zai",
    "api.minimax.io": "minimax",
    "inference.baseten.co": "baseten",
}
#: The makers of models whose bare names no others' have; a bare name behind a proxy has its maker's price.
_MAKERS = ("openai", "anthropic", "gemini", "mistral", "deepseek", "xai", "cohere", "voyage", "perplexity")
#: What the list calls a maker's models besides.
_ALSO = {
    "openai": ("text-completion-openai",),
    "cohere": ("cohere_chat",),
    "gemini": ("vertex_ai-language-models", "vertex_ai-embedding-models"),
}


class Listed(NamedTuple):
    """A model of the list: the name it stands under, who offers it, at what price."""

    name: str
    provider: str
    prices: Prices


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    source: str
    as_of: str
    models: dict[str, msgspec.Raw]


_entry = msgspec.json.Decoder(tuple[str, Prices]).decode


class PriceBook:
    """One list, ready to be asked. Entries are read when they are asked for."""

    def __init__(self, data: bytes) -> None:
        """Raises ``InvalidRequest`` for what is no list, or has an entry that is no price."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"This is not a price list: {error}.") from None
        if file.format != FORMAT or len(file.models) > _MODELS_MOST:
            raise InvalidRequest(f"This is not a price list of the format {FORMAT}.")
        self.source, self.as_of, self._models = file.source, file.as_of, file.models
        self._tables: dict[str, PriceTable] = {}

    @property
    def title(self) -> str:
        return f"{self.source}, {self.as_of}"

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Listed]:
        return (listed for name in self._models if (listed := self.entry(name)) is not None)

    def entry(self, name: str) -> Listed | None:
        """Returns the model of exactly this name. Raises ``InvalidRequest`` where its entry is no price."""
        raw = self._models.get(name)
        if raw is None:
            return None
        try:
            return Listed(name, *_entry(raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The price list's entry {name!r} is no price: {error}.") from None

    def find(self, base_url: str, *names: str) -> Listed | None:
        """What the list has for the first of the names that it knows, as the server at ``base_url`` offers it."""
        provider = provider_of(base_url)
        for name in names:
            found = self._of_provider(provider, name) if provider is not None else self._of_maker(name)
            if found is not None and is_priced(found.prices):
                return found
        return None

    def price(self, listed: Listed) -> PriceTable:
        table = self._tables.get(listed.name)
        if table is None:
            table = self._tables[listed.name] = PriceTable(listed.prices, self.title)
        return table

    def _of_provider(self, provider: str, name: str) -> Listed | None:
        known = (provider, *_ALSO.get(provider, ()))
        for written in (f"{provider}/{name}", name, name.removeprefix(f"{provider}/")):
            found = self.entry(written)
            if found is not None and found.provider in known:
                return found
        return None

    def _of_maker(self, name: str) -> Listed | None:
        prefix, slash, _ = name.partition("/")
        if slash:
            return self._of_provider(prefix, name)
        return next((found for maker in _MAKERS if (found := self._of_provider(maker, name)) is not None), None)

    def hashes(self) -> Mapping[str, Listed]:
        """Every model by its price's hash."""
        return {price_hash(listed.prices): listed for listed in self}


def provider_of(base_url: str) -> str | None:
    """Returns the provider that an upstream's address names, as the list calls it; None where it names none."""
    host = urlsplit(base_url).hostname or ""
    return next((name for end, name in _PROVIDERS.items() if host == end or host.endswith(f".{end}")), None)


def built_in() -> bytes:
    """Returns the list that comes with the program."""
    return resources.files("trustgate.models").joinpath("data", "pricelist.json").read_bytes()


def write_list(source: str, as_of: str, models: Mapping[str, tuple[str, Prices]]) -> bytes:
    """Returns a list of these models, by name, without those that are not priced."""
    encode = msgspec.json.Encoder(order="sorted").encode
    lines = [encode(name) + b":" + encode(entry) for name, entry in sorted(models.items()) if is_priced(entry[1])]
    head = f'{{"format":{encode(FORMAT).decode()},"source":{encode(source).decode()},"as_of":{encode(as_of).decode()}'
    return head.encode() + b',"models":{\n' + b",\n".join(lines) + b"\n}}\n"


def read_litellm(path: Path, source: str, as_of: str) -> tuple[bytes, tuple[str, ...]]:
    """LiteLLM's table as a list, and the notes on what was not taken. Raises ``SettingsError`` for another file."""
    from trustgate.models.importing.litellm import read_import_file

    found = read_import_file(path)
    models = {
        passport.slug: (passport.fields.provider or "", passport.fields.prices)
        for passport in found.passports
        if passport.fields.prices is not None and passport.fields.provider != "ollama"
    }
    return write_list(source, as_of, models), found.notes


def as_record(data: bytes, installed_us: int | None = None) -> PriceList:
    """Returns a list as it is kept. Raises ``InvalidRequest`` for what is no list."""
    book = PriceBook(data)
    return PriceList(
        id=hashlib.sha256(data).hexdigest(),
        source=book.source,
        as_of=book.as_of,
        installed_us=now_us() if installed_us is None else installed_us,
        data=zlib.compress(data, 9),
    )


def data_of(record: PriceList) -> bytes:
    """Raises ``InvalidRequest`` for a record that no TrustGate wrote."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(record.data, _BYTES_MOST)
    except zlib.error:
        raise InvalidRequest("The price list in the database cannot be read.") from None
    if inflate.unconsumed_tail:
        raise InvalidRequest("The price list in the database is too large.")
    return data


def newest(records: tuple[PriceList, ...]) -> PriceBook:
    """The list that holds: the one that was installed last, unless the program came with prices of a later date."""
    own = PriceBook(built_in())
    if not records or records[-1].as_of < own.as_of:
        return own
    return PriceBook(data_of(records[-1]))


def _main(arguments: list[str]) -> None:
    path, version, as_of = arguments
    data, notes = read_litellm(Path(path), f"LiteLLM {version}", as_of)
    (Path(__file__).parent / "data" / "pricelist.json").write_bytes(data)
    for note in notes:
        print(note)  # noqa: T201 - a developer's command
    print(f"{len(PriceBook(data)):,} models, {len(data):,} bytes")  # noqa: T201


if __name__ == "__main__":
    import sys

    _main(sys.argv[1:])
