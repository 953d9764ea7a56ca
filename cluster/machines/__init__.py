"""Where things run: a Ray to connect to, its nodes, what fits on them, and the signals that ask to stop.

Comes in: roles and what each needs. Goes out: a connection, bundles, a placement group.
Called by ``team/``, ``search/``, ``frontier/``, ``pretraining/``, ``evaluation/`` and the commands.
"""

__all__ = ["cores", "doctor", "fitting", "head", "hosts", "placement", "session", "stop", "whole_runs"]
