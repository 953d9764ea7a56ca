"""One loader a node: processes decode and augment into memory that all agents of the node map.

    agent --want t, and what comes after--> host --rows of a step--> workers: decode, augment, write into a slot
    agent <--slot of t-- host                   agent: copy to the device --done--> the slot may be written again

The host is found by a name in the kernel that only its processes hold, and its memory has no name at all: whoever binds the name first
is the host, the next one takes over when it dies, and nothing is left of either, however it ends. What a slot holds is a function of
(work, step), so whoever makes it, and however often, makes the same.
"""
