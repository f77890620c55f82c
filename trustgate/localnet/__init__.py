"""A local Solana for development: LiteSVM behind the JSON-RPC of a cluster.

    run      starting one: in this process, or finding the one that a folder already runs
    http     the listener
    rpc      JSON-RPC 2.0: one request or a batch in, one document out
    methods  what can be asked; ``params`` reads the arguments, ``faults`` names the refusals
    encode   transactions and accounts in the forms clients ask for
    chain    slots, blocks, blockhashes, history; ``clock`` has the slot, ``ledger`` keeps what happened
    bank     accounts, and what a transaction does to them (LiteSVM, and the fees and rent rules it leaves out)

Its coins are worth nothing and any client that reaches it may have them. Everything since the chain began stays in
memory, some 5 KiB a transaction: it is meant for a day's work, not for years.
"""

from __future__ import annotations

from trustgate.localnet.run import Localnet, find_or_start, find_running, running_localnet

__all__ = ["Localnet", "find_or_start", "find_running", "running_localnet"]
