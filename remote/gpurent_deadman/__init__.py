"""The on-host dead-man switch: standard library only."""
