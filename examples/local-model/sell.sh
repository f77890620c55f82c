#!/bin/sh
# Offers a local model for money: sell.sh CUSTOMER. Run twice it changes nothing but adds the new customer.
set -eu
customer=${1:?"usage: sell.sh CUSTOMER"}
url=${LLM_URL:-http://127.0.0.1:11434/v1}
model=${LLM_MODEL:-llama3.2:3b}

# The name clients ask for, what the server calls it, and USD for a million tokens.
trustgate passport show local >/dev/null 2>&1 ||
    trustgate passport add local --api-model-id "$model" --base-url "$url" --context-length 8192 \
        --input-price 0.05 --output-price 0.20 >/dev/null

# Five dollars a month, that model alone, two requests at a time.
trustgate plan show customers >/dev/null 2>&1 ||
    trustgate plan add customers --usd-per-month 5.00 --models local --parallel-requests 2 >/dev/null

trustgate tenant add "$customer" --plan customers
