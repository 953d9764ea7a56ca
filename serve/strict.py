"""Queries as strict as bodies: a key that a path does not know, or that is given twice, is an error and never ignored."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant

from sparring.serve.invalid import Invalid


async def query(request: Request) -> None:
    """A dependency of every path; a coroutine, since FastAPI calls functions in a thread.

    Raises:
        Invalid: names the key and what the path knows.
    """
    if not request.scope["query_string"]:
        return
    known = _known(request.scope["route"].dependant)
    keys = [key for key, _ in request.query_params.multi_items()]
    for key in keys:
        if key not in known:
            allowed = f"this path knows {', '.join(sorted(known))}" if known else "this path takes none"
            raise Invalid(f"query.{key[:40]}: unknown; {allowed}")
        if keys.count(key) > 1:
            raise Invalid(f"query.{key}: given twice")


def _known(dependant: Dependant) -> set[str]:
    return {str(p.alias) for p in dependant.query_params}.union(*map(_known, dependant.dependencies))
