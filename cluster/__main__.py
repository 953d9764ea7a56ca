"""``python -m sparring.cluster``: the same as the ``sparring`` command, from a clone or a Ray job's working directory."""

from sparring.cluster.commands.main import main

raise SystemExit(main())
