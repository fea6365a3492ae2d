"""The reference of the HTTP interface, from the OpenAPI document of the collector."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from markup import cell, prose, table

__all__ = ["document", "http_pages", "operations"]

_METHODS = ("get", "head", "put", "post", "patch", "delete", "options")


def document() -> dict[str, Any]:
    """Return the OpenAPI document, as `GET /openapi.json` gives it."""
    from kinedge.upstream.api import create_app
    from kinedge.upstream.settings import CollectorSettings
    from kinedge.upstream.store import CollectorStore

    with tempfile.TemporaryDirectory() as scratch:
        store = CollectorStore(f"sqlite:///{scratch}/collector.db")
        try:
            found: dict[str, Any] = create_app(CollectorSettings(token="only-to-describe-it"), store=store).openapi()
        finally:
            store.close()
    return found


def operations(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return path, method and description of every operation."""
    return [(path, m, item[m]) for path, item in sorted(found["paths"].items()) for m in _METHODS if m in item]


def http_pages() -> dict[str, str]:
    """Return the one page."""
    found = document()
    schemas = found.get("components", {}).get("schemas", {})
    parts = [
        "# HTTP of the collector",
        "Made from the OpenAPI document, which a collector gives at `/openapi.json`. Who may ask what, and how "
        "uploads are resumed, is told in [collector](../collector.md); resources of FHIR in [fhir](../fhir.md).",
        table(
            ("", "", ""),
            [
                (f"`{m.upper()}`", f"`{path}`", cell(prose(_first(o.get("description") or o.get("summary", "")))))
                for path, m, o in operations(found)
            ],
        ).replace("|  |  |  |", "| method | path | what it does |", 1),
    ]
    for path, method, op in operations(found):
        parts.append(f"## {method.upper()} `{path}`")
        parts.append(prose(op.get("description") or op.get("summary", "")))
        rows = [
            (f"`{p['name']}`", p["in"], _kind(p.get("schema", {})), cell(prose(p.get("description", ""))))
            for p in op.get("parameters", [])
        ]
        if rows:
            parts.append(table(("parameter", "in", "takes", "meaning"), rows))
        for kind, body in op.get("requestBody", {}).get("content", {}).items():
            parts.append(f"Body: `{kind}`" + _reference(body.get("schema", {})))
        answers = []
        for status, answer in sorted(op.get("responses", {}).items()):
            content = answer.get("content", {})
            what = "; ".join(f"`{kind}`{_reference(c.get('schema', {}))}" for kind, c in content.items())
            answers.append((status, cell(prose(answer.get("description", ""))), cell(what)))
        parts.append(table(("status", "when", "body"), answers))
    parts.append("## Bodies")
    for name, schema in sorted(schemas.items()):
        parts.append(f"(body-{name.lower()})=\n\n### {name}")
        if schema.get("description"):
            parts.append(prose(" ".join(schema["description"].split())))
        needed = set(schema.get("required", ()))
        rows = [
            (f"`{key}`", _kind(value), "yes" if key in needed else "", cell(prose(value.get("description", ""))))
            for key, value in schema.get("properties", {}).items()
        ]
        if rows:
            parts.append(table(("key", "type", "always", "meaning"), rows))
        elif "enum" in schema:
            parts.append("One of " + ", ".join(f"`{v}`" for v in schema["enum"]) + ".")
    return {"reference/http.md": "\n\n".join(parts) + "\n"}


def _first(text: str) -> str:
    return " ".join(text.strip().partition("\n\n")[0].split())


def _reference(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f" [{name}](#body-{name.lower()})" if name else ""


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _reference(schema).strip()
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(s) for s in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(v)}`" for v in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{w} {schema[k]:g}" for k, w in (("minimum", "≥"), ("maximum", "≤")) if k in schema]
    return " ".join(["nothing" if kind == "null" else kind, *bounds])
