"""Importing passports: files of other programs, and LLM servers found on this machine."""
