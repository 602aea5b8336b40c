"""The on-host dead-man switch: one file of standard library, sent in the start-up script."""
