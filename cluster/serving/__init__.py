"""Published models behind HTTP: what is served, checked before anything starts, and the host on which the application runs.

Comes in: what ``sparring serve`` was asked. Goes out: a service that answers until it is told to stop.
Called by the commands. The application itself is named, not imported: it belongs to another layer.
"""

__all__ = ["models", "options", "rollout", "service"]
