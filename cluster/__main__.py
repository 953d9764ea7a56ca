"""``python -m cluster``: the same as the ``sparring`` command, from a clone or a Ray job's working directory."""

from cluster.main import main

raise SystemExit(main())
