"""Adapters: each talks to one vendor and knows nothing of the others."""
