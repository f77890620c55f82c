"""Models: passports and who serves them, the upstream client, and metering of what it answers."""
