"""What an operator chooses. The application's builder takes exactly these as arguments, from YAML too."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sparring.serve.tokens import TOKEN

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


class Limits(BaseModel):
    """What a request may ask for; more is refused before it costs memory or time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(default=8 * 2**20, ge=1024, description="Bytes of a request's body.")
    header_bytes: int = Field(default=64 * 2**10, ge=1024, description="Bytes of a request's headers.")
    images: int = Field(default=64, ge=1, description="Images of one :infer request.")
    pixels: int = Field(
        default=16 * 2**20, ge=1024, description="Pixels of an uploaded image before it is scaled down."
    )
    seconds: float = Field(default=30.0, gt=0, description="From the first byte of a request to its answer.")
    body_seconds: float = Field(default=10.0, gt=0, description="For the body to arrive.")
    queue: int = Field(
        default=128, ge=1, description="Requests that wait for a predictor; more get 503 with Retry-After."
    )
    retry_after: int = Field(default=1, ge=1, description="Seconds that such a client is asked to wait.")
    attack_steps: int = Field(default=20, ge=1, description="PGD steps of an attack.")
    attack_seconds: float = Field(default=5.0, gt=0, description="Time of an attack; it ends with what it has.")


class Settings(BaseModel):
    """Arguments of ``sparring.serve.app:app``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, str] = Field(default={}, description="Served name -> folder of a published model.")
    models_dir: str | None = Field(default=None, description="Folder whose models are all served, new ones too.")
    demo: bool = Field(default=False, description="Allow attacks on the served models, for the page.")
    token_file: str | None = Field(
        default=None, description=f"File with the bearer token; else {TOKEN}; none: no token."
    )
    predictors: int = Field(default=1, ge=0, description="Replicas at least; 0: none while nobody asks.")
    max_predictors: int | None = Field(
        default=None, description="Replicas at most, by load; default as many as at least."
    )
    idle: float = Field(
        default=60.0, gt=0, description="Seconds of less load after which a replica above the least is given back."
    )
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a predictor.")
    threads: int = Field(default=1, ge=1, description="CPU threads of a predictor.")
    batch: int = Field(default=16, ge=1, description="Requests that a predictor answers together, when so many wait.")
    grpc_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the gRPC service; none: it is off."
    )
    grpc_host: str = Field(default="127.0.0.1", description="Address of the gRPC service.")
    poll: float = Field(default=2.0, gt=0, description="Seconds between looks for new versions.")
    own_code: list[str] = Field(
        default=[],
        description="sha256 of Python files that models bring and that may run, known or not on a replica's machine.",
    )
    limits: Limits = Limits()

    @field_validator("models")
    @classmethod
    def _names(cls, models: dict[str, str]) -> dict[str, str]:
        import re

        for name in models:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"model name {name!r} is not allowed; expected {NAME}")
        return models

    @model_validator(mode="after")
    def _replicas(self) -> Settings:
        if self.predictors == 0 and not self.max_predictors:
            raise ValueError("predictors = 0 needs max_predictors: how many there may be once somebody asks")
        if self.predictors == 0 and self.grpc_port is not None:
            raise ValueError("predictors = 0 and grpc_port: nobody listens there while there is no replica")
        if self.max_predictors is not None and self.max_predictors < self.predictors:
            raise ValueError(f"max_predictors = {self.max_predictors} is below predictors = {self.predictors}")
        return self

    def folders(self) -> dict[str, Path]:
        """Served name -> folder, as found now.

        Raises:
            OSError: ``models_dir`` cannot be read now.
        """
        found = {}
        if self.models_dir is not None:
            found = {p.name: p for p in sorted(Path(self.models_dir).iterdir()) if p.is_dir()}
        return found | {name: Path(p) for name, p in self.models.items()}
