"""What RunPod's OpenAPI document says of a request or a reply. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

Schema = Mapping[str, Any]

_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@dataclass(frozen=True, slots=True)
class Judgement:
    """``errors`` refuse a request (422); ``unknown`` parameters are ignored by the service, yet no part of its API."""

    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def violations(self) -> tuple[str, ...]:
        """Everything the document does not allow."""
        return (*self.errors, *(f"no parameter {name!r}" for name in self.unknown))


@cache
def _document() -> dict[str, Any]:
    text = (files("gpurent_sandbox.runpod") / "openapi.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": pointer, "components": _document()["components"], "paths": _document()["paths"]},
        format_checker=_formats,
    )


def _pointer(*names: str) -> str:
    return "#/" + "/".join(name.replace("~", "~0").replace("/", "~1") for name in names)


def _complaints(validator: Draft202012Validator, value: Any, where: str) -> list[str]:
    found = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    return [f"{where}{''.join(f'.{part}' for part in error.absolute_path)}: {error.message[:300]}" for error in found]


def template_of(path: str) -> str | None:
    """The document's spelling of a path (``/v2/pods/abc`` is ``/v2/pods/{id}``); None for a path it does not know."""
    for template in _document()["paths"]:
        if re.fullmatch(re.sub(r"\\\{[^/]+\\\}", "[^/]+", re.escape(template)), path):
            return str(template)
    return None


def methods(template: str) -> list[str]:
    """Methods of a path, in upper case."""
    return [
        name.upper() for name in _document()["paths"][template] if name in ("get", "post", "put", "patch", "delete")
    ]


def judge(template: str, method: str, query: Iterable[tuple[str, str]], body: bytes) -> Judgement:
    """Compare a request with the document."""
    operation = _document()["paths"][template][method.lower()]
    errors, unknown = _judge_query([_resolve(parameter) for parameter in operation.get("parameters", [])], list(query))
    if "requestBody" in operation:
        errors += _judge_body(template, method, body)
    elif body:
        errors.append("$: this request takes no body")
    return Judgement(tuple(errors), tuple(unknown))


def _judge_body(template: str, method: str, body: bytes) -> list[str]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ["$: the body is not JSON"]
    names = ("paths", template, method.lower(), "requestBody", "content", "application/json", "schema")
    return _complaints(_validator(_pointer(*names)), value, "$")


def _judge_query(known: Sequence[Schema], query: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    parameters = {parameter["name"]: parameter for parameter in known if parameter["in"] == "query"}
    errors: list[str] = []
    for name, text in query:
        if name in parameters:
            schema = {**parameters[name]["schema"], "components": _document()["components"]}
            validator = Draft202012Validator(schema, format_checker=_formats)
            errors += _complaints(validator, _read(text, schema), f"query.{name}")
    return errors, [name for name, _ in query if name not in parameters]


def _read(text: str, schema: Schema) -> object:
    """A query value as the type that its schema wants, where it can be read as one."""
    kind = schema.get("type")
    if kind == "array":
        return text.split(",") if text else []
    if kind == "integer" and re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if kind == "boolean" else text


def _resolve(value: Schema) -> Schema:
    if "$ref" not in value:
        return value
    _, _, kind, name = value["$ref"].split("/")
    found: Schema = _document()["components"][kind][name]
    return found


def judge_reply(template: str, method: str, status: int, value: object) -> list[str]:
    """How a JSON reply differs from the document; errors are compared with its error format."""
    if status >= 400:
        pointer = _pointer("components", "schemas", "ErrorResponse")
    else:
        place = ("paths", template, method.lower(), "responses", str(status), "content", "application/json", "schema")
        pointer = _pointer(*place)
    return _complaints(_validator(pointer), value, "$")
