"""A run as a value: its settings, their types, the recipes that name them.

Comes in: YAML, flags, plain values. Goes out: ``RunConfig``, which says everything that a number depends on.
Called by every room above; nothing here touches a run's folder or a process.
"""

__all__ = ["environment", "measuring", "recipes", "run_config", "settings", "tracking", "values"]
