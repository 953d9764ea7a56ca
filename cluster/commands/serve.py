"""``sparring serve``: published models behind HTTP. The application is named, not imported: it belongs to another layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sparring.cluster.commands.output import Out, Output, answer, say
from sparring.cluster.errors import UsageError
from sparring.cluster.serving import options
from sparring.trainers import keeping


@dataclass(frozen=True)
class Serving:
    """Published models behind HTTP, with a page, until Ctrl-C."""

    models: Positional[tuple[str, ...]] = ()
    """NAME=NET: a published model (models/NAME, or one version of it), or any other network, such as RUN@AGENT or s3://bucket/models/NAME, as it is now."""
    models_dir: Path | None = None
    """Serve every model in this folder, new ones and new versions too; default models/ when none is named."""
    demo: bool = False
    """The page attacks images on the models; without models of your own, a robust and a plain one that come along."""
    host: str = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs a token."""
    port: int = 8000
    """Port to listen on."""
    grpc_port: int | None = None
    """Port of the Open Inference Protocol's gRPC service, on the same address; without one it is off."""
    token_file: Path | None = None
    """File with the bearer token that requests must carry; or set SPARRING_TOKEN."""
    predictors: int = 1
    """Replicas that take requests and answer them, at least; 0, with --max-predictors: none while nobody asks."""
    max_predictors: int | None = None
    """Replicas at most: another one where more than two batches wait for each."""
    idle: float = 60.0
    """Seconds of less load after which a replica above the least is given back."""
    gpus: float = 0.0
    """GPUs of a predictor; a fraction shares one."""
    threads: int = 1
    """CPU threads of a predictor."""
    batch: int = 16
    """Images that go through a model together, when so many wait."""
    timeout: float = 30.0
    """Seconds from a request's first byte to its answer, a predictor's replacement included; then 503."""
    host_by: Literal["ray", "local"] | None = None
    """ray: Ray Serve; local: one process without Ray. Default: Ray where several predictors, GPUs or a cluster are asked for."""
    address: str | None = None
    """Address of a running Ray cluster (host:port)."""
    yaml: Path | None = None
    """Write the configuration for 'serve deploy' and the RayService manifest to this file, and stop."""
    output: Out = field(default_factory=Output)


def serve(argv: list[str]) -> None:
    """Serve networks over HTTP, with a page: sparring serve [NAME=NET ...] [--demo]."""
    import tyro

    asked = tyro.cli(Serving, args=list(argv), prog="sparring serve")
    if asked.output.trust_code:
        raise UsageError(
            "serve never runs code of somebody else's; make it yours first: sparring publish NET --as NAME --trust-code ..."
        )
    chosen = {k: v for k, v in asdict(asked).items() if k in options.PASSED}
    if asked.grpc_port is not None:
        chosen["grpc_host"] = asked.host
    limits = {"seconds": asked.timeout}
    by = options.host_of(asked.host_by, chosen, address=asked.address)
    where = options.Where(asked.host, asked.port, address=asked.address, host_by=by)
    options.check({**chosen, "limits": limits}, where)  # before anything that takes long is imported
    from sparring.cluster.models import card
    from sparring.cluster.serving import models, service

    elsewhere = asked.address is not None or asked.yaml is not None
    settings = models.settings(
        asked.models,
        asked.models_dir,
        demo=asked.demo,
        token_file=asked.token_file,
        elsewhere=elsewhere,
        limits=limits,
        **chosen,
    )
    where = replace(where, names=models.names(settings, say=say(asked.output)))
    for line in keeping.changed(card.kept_code(settings.get("models", {}).values(), settings.get("models_dir"))):
        say(asked.output)(line)
    if asked.yaml is not None:
        asked.yaml.write_text(options.to_yaml(settings, where))
        answer(asked.output, {"config": str(asked.yaml)}, lambda r: print(f"{r['config']}: serve deploy {r['config']}"))
        return
    service.serve(settings, where, ready=lambda r: answer(asked.output, r, options.show), say=say(asked.output))
