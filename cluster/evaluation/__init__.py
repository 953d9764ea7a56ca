"""How robust trained networks are: attacks by name, block by block, here or on workers, with witnesses that can be checked.

Comes in: a ``Target`` and what is ``Asked``. Goes out: ``Result``, report.json, a verdict.
Called by the commands, ``reports/``, ``pretraining/`` and the Python API.
"""

__all__ = ["analysis", "certify", "direct", "evaluation", "results", "subjects"]
