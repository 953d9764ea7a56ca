"""Pages: what a run has shown, as one file that loads nothing else.

Comes in: run folders. Goes out: report.json and report.html.
Called by the commands; ``search/`` takes its charts and tables.
"""

__all__ = ["charts", "html", "report"]
