"""Sparsity: a share of all weights, 1 of 16 in tiles, or N:M (Mishra et al., 2021, arXiv:2104.08378)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.few_bits import CLIP, FewBits, Grid, MagnitudeGrid
from pipeline.compress.latents import Codes, clipped, straight_through
from pipeline.compress.packing import Packing, pack, unpack
from pipeline.compress.rounding import Rounding, rounded
from pipeline.compress.sparse_rounding import SparseGrid
from pipeline.compress.sparsity import Blocks, Pattern, Share, at_positions, latent_of
from pipeline.compress.weight import CompressedWeight, MatrixWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class SparseWeight(MatrixWeight):
    """The kept values, zero elsewhere, and their positions ``kept``, bool ``[out, in]``."""

    kept: Tensor
    pattern: Pattern

    @property
    def macs(self) -> int:
        return int(self.kept.sum())

    @property
    def packings(self) -> Mapping[str, Packing]:
        return self.pattern.packings(self.shape)

    @property
    def codable_form(self) -> "SparseWeight":
        return replace(self, pattern=self.pattern.codable)

    def to_tensors(self) -> dict[str, Tensor]:
        if self.weight.is_meta:  # only the shape is known, which decides how many weights are kept
            values = self.weight.new_empty(self.pattern.count(self.shape))
        else:
            values = self.weight[self.kept]
        return {**self.pattern.to_tensors(self.kept), "value": values.float()}

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        latent = latent_of(self.weight.where(self.kept, weight), self.kept, largest(weight, self.pattern))
        return {"latent": latent, "kept": self.pattern.positions(self.kept.to(latent))}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The kept latents; all latents get gradients, so that others can become larger than those."""
        return straight_through(tensors["latent"], self.middles(tensors)["latent"])

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        return {}

    def middles(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The kept latents, and zeros."""
        latent, kept = tensors["latent"].detach(), tensors["kept"]
        return {"latent": at_positions(latent.flatten().index_select(0, kept), kept, latent)}

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"kept": self.pattern.positions(tensors["latent"].abs())}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "SparseWeight":
        return SparseWeight(self.project(tensors).detach(), mask_of(tensors), self.pattern)

    @property
    def stored_codes(self) -> dict[str, Tensor]:
        return {"kept": self.kept}


def largest(weight: Tensor, pattern: Pattern) -> Tensor:
    """Which weights the pattern keeps for their magnitudes, bool ``[out, in]``."""
    return mask_of({"kept": pattern.positions(weight.abs()), "latent": weight})


def mask_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """The positions ``kept [K]`` as a mask, bool ``[out, in]``."""
    return at_positions(torch.ones_like(tensors["kept"], dtype=torch.bool), tensors["kept"], tensors["latent"])


@dataclass(frozen=True)
class SparseCodeWeight(CompressedWeight):
    """Kept values in few bits: the points of ``code`` on a grid, zero elsewhere."""

    code: Tensor  # uint8 [out, in], 0 where nothing is kept
    parameters: Mapping[str, Tensor]  # of the grid
    kept: Tensor  # bool [out, in]
    pattern: Pattern
    grid: Grid

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.kept.shape[0], self.kept.shape[1]

    def dense(self) -> Tensor:
        points = self.grid.points(self.code, self.parameters)
        return points * self.kept.to(points.dtype)

    @property
    def macs(self) -> int:
        return int(self.kept.sum())

    @property
    def packings(self) -> Mapping[str, Packing]:
        return {**self.pattern.packings(self.shape), "code": Packing(self.grid.width)}

    @property
    def codable_form(self) -> "SparseCodeWeight":
        return replace(self, pattern=self.pattern.codable)

    def to_tensors(self) -> dict[str, Tensor]:
        """The codes of the kept values are in row-major order."""
        codes = self.code.new_empty(self.pattern.count(self.shape)) if self.code.is_meta else self.code[self.kept]
        parameters = {name: tensor.float() for name, tensor in self.parameters.items()}
        return {**self.pattern.to_tensors(self.kept), "code": pack(codes, self.grid.width), **parameters}

    def scaled_rows(self, gain: Tensor) -> Self:
        if not isinstance(self.grid, MagnitudeGrid) or not self.grid.by_row:
            raise ValueError(
                "the kept values share one grid, and a gain per row needs one for each row; give values = { bits = "
                '..., scale = "row" }'
            )
        scaled = {name: tensor * gain.to(tensor)[:, None] for name, tensor in self.parameters.items()}
        return replace(self, parameters=scaled)

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        by_size = largest(weight, self.pattern)
        chosen = self.kept & (~by_size | (self.grid.nearest(weight, self.parameters) != self.code))
        latent = weight.where(~chosen, self.dense())
        most = CLIP * self.grid.largest(self.parameters)
        latent = latent_of(clipped(latent, most), self.kept, by_size)
        return {"latent": latent, "kept": self.pattern.positions(self.kept.to(latent)), **self.parameters}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The points of the kept latents; all latents get gradients, so that others can become larger than those."""
        return self.grid.rounded(tensors)

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        """Codes are those of the grid and 1, and 0 where nothing is kept."""
        latent, kept = tensors["latent"], tensors["kept"]
        code = self.grid.nearest_kept(tensors)
        middle = self.grid.points(code, self.grid.at(kept, latent.shape[1], tensors))
        return {"latent": (at_positions((code + 1).to(torch.int16), kept, latent), at_positions(middle, kept, latent))}

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        most = CLIP * self.grid.largest(tensors)
        latent = clipped(tensors["latent"], most)
        return {"latent": latent, "kept": self.pattern.positions(latent.abs())}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "SparseCodeWeight":
        code = at_positions(self.grid.nearest_kept(tensors).to(torch.uint8), tensors["kept"], tensors["latent"])
        parameters = {name: tensors[name] for name in self.grid.names}
        return SparseCodeWeight(code, parameters, mask_of(tensors), self.pattern, self.grid)


def refit_kept(weight: Tensor, kept: Tensor, stats: LayerStats) -> Tensor:
    """The kept weights with the least squared error of the layer's outputs, ``[out, in]``.

    Per row with kept positions S: ``w_S = C_SS^-1 C_S: w``.
    """
    projected = stats.times_moment(weight.double())
    fitted = torch.zeros_like(weight)
    for row, mask in enumerate(kept):
        support = mask.nonzero().flatten()
        factor = torch.linalg.cholesky(stats.submoment(support))
        fitted[row, support] = torch.cholesky_solve(projected[row, support, None], factor)[:, 0].to(weight)
    return fitted


@COMPRESSIONS.register("sparse")
class Sparse(LayerCompression):
    """A few weights of each layer or block, by default 1 of 16, in 4x4 tiles with a 4-bit index."""

    later = frozenset({"keep", "rounding", "values"})

    block: Annotated[str, AfterValidator(lambda text: Blocks.parse(text) and text)] = "4x4"
    """A tile of which one weight is kept ("4x4", "1x16", "3x3"), or N of M along a row ("2:4")."""
    keep: float | None = Field(None, gt=0, lt=1)
    """The share of a layer's weights that is kept, wherever they stand; takes the place of ``block``."""
    score: Literal["abs", "max", "activation"] = "abs"
    """What is kept: the largest ``|w|``, the largest signed ``w`` (as in the published code), or the largest
    ``|w_ij| sqrt(C_jj)``."""
    refit: bool = False
    """Fit the kept weights of each row to the layer's outputs by least squares."""
    values: FewBits | None = None
    """How kept values are stored: ``{ bits = 3 }`` or ``{ levels = 6 }``; if not given, in float32."""

    rounding: Rounding = "nearest"
    """What is kept by ``score``, rounded to the nearest value; or both chosen for the least change of the outputs."""

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if self.keep is not None and self.block != "4x4":
            raise ValueError(
                f'keep = {self.keep} and block = "{self.block}" each say what is kept; give one of the two'
            )
        return self

    @property
    def needs_statistics(self) -> bool:
        by_inputs = self.refit or self.score == "activation" or self.rounding != "nearest"
        return super().needs_statistics or by_inputs

    @property
    def pattern(self) -> Pattern:
        """How many weights are kept of which."""
        return Blocks.parse(self.block) if self.keep is None else Share(self.keep)

    def compress(self, weight: Tensor, stats: LayerStats | None) -> SparseWeight | SparseCodeWeight:
        pattern = self.pattern
        scores = weight if self.score == "max" else weight.abs()
        if self.score == "activation" and stats is not None:
            scores = scores * stats.diagonal.sqrt()
        kept = pattern.kept(scores)
        values = refit_kept(weight, kept, stats) if self.refit and stats is not None else weight.where(kept, 0)
        grid = None if self.values is None else self.values.grid
        parameters: Mapping[str, Tensor] | None = None if grid is None else grid.fit(values, kept)
        if self.rounding != "nearest" and stats is not None:
            values, kept, parameters = self._rounded(weight, values, kept, parameters, stats, self.rounding)
        if grid is None or parameters is None:
            return SparseWeight(values, kept, pattern)
        code = grid.nearest(values, parameters) * kept
        return SparseCodeWeight(code.to(torch.uint8), parameters, kept, pattern, grid)

    def _rounded(
        self,
        weight: Tensor,
        values: Tensor,
        kept: Tensor,
        parameters: Mapping[str, Tensor] | None,
        stats: LayerStats,
        rounding: Literal["gptq", "coordinate"],
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor] | None]:
        """Values, positions and the grid's parameters, from those of nearest rounding."""
        start = self.pattern.kept(weight.abs() * (stats.diagonal + stats.ridge).sqrt())
        double = None if parameters is None else {name: tensor.double() for name, tensor in parameters.items()}
        grid = SparseGrid(self.pattern, start, kept, None if self.values is None else self.values.grid, double)
        grid, found = rounded(weight, grid, grid.points(values.double()) * kept, stats, rounding)
        if self.refit and self.values is None:
            found = refit_kept(weight, grid.kept, stats)
        fitted = None if grid.parameters is None else {k: t.to(weight.dtype) for k, t in grid.parameters.items()}
        return found.to(weight.dtype), grid.kept, fitted

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> SparseWeight | SparseCodeWeight:
        pattern = self.pattern.of(tensors)
        kept = pattern.from_tensors(tensors, shape)
        if self.values is None:
            values = tensors["value"].new_zeros(shape).masked_scatter(kept, tensors["value"])
            return SparseWeight(values, kept, pattern)
        grid = self.values.grid
        codes = unpack(tensors["code"], pattern.count(shape), grid.width, torch.uint8)
        code = codes.new_zeros(shape).masked_scatter(kept, codes)
        return SparseCodeWeight(code, {name: tensors[name] for name in grid.names}, kept, pattern, grid)
