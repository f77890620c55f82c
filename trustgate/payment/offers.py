"""An offer from an operator's input: refused here, while the operator can correct it, not when a customer pays.

Owns the questions to the chain and to the facilitator: is there such a token, does it say how many decimals it has, can
the receiver take it, does the facilitator settle it. A transfer to a wallet without an account for the token fails on
Solana, so the account has to be there; no client pays for creating one later.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trustgate.errors import InvalidRequest, RpcRejected
from trustgate.payment.chains.nodes import Nodes, node_hint
from trustgate.payment.facilitators.facts import extra_of
from trustgate.payment.facilitators.registry import EMBEDDED, Facilitators
from trustgate.payment.networks import (
    SOLANA,
    SOLANA_DEVNET,
    caip2_of,
    check_address,
    is_solana,
    known_asset,
    v1_name_of,
)
from trustgate.types import Offer

if TYPE_CHECKING:
    from trustgate.payment.chains.evm import EvmRpc
    from trustgate.solana.rpc import AccountInfo

#: More than any token has that is worth a dollar; nano-USD are made of units by it.
_MOST_DECIMALS: Final = 18
_TRANSFER_FEE_CONFIG: Final = 1
_EXTENSIONS_AT: Final = 166
_NO_NONCE: Final = "0x" + "0" * 64


class OfferSpec(NamedTuple):
    """One way to be paid, as the operator gives it."""

    #: A name or a CAIP-2 id.
    network: str
    #: ``usdc``, a mint or a contract; a token that is worth one USD a unit.
    asset: str
    pay_to: str
    #: ``embedded`` or a URL.
    facilitator: str
    #: Needed for a token that is not well known on a chain that cannot be asked.
    decimals: int | None = None
    #: The same, of the token's EIP-712 domain; on EVM alone.
    name: str = ""
    version: str = ""
    #: Whether the facilitator has to confirm that it settles there; False on EVM networks alone.
    checks_facilitator: bool = True


class _Token(NamedTuple):
    address: str
    decimals: int
    extra: dict[str, Any]


async def make_offer(spec: OfferSpec, facilitators: Facilitators, nodes: Nodes) -> Offer:
    """Returns the offer, checked against the chain (where the settings name a node for it) and the facilitator.

    Raises ``InvalidRequest``, whose ``param`` names the wrong part; ``ChainError``, ``FacilitatorUnavailable`` and
    ``SettingsError`` where a node or facilitator cannot be asked.
    """
    network = caip2_of(spec.network)
    facilitator = _facilitator_of(spec, network)
    pay_to = check_address(network, spec.pay_to, "pay_to")
    known = known_asset(network, spec.asset)
    asset = check_address(network, spec.asset, "asset") if known is None else known.address
    if pay_to == asset:
        raise InvalidRequest(
            "A payment to the token's own address is lost.",
            param="pay_to",
            code="bad_address",
            hint="Give your wallet.",
        )
    if not nodes.has(network):
        raise InvalidRequest(
            f"What becomes of a payment on {v1_name_of(network) or network} cannot be looked up: there is no node to "
            "ask.",
            param="network",
            code="no_node",
            hint=node_hint(network),
        )
    spec = spec._replace(asset=asset, pay_to=pay_to)
    if known is not None:
        spec = spec._replace(name=spec.name or known.name, version=spec.version or known.version)
    if is_solana(network):
        token = await _solana_token(spec, network, nodes)
    else:
        token = await _evm_token(spec, network, nodes, None if known is None else known.decimals)
    facilitators.check_key(facilitator)
    if spec.checks_facilitator:
        extra = token.extra | await extra_of(facilitators, facilitator, network)
    elif is_solana(network):
        raise InvalidRequest(
            "On Solana the facilitator must be reachable: its answer names the account that pays the network's fees.",
            param="facilitator",
            code="facilitator_unavailable",
            hint="Let the gateway settle by itself, with --facilitator embedded. Its key: trustgate payment keygen",
        )
    else:
        extra = token.extra
    return Offer(
        network=network,
        asset=token.address,
        decimals=token.decimals,
        pay_to=pay_to,
        facilitator=facilitator,
        extra=extra,
    )


def _facilitator_of(spec: OfferSpec, network: str) -> str:
    from trustgate.payment.facilitators.remote import check_facilitator_url

    if spec.facilitator != EMBEDDED:
        return check_facilitator_url(spec.facilitator)
    if network not in (SOLANA, SOLANA_DEVNET):
        raise InvalidRequest(
            f"The embedded facilitator settles on Solana alone, not on {v1_name_of(network) or network}.",
            param="facilitator",
            code="bad_facilitator",
            hint="Name a remote one: --facilitator https://x402.org/facilitator settles on test networks.",
        )
    return EMBEDDED


# Solana


async def _solana_token(spec: OfferSpec, network: str, nodes: Nodes) -> _Token:
    await nodes.prepare([network])
    rpc = await nodes.solana(network)
    where = v1_name_of(network) or network
    mint = await rpc.account(spec.asset)
    decimals, program = _read_mint(spec, mint, where)
    receiver = await rpc.account(spec.pay_to)
    _check_wallet(spec, receiver, where)

    from trustgate.formats.spl_token import associated_account, read_token_account

    address = associated_account(spec.pay_to, spec.asset, program)
    account = await rpc.account(address)
    held = None if account is None else read_token_account(_solders(account))
    if held is None or str(held.mint) != spec.asset or str(held.owner) != spec.pay_to:
        flags = "--program-2022 " if program.startswith("Tokenz") else ""
        command = f"spl-token {flags}create-account {spec.asset} --owner {spec.pay_to} --fee-payer FILE --url {where}"
        raise InvalidRequest(
            f"{spec.pay_to} has no account for this token on {where} ({address}), so it cannot receive payments.",
            param="pay_to",
            code="no_token_account",
            hint=f"Create it, with any key that has a little SOL: {shlex.join(shlex.split(command))}",
        )
    if held.state != "initialized":
        raise InvalidRequest(
            f"The token's issuer has frozen the account of {spec.pay_to}.", param="pay_to", code="frozen_token_account"
        )
    return _Token(spec.asset, _decimals(spec, decimals), {})


def _read_mint(spec: OfferSpec, account: AccountInfo | None, where: str) -> tuple[int, str]:
    """Returns its decimals, and the program that it belongs to."""
    from trustgate.formats.spl_token import read_mint

    mint = None if account is None else read_mint(_solders(account))
    if account is None or mint is None:
        what = "There is nothing" if account is None else "There is no mint"
        raise InvalidRequest(
            f"{what} at {spec.asset} on {where}.",
            param="asset",
            code="no_mint",
            hint="Check the network: a token has another mint on each. `usdc` is known on solana and solana-devnet.",
        )
    if _takes_fee(account.data):
        raise InvalidRequest(
            f"The token {spec.asset} charges a fee on every transfer, so no exact amount can be paid with it.",
            param="asset",
            code="unfit_asset",
            hint="Use a token without a transfer fee, such as usdc.",
        )
    return mint.decimals, account.owner


def _takes_fee(mint: bytes) -> bool:
    """Returns whether it has Token-2022's extension of transfer fees, with a fee above zero now or soon."""
    at = _EXTENSIONS_AT
    while at + 4 <= len(mint):
        kind, size = int.from_bytes(mint[at : at + 2], "little"), int.from_bytes(mint[at + 2 : at + 4], "little")
        body = mint[at + 4 : at + 4 + size]
        if kind == _TRANSFER_FEE_CONFIG:
            # Two authorities and what was withheld, then twice: epoch u64, the most u64, basis points u16.
            return any(int.from_bytes(body[start + 16 : start + 18], "little") for start in (72, 90))
        at += 4 + size
    return False


def _check_wallet(spec: OfferSpec, account: AccountInfo | None, where: str) -> None:
    from solders.pubkey import Pubkey

    from trustgate.formats.spl_token import TOKEN_PROGRAMS

    if account is not None and account.owner in TOKEN_PROGRAMS:
        raise InvalidRequest(
            f"{spec.pay_to} is a token account, not a wallet.",
            param="pay_to",
            code="bad_address",
            hint="Give the address of the wallet that it belongs to; payments find its account for the token.",
        )
    if account is None and not Pubkey.from_string(spec.pay_to).is_on_curve():
        raise InvalidRequest(
            f"{spec.pay_to} is not a wallet on {where}: it is off the curve, and no account exists there.",
            param="pay_to",
            code="bad_address",
            hint="Copy the address again.",
        )


def _solders(account: AccountInfo) -> Any:
    """Returns the account as the readers of tokens take it."""
    from solders.account import Account as SoldersAccount
    from solders.pubkey import Pubkey

    return SoldersAccount(account.lamports, account.data, Pubkey.from_string(account.owner))


# EVM


async def _evm_token(spec: OfferSpec, network: str, nodes: Nodes, decimals: int | None) -> _Token:
    """``decimals``: of a well-known token; None: the contract is asked."""
    if decimals is None:
        decimals, spec = await _ask_contract(spec, network, nodes)
    missing = [f"--asset-{part}" for part in ("name", "version") if not getattr(spec, part)]
    if missing:
        raise InvalidRequest(
            f"The token {spec.asset} does not report the domain of its signatures.",
            param="asset",
            code="unknown_asset",
            hint=f"Give {' and '.join(missing)}: name and version of its EIP-712 domain.",
        )
    return _Token(spec.asset, _decimals(spec, decimals), {"name": spec.name, "version": spec.version})


async def _ask_contract(spec: OfferSpec, network: str, nodes: Nodes) -> tuple[int | None, OfferSpec]:
    """Decimals, name and version, as far as the contract has them."""
    from trustgate.payment.chains.evm import NAME, VERSION

    rpc = await nodes.evm(network)
    if not await rpc.has_code(spec.asset):
        raise InvalidRequest(
            f"There is no contract at {spec.asset} on {v1_name_of(network) or network}.",
            param="asset",
            code="no_contract",
            hint="Check the network: a token has another contract on each.",
        )
    try:
        decimals = await rpc.decimals(spec.asset)
        await rpc.authorization_state(spec.asset, spec.pay_to, _NO_NONCE, None)
    except RpcRejected:
        raise InvalidRequest(
            f"{spec.asset} is not a token that supports payment by signature (EIP-3009).",
            param="asset",
            code="unfit_asset",
            hint="Use one that can, such as usdc.",
        ) from None
    return decimals, spec._replace(
        name=spec.name or await _text(rpc, spec.asset, NAME),
        version=spec.version or await _text(rpc, spec.asset, VERSION),
    )


async def _text(rpc: EvmRpc, token: str, selector: str) -> str:
    """Returns the contract's own text; "" where it does not."""
    try:
        return await rpc.text(token, selector) or ""
    except RpcRejected:
        return ""


def _decimals(spec: OfferSpec, found: int | None) -> int:
    """Returns what was found, which what was said must not contradict."""
    decimals = spec.decimals if found is None else found
    if decimals is None:
        raise InvalidRequest(
            f"The decimals of the token {spec.asset} are not known.",
            param="asset",
            code="unknown_asset",
            hint="No node is set to look them up: give --decimals.",
        )
    if spec.decimals not in (None, decimals):
        raise InvalidRequest(
            f"The token {spec.asset} has {decimals} decimals, not {spec.decimals}.",
            param="decimals",
            code="bad_decimals",
            hint="Leave --decimals out.",
        )
    if not 0 <= decimals <= _MOST_DECIMALS:
        raise InvalidRequest(
            f"The token {spec.asset} has {decimals} decimals; at most {_MOST_DECIMALS} are usable here.",
            param="asset",
            code="unfit_asset",
        )
    return decimals
