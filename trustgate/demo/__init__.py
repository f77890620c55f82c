"""The demo: a gateway, a local Solana, tenants and test money, in a temporary folder that is removed at the end.

    environment  the gateway and the chain in this process, their folder, and its removal
    money        a token on the local chain, a buyer with a balance of it, and how it signs payments
    client       requests as any client sends them, over a socket, and their responses
    tour         the requests, in order, and what was observed of each

Nothing here is scripted: everything shown of a request comes from its response, its receipt and the chain.
"""
