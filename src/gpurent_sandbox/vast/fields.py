"""What each request to Vast.ai may hold: JSON Schemas, written from what is known of the service. Pure.

A field that stands in no list is refused, as the service refuses it on its strict routes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from gpurent_sandbox.vast import ports

Schema = Mapping[str, Any]

ARGS_LIMIT = 16_384
"""Characters of ``onstart`` and ``args`` that the service takes."""
DOCUMENTED_ARGS = 4_096
"""Characters that it promises to take."""
SMALLEST_DISK_GB = 8

_words = "ssh|ssh_proxy|ssh_direct|ssh_direc|jupyter|jupyter_proxy|jupyter_direct|jupyter_direc|args"
_flag: Schema = {"type": ["boolean", "null"]}
_text: Schema = {"type": ["string", "null"]}
_state: Schema = {"enum": ["running", "stopped"]}
_empty: Schema = {"type": "object", "additionalProperties": False}


def _strict(properties: Mapping[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_order: Mapping[str, Schema] = {
    "client_id": {"const": "me"},
    "image": {"type": ["string", "null"], "maxLength": 1024},
    "env": {
        "type": ["object", "null"],
        "propertyNames": {"maxLength": 256},
        "additionalProperties": {"type": "string", "maxLength": 32_768},
    },
    "price": {"type": ["number", "null"], "minimum": 0.001, "maximum": 128},
    "disk": {"type": "number", "minimum": SMALLEST_DISK_GB},
    "label": {"type": ["string", "null"], "maxLength": 256},
    "extra": _text,
    "onstart": _text,
    "args": {"type": ["array", "null"], "items": {"type": "string"}},
    "args_str": _text,
    "image_login": _text,
    "runtype": {"type": "string", "pattern": f"^({_words})( ({_words}))*$"},
    "target_state": _state,
    "cancel_unavail": _flag,
    "force": _flag,
    "vm": _flag,
    "use_jupyter_lab": _flag,
    "jupyter_dir": _text,
    "python_utf8": _flag,
    "lang_utf8": _flag,
    "template_hash_id": _text,
    "template_id": {"type": ["integer", "null"]},
    "user": _text,
    "create_from": _text,
    "volume_info": {"type": ["object", "null"]},
}
_key = _strict({"ssh_key": {"type": "string"}}, "ssh_key")

BODIES: Mapping[str, Schema] = {
    "create": _strict(_order),
    "launch": _strict({**_order, "q": {"type": "object"}}, "q"),
    "search_new": _strict(
        {"select_cols": {"type": "array", "items": {"type": "string"}}, "q": {"type": "object"}}, "q"
    ),
    "search": {"type": "object"},
    "manage": {
        **_strict({"state": _state, "label": {"type": "string", "maxLength": 1024}}),
        "minProperties": 1,
        "maxProperties": 1,
    },
    "manage_many": _strict({"state": _state, "ids": {"type": "array", "items": {"type": "integer"}}}, "state", "ids"),
    "destroy_many": _strict({"instance_ids": {"type": "array", "items": {"type": "integer"}}}, "instance_ids"),
    "key": _key,
    "key_update": _strict({"id": {"type": "integer"}, "ssh_key": {"type": "string"}}, "ssh_key"),
    "logs": _strict({"tail": {"type": "string"}, "filter": {"type": "string"}, "daemon_logs": {"const": "true"}}),
    "bid": _strict({"client_id": {"const": "me"}, "price": _order["price"]}, "client_id"),
    "prepay": _strict({"amount": {"type": "number", "exclusiveMinimum": 0}}, "amount"),
    "empty": _empty,
}

QUERIES: Mapping[str, frozenset[str]] = {
    "list": frozenset({"select_filters", "order_by", "limit", "after_token", "select_cols"}),
    "show": frozenset({"owner"}),
    "charges": frozenset({"select_filters", "latest_first", "limit", "format", "after_token"}),
    "invoices": frozenset({"select_filters", "latest_first", "limit", "after_token"}),
    "old_search": frozenset({"q"}),
}
"""Parameters of a request's address, by route; ``api_key`` goes with every route."""

SEARCH_KEYS: Mapping[str, Schema] = {
    "order": {
        "type": "array",
        "items": {
            "type": "array", "minItems": 2, "maxItems": 2,
            "prefixItems": [{"type": "string"}, {"enum": ["asc", "desc"]}],
        },
    },
    "type": {"enum": ["ondemand", "on-demand", "bid", "reserved"]},
    "limit": {"type": "integer", "minimum": 1},
    "allocated_storage": {"type": "number", "minimum": 0},
    "extra_ids": {"type": "array"},
    "disable_bundling": _flag,
    "template_id": {"type": ["integer", "null"]},
}  # fmt: skip
"""Keys of a search that are no filters; ``target_reliability`` is one, spelled as a filter or not."""


def judge_body(name: str, body: bytes) -> tuple[dict[str, Any], list[str]]:
    """Read the body of a request; a missing one is an empty object. Also what its schema has against it."""
    if not body:
        return {}, _complaints(BODIES[name], {})
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}, ["the body is not JSON"]
    wrong = _complaints(BODIES[name], value)
    return (value if isinstance(value, dict) else {}), wrong


def judge_query(name: str, given: Iterable[str]) -> list[str]:
    """What is wrong with the names of a request's parameters."""
    allowed = QUERIES.get(name, frozenset()) | {"api_key"}
    return [f"{name}: Extra inputs are not permitted" for name in given if name not in allowed]


def judge_search_key(name: str, value: object) -> list[str]:
    """What is wrong with a key of a search that is not a filter."""
    return [f"{name}: {text}" for text in _complaints(SEARCH_KEYS[name], value)]


def judge_order(body: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What no schema can say of a create request: what refuses it, and what merely goes beyond what is promised."""
    if not body.get("image"):
        return ["this sandbox has no templates: an image is wanted"], []
    if body.get("vm") or body.get("volume_info"):
        return ["this sandbox has no virtual machines or volumes"], []
    if sum(len(key) + len(value) for key, value in (body.get("env") or {}).items()) > 32_768:
        return ["env is longer than 32768 characters"], []
    if (text := ports.wrong(body.get("env") or {})) is not None:
        return [text], []
    length = sum(map(len, (*(body.get("args") or ()), body.get("args_str") or "", body.get("onstart") or "")))
    if length > ARGS_LIMIT:
        return ["error 400/3471: Invalid args: len(image) > 1024, or len(args) > 16384, or len(label) > 256"], []
    return [], [f"args and onstart hold {length} characters"] if length > DOCUMENTED_ARGS else []


def _complaints(schema: Schema, value: Any) -> list[str]:
    found = Draft202012Validator(schema).iter_errors(value)
    return sorted(f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message[:200]}" for error in found)
