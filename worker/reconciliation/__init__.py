"""Reconciliation: what the providers know of our orders, and we do not.

Each open order is asked for until it ends, and the newest orders of each provider are read back
to the last one known. ``plans`` says what is to be asked, ``watches`` when that may be, ``asking``
does it, and :mod:`worker.discoveries` is what becomes of what is found.
"""
