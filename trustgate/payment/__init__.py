"""Getting paid: x402 in front of a tenant's requests, the ledger of payments, the balances that requests draw on."""
