"""Metering: what an answer is, and how much of what it used."""
