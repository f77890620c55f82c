"""The RPC nodes that payments are looked up at: one for each network that is offered, from the settings.

Owns which node is used for which network, and the check that it is of that network: a node of another chain would take
worthless tokens for dollars. A node is a URL, which costs nothing until it is asked; ``local`` is the chain in the home
folder, which poses as Solana devnet. It is found where another process runs it, else run by this one, from ``prepare``
on. A request never waits for that: until the chain runs, calls fail with that reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from trustgate.errors import ChainError, InvalidRequest, RpcUnavailable, SettingsError, StoreLocked, TrustGateError
from trustgate.payment.networks import BASE, BASE_SEPOLIA, SOLANA, SOLANA_DEVNET, caip2_of, v1_name_of
from trustgate.settings import Settings

if TYPE_CHECKING:
    from trustgate.payment.chains.evm import EvmRpc
    from trustgate.solana.rpc import RpcClient

_logger = logging.getLogger("trustgate.payment")

#: Where the settings name the node of a network.
_SETTING_OF: Final = {
    SOLANA: "solana_rpc",
    SOLANA_DEVNET: "solana_devnet_rpc",
    BASE: "base_rpc",
    BASE_SEPOLIA: "base_sepolia_rpc",
}
_LOCAL: Final = "local"
_LOCAL_TIMEOUT_S: Final = 15.0
_LOOK_EVERY_S: Final = 1.0


def node_hint(network: str) -> str:
    """Returns what an operator does so that payments on a network can be looked up."""
    name = v1_name_of(network) or network
    return f'Name a node in trustgate.toml: [payment] nodes = ["{name}=https://…"], and restart the server.'


def _read_entry(entry: str) -> tuple[str, str]:
    """Returns network and URL of an entry of ``payment.nodes``. Raises ``SettingsError``."""
    from trustgate.solana.clusters import why_not_url

    name, _, url = entry.partition("=")
    try:
        network = caip2_of(name)
    except InvalidRequest as error:
        raise SettingsError(f"payment.nodes: {error.message}", hint=error.hint) from None
    fault = why_not_url(url.strip())
    if fault is not None:
        raise SettingsError(
            f"payment.nodes: the address of the node of {name.strip()[:64]} {fault}.",
            hint="It has the form NETWORK=URL.",
        )
    return network, url.strip()


class Nodes:
    """To be closed by the task that made it."""

    def __init__(self, settings: Settings) -> None:
        """Raises ``SettingsError`` for an entry of ``payment.nodes`` that names no network and URL."""
        self._settings = settings
        self._named = dict(_read_entry(entry) for entry in settings.payment.nodes)
        self._local = _LocalChain(settings)
        self._solana: dict[str, RpcClient] = {}
        self._evm: dict[str, EvmRpc] = {}
        self._checked: set[str] = set()

    def has(self, network: str) -> bool:
        """Returns whether the settings name a node for this network."""
        return network in self._named or network in _SETTING_OF

    async def prepare(self, networks: Iterable[str]) -> None:
        """Make ready what payments on these networks need; may be called again, and starts nothing twice.

        Raises nothing: what is missing is reported when it is used.
        """
        texts = {self._text(network) for network in networks if self.has(network)}
        if _LOCAL in texts:
            await self._local.start()

    async def solana(self, network: str) -> RpcClient:
        """Returns the client of a Solana network's node. Raises ``ChainError``, also where the node is of another
        network.
        """
        from trustgate.solana.clusters import LOCAL, Cluster, find_cluster
        from trustgate.solana.rpc import RpcClient

        text = self._text(network)
        try:
            cluster = Cluster(LOCAL, await self._local.url()) if text == _LOCAL else find_cluster(text)
        except SettingsError as error:
            raise ChainError(error.message, hint=self._hint(network)) from None
        rpc = self._solana.get(network)
        if rpc is None or rpc.cluster.url != cluster.url:
            if rpc is not None:
                await rpc.close()
            rpc = self._solana[network] = RpcClient(cluster, hint=self._hint(network))
            self._checked.discard(network)
        if network not in self._checked:
            self._check_solana(network, await rpc.genesis_hash())
            self._checked.add(network)
        return rpc

    async def evm(self, network: str) -> EvmRpc:
        """Returns the same for a network ``eip155:N``."""
        from trustgate.payment.chains.evm import EvmRpc

        text = self._text(network)
        rpc = self._evm.get(network)
        if rpc is None:
            from trustgate.solana.clusters import why_not_url

            if (fault := why_not_url(text)) is not None:
                raise ChainError(f"The address of the RPC node of {network} {fault}.", hint=self._hint(network))
            rpc = self._evm[network] = EvmRpc(text, hint=self._hint(network))
        if network not in self._checked:
            chain_id = await rpc.chain_id()
            if network != f"eip155:{chain_id}":
                raise ChainError(
                    f"The RPC node {rpc.host} is of the network eip155:{chain_id}, not of {network}.",
                    hint=self._hint(network),
                )
            self._checked.add(network)
        return rpc

    async def close(self) -> None:
        for rpc in (*self._solana.values(), *self._evm.values()):
            await rpc.close()
        await self._local.close()

    def _text(self, network: str) -> str:
        """Returns what the settings say. Raises ``ChainError`` for a network that they name no node for."""
        if (named := self._named.get(network)) is not None:
            return named
        setting = _SETTING_OF.get(network)
        if setting is None:
            raise ChainError(
                f"No RPC node is known for the network {network}, so nothing can be looked up there.",
                hint=node_hint(network),
            )
        return str(getattr(self._settings.payment, setting))

    def _hint(self, network: str) -> str:
        setting = "nodes" if network in self._named else _SETTING_OF.get(network, "nodes")
        return f"set payment.{setting} to another node"

    def _check_solana(self, network: str, genesis: str) -> None:
        from trustgate.solana.clusters import is_public

        named = network.removeprefix("solana:")
        poses = network == SOLANA_DEVNET and not is_public(genesis)
        if not genesis.startswith(named) and not poses:
            raise ChainError(
                f"The RPC node of {v1_name_of(network) or network} is of another chain: its genesis block is "
                f"{genesis}.",
                hint=f"To correct it, {self._hint(network)}.",
            )


class _LocalChain:
    """The chain in the home folder: found, or run by this process, in a task that keeps it until ``close``."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.localnet_folder
        self._url: str | None = None
        self._problem = ""
        self._known = asyncio.Event()
        self._closing = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait until the chain is there, or is known not to come up."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="the local chain")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOCAL_TIMEOUT_S):
                await self._known.wait()

    async def url(self) -> str:
        """Raises ``RpcUnavailable`` while it is not there, and sees to it that it will be."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="the local chain")
        if self._url is None:
            why = f" ({self._problem})" if self._problem else ""
            raise RpcUnavailable(f"The local chain is not running yet{why}.", hint="Try again in a few seconds.")
        return self._url

    async def close(self) -> None:
        self._closing.set()
        if self._keeper is not None:
            await self._keeper

    async def _keep(self) -> None:
        from trustgate.localnet import find_running, running_localnet

        while not self._closing.is_set():
            try:
                async with running_localnet(folder=self._folder) as net:
                    self._log_ready(net.url)
                    await self._closing.wait()
            except StoreLocked:
                # Another process runs it. When it goes away, its owner may start it again.
                while not self._closing.is_set() and (url := await find_running(self._folder)) is not None:
                    self._log_ready(url)
                    await self._pause(_LOOK_EVERY_S)
                self._url = None
            except TrustGateError as error:
                self._url, self._problem = None, error.message
                self._known.set()
                _logger.warning("the local chain cannot be run: %s", error.message)
            await self._pause(_LOOK_EVERY_S)

    def _log_ready(self, url: str) -> None:
        self._url, self._problem = url, ""
        self._known.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
