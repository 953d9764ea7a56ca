"""``/docs`` drawn from the OpenAPI description, as plain HTML that needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def page(description: Mapping[str, Any]) -> str:
    """All paths by section: parameters, body, answers."""
    sections: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["Other"])[0]
            sections.setdefault(tag, []).append(_operation(method, path, operation))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(made)}" for tag, made in sections.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sparring: HTTP interface</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><link rel="stylesheet" href="/static/style.css">'
        f"</head><body><main><h1>HTTP interface</h1><p>{escape(description['info']['description'])} "
        'Machine-readable: <a href="/openapi.json">openapi.json</a>. <a href="/">The page</a>. '
        "Where the service has a token, send <code>Authorization: Bearer TOKEN</code>. "
        'Errors are <code>{"error": "..."}</code>.</p>'
        f"{body}</main></body></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('summary', ''))}</p>"]
    parameters = [p for p in operation.get("parameters", []) if p["in"] == "query"]
    if parameters:
        lines = [f"<li><code>{escape(p['name'])}</code> {escape(p.get('description', ''))}</li>" for p in parameters]
        parts.append(f"<p>Query:</p><ul>{''.join(lines)}</ul>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        shown = escape(json.dumps(content["schema"], indent=1))
        parts.append(f"<details><summary>Body: {escape(kind)}</summary><pre>{shown}</pre></details>")
    answers = ", ".join(f"{status} {escape(a['description'])}" for status, a in operation["responses"].items())
    parts.append(f"<details><summary>Answers</summary><p>{answers}</p></details>")
    return f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>{''.join(parts)}</section>"
