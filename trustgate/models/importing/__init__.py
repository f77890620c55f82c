"""Importing passports: files of other programs, and model servers found on this machine."""
