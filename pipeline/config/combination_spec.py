"""``[[combination]]`` of a study file: one compression with one adapter, and the layers they apply to."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.config.candidates import Auto, candidates
from pipeline.config.fields import Choices, Count, Slug
from pipeline.config.registry import ADAPTERS, COMPRESSIONS, Adapter, Compression, Init
from pipeline.config.search_spec import SearchSpec
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
    _autos: tuple[Auto[Compression], ...] = PrivateAttr(())
    _init: Init | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _first_of_candidates(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict):
            return handler(value)
        table, autos = _first_candidates(value)
        spec = handler(table)
        spec._autos = autos
        return spec

    @property
    def autos(self) -> tuple[Auto[Compression], ...]:
        """The compressions with options that are "auto", of the combination and of ``targets``; none once chosen."""
        return self._autos

    def having(self, compressions: Sequence[Compression]) -> Self:
        """This combination with compressions that are chosen, one for each of ``autos``."""
        compression, targets = self.compression, list(self.targets)
        for auto, chosen in zip(self.autos, compressions, strict=True):
            if auto.entry is None:
                compression = chosen
            else:
                targets[auto.entry] = targets[auto.entry].model_copy(update={"compression": chosen})
        spec = self.model_copy(update={"compression": compression, "targets": tuple(targets)})
        spec._autos = ()
        return spec

    def starting(self, init: Init) -> Self:
        """This combination with the init that was chosen for it where ``search.inits`` is "auto"."""
        spec = self.model_copy()
        spec._init = init
        return spec

    def searched(self, search: SearchSpec) -> SearchSpec:
        """The study's search, with the init that was chosen for this combination."""
        return search if self._init is None else search.having(self._init)


def _first_candidates(table: dict[str, Any]) -> tuple[dict[str, Any], tuple[Auto[Compression], ...]]:
    """The table of a combination with defaults for "auto", and the tables of it that had "auto"."""
    first, autos = dict(table), list[Auto[Compression]]()

    def defaults(given: object, entry: int | None, of: str) -> object:
        config, found = candidates(COMPRESSIONS, given)
        if found:
            autos.append(Auto(entry, of, found))
        return config

    if "compression" in table:
        first["compression"] = defaults(table["compression"], None, "")
    if isinstance(entries := table.get("targets"), list | tuple):
        first["targets"] = [
            {**entry, "compression": defaults(entry["compression"], index, f" of {entry.get('match')}")}
            if isinstance(entry, dict) and "compression" in entry
            else entry
            for index, entry in enumerate(entries)
        ]
    return first, tuple(autos)
