"""Surefoot: learn a policy from whatever you have, and know how far you can trust it."""

__version__ = "0.1.0"
