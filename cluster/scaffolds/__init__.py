"""Files that a user begins with: a method, a network, a data set or a recipe of one's own, each with its test.

Comes in: a kind, a name, a folder. Goes out: two commented files, and the commands that test and use them.
Called by the commands. What is written lies in ``templates/``, with $name and $Class where those of the user's stand.
"""

__all__ = ["new"]
