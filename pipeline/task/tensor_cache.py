"""Files of cached tensors, named by the hash of everything that they depend on, and verified when they are read."""

import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.hashes import fingerprint, hash_tensors
from pipeline.paths import write_whole

logger = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file that ``write_tensors`` wrote; ``None`` if there is none, or it is damaged, which is logged.

    A file is damaged too if its tensors changed, or were written under another name.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as error:
        logger.warning(f"{path} is damaged ({error}); it is made again")
        return None
    if (found := _hash(path.stem, tensors)) == expected:
        return tensors
    logger.warning(f"{path} is damaged (its sha256 is {found}, expected {expected}); it is made again")
    return None


def restore_state(model: nn.Module, tensors: Mapping[str, object]) -> None:
    """Load stored entries of a model's state dict; the others stay as they are.

    Files of tensors lose the ``_metadata`` of a state dict, without which some architectures refuse their own entries;
    it is that of the model as it is built here.
    """
    state = model.state_dict()
    state.update(tensors)
    model.load_state_dict(state)


def write_tensors(path: Path, state: Mapping[str, object]) -> None:
    """Write the tensors of a state to ``<key>.safetensors`` with a hash of the key and the tensors."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    # Cloned, because safetensors refuses entries that share memory.
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"sha256": _hash(path.stem, copies)}
    size = sum(tensor.nbytes for tensor in copies.values())
    write_whole(path, lambda temporary: save_file(copies, temporary, metadata=metadata), size)


def _hash(key: str, tensors: Mapping[str, Tensor]) -> str:
    return fingerprint([key, hash_tensors((name, tensors[name]) for name in sorted(tensors))])
