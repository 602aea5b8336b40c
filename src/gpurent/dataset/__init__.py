"""Everything about configuration and pictures that must be right before money flows."""
