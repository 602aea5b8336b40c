"""A look-alike of Vast.ai's REST API over the sandbox's market; ``fields.py`` lists what it accepts."""
