"""Monthly statements of a tenant's account that prove themselves by the receipts and the log. Has no state."""
