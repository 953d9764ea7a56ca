"""Who computes: a network with an optimiser, a role and a place in a method; its Ray wrapper; its folder on disk."""
