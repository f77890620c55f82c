"""The units of money and of factors, in which every room counts."""

from __future__ import annotations

NANO_USD_PER_USD = 1_000_000_000
PICO_USD_PER_NANO_USD = 1_000
#: A factor that changes nothing, in millionths.
FACTOR_ONE_PPM = 1_000_000
