"""Logs that can be made here, each a documented recipe with a fixed seed."""
