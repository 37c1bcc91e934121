"""Low-rank factors in 1, 2 or 4 bits, which are trained through their own rounding.

Legend: ``b`` bits, ``r`` rank, ``A [..., r, in]`` and ``B [..., out, r]`` the factors, with any leading axes of lanes.
A *direction* is a row of ``A`` or a column of ``B``. Its values are ``(q + 1/2) step`` for a whole number ``q`` in
``-2^(b-1) .. 2^(b-1) - 1``, and its ``step`` is in proportion to the mean magnitude of its latent values.
"""

from torch import Tensor
from torch.nn import functional as F

from pipeline.compress.latents import straight_through
from pipeline.compress.packing import pack, unpack

DIRECTION_AXIS = {"lora_A": -1, "lora_B": -2}
"""The axis along which a direction of each factor lies; leading axes are lanes."""
STEPS = {1: 2.0, 2: 1.2479, 4: 0.4201}
"""Steps of least squared error for normal values by bits, in mean magnitudes (Max, 1960); that of 1 bit is for any."""


def step_of(factor: Tensor, axis: int, bits: int) -> Tensor:
    """The step of each direction, ``[..., r]``."""
    return STEPS[bits] * factor.detach().abs().mean(axis)


def rounded_factor(factor: Tensor, step: Tensor, axis: int, bits: int) -> Tensor:
    """The values that a file gives back, with straight-through gradients to ``factor``; the step has none."""
    wide = step.detach().unsqueeze(axis)
    return straight_through(factor, (_codes(factor.detach(), wide, bits) + 0.5) * wide)


def _codes(factor: Tensor, step: Tensor, bits: int) -> Tensor:
    """``q`` in the factor's dtype; 0 where the step is 0, as all values are then."""
    used = (step != 0).to(factor)
    half = 1 << (bits - 1)
    return (factor * used / (step + 1 - used)).floor().clamp(-half, half - 1)


def pack_factor(factor: Tensor, step: Tensor, axis: int, bits: int) -> Tensor:
    """Packed codes ``[..., r, ceil(n b / 8)]`` of directions of ``n`` values, each padded to whole bytes."""
    codes = _codes(factor, step.unsqueeze(axis), bits) + (1 << (bits - 1))
    by_direction = codes if axis == -1 else codes.mT
    padded = F.pad(by_direction, (0, -by_direction.shape[-1] % (8 // bits)))
    packed = pack(padded.cpu().byte(), bits).view(*padded.shape[:-1], -1)
    return packed.to(factor.device)


def unpack_factor(packed: Tensor, step: Tensor, axis: int, bits: int, count: int) -> Tensor:
    """The factor of directions of ``count`` values from its packed codes, in the dtype of ``step``.

    Raises:
        RuntimeError: There are not as many packed codes.
    """
    codes = unpack(packed.cpu().flatten(), packed.numel() * 8 // bits, bits).to(step)
    by_direction = codes.view(*packed.shape[:-1], -1)[..., :count] - (1 << (bits - 1))
    values = (by_direction + 0.5) * step.unsqueeze(-1)
    return (values if axis == -1 else values.mT).contiguous()
