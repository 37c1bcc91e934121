"""``[[combination]]`` of a study file: one compression with one adapter, and the layers they apply to."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.config.candidates import Candidate, candidates
from pipeline.config.fields import Choices, Count, Slug
from pipeline.config.registry import ADAPTERS, COMPRESSIONS, Adapter, Compression
from pipeline.config.table import Config


class TargetSpec(Config):
    """Layers to compress and adapt: ``"layer1.*"``, or with options ``{match = "layer1.*", rank = 4}``."""

    match: str = Field(min_length=1)
    """A group (``head``, ``attention``, ``mlp``, ``linear``, ``conv``, ``all``), or a glob over layer names."""
    rank: Count | None = None
    """Rank of these layers in every cell, clipped to what each layer can take; if not given, the cell's rank."""
    compression: Annotated[Compression, COMPRESSIONS] | None = None
    """Compression of these layers; if not given, the combination's."""
    dense: bool = False
    """Whether these layers stay as they are: neither compressed nor adapted."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"match": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_one_option(self) -> Self:
        if self.dense and self.rank is not None:
            raise ValueError(f"a dense layer has no adapter, so no rank = {self.rank}; give one of the two")
        if self.dense and self.compression is not None:
            raise ValueError("a dense layer is not compressed, so it has no compression; give one of the two")
        return self

    @model_serializer(mode="wrap")
    def _as_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, object] | str:
        options = {key: value for key, value in handler(self).items() if value not in (None, False)}
        return options if len(options) > 1 else self.match

    def __str__(self) -> str:
        return self.match


class StorageSpec(Config):
    """How exported files hold tensors; trials are judged with the values that their file would hold."""

    small: Literal["float32", "float16"] = "float32"
    """Type of scales, levels, biases and norms; with ``float16``, one whose values leave its range is bfloat16."""
    coding: Literal["none", "rans"] = "none"
    """Whether codes, positions and the highest bytes of numbers are entropy-coded, by how frequent they are."""


PLAIN = StorageSpec()
"""The storage of a study that does not say another."""


class CombinationSpec(Config):
    """One compression with one adapter on the layers that match ``targets``. Each has an Optuna study of its own."""

    name: Slug
    """Name of the combination; its Optuna study is ``<study>/<name>``."""
    compression: Annotated[Compression, COMPRESSIONS]
    """The compression, with its options."""
    adapter: Annotated[Adapter, ADAPTERS]
    """The adapter, with its options."""
    targets: Choices[TargetSpec] = (TargetSpec(match="*"),)
    """Which Linear and Conv2d layers; the last entry that matches a layer applies to it."""
    qkv: Literal["fused", "split"] = "fused"
    """Whether query, key and value projections of attention are one layer, or three: ``qkv.q``, ``.k``, ``.v``."""
    batch_norm: Literal["kept", "reestimated", "folded"] = "kept"
    """Whether batch norms keep their statistics, measure them again on training images after compression, or become
    part of the layers before them, before compression."""
    storage: StorageSpec | None = None
    """How its exported files hold tensors; if not given, as ``[storage]`` of the study says."""
    _candidates: tuple[Candidate[Compression], ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _first_of_candidates(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "compression" not in value:
            return handler(value)
        first, found = candidates(COMPRESSIONS, value["compression"])
        spec = handler({**value, "compression": first})
        spec._candidates = found
        return spec

    @property
    def candidates(self) -> tuple[Candidate[Compression], ...]:
        """What the compression may be where options of it are "auto", ``compression`` first; none once it is chosen."""
        return self._candidates

    def having(self, compression: Compression) -> Self:
        """This combination with a compression that is chosen."""
        chosen = self.model_copy(update={"compression": compression})
        chosen._candidates = ()
        return chosen
