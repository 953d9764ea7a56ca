"""Trained models behind HTTP: a Ray Serve application of an ingress, a predictor and, for demonstrations, an attack.

    request --limits, token--> ingress --decoded arrays--> predictor (batches; polls, checks, warms, swaps versions)
                                       --one at a time---> attack (demo only; bounded steps and seconds)

Only ``app.py`` knows Ray: the rest runs under any ASGI server, with any backend that answers ``backend.Backend``.
"""
