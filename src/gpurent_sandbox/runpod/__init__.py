"""A look-alike of RunPod's REST API v2 over the sandbox's market; ``openapi.json`` decides what it accepts."""
