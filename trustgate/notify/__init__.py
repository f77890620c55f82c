"""Notices to people: who is sent which, what is watched, and delivery by webhook or program."""
