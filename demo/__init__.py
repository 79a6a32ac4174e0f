"""The nightly example, end to end on this machine: ``python -m demo``."""
