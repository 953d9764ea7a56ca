"""Files with which a run, a search or a service starts elsewhere: Kubernetes, Slurm, Docker Compose, a cluster of one's own machines.

Comes in: a command's words, a place, what that place has. Goes out: the files of this folder, filled in, and what to type next.
Called by the commands. The files are usable as they are; nothing of them stands in the code a second time.
"""

__all__ = ["again", "asked", "files"]
