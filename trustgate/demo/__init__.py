"""A whole TrustGate for a look at it: the gateway, a local Solana, tenants and play money, in a folder that goes again.

    stand   the gateway and the chain in this process, their throwaway folder, and that nothing is left of them
    money   a token on the local chain, a buyer who has some of it, and how it signs payments
    client  requests as any client sends them, over a socket, and what came back
    tour    what is asked, in its order, and what was really seen of it

Nothing here is rehearsed: what is told of a request is what its answer, its receipt and the chain say.
"""
