"""Backends: who calls the taps."""
