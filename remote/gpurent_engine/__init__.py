"""The training engine: runs on the rented host, stands alone, reads top to bottom (start at ``loop.py``)."""

__version__ = "0.1.0"

PROTOCOL = 1
"""Version of the event lines and of ``job.json``; both sides check it."""
RESULTS = 1
"""Raised when the same job no longer ends in the same weights: what an older engine trained is then trained again."""
