"""The bases of a combination, each shared by cells, with what a teacher and augmentation add to their rows."""

import threading
from collections.abc import Callable
from functools import cached_property

import torch

from pipeline.cell import Cell
from pipeline.compress.layers import copy_sharing_tensors, on_device, real_parameter
from pipeline.errors import SpecError
from pipeline.objective.base import Base
from pipeline.objective.combination import Combination
from pipeline.space import cells
from pipeline.task.augmentations.contract import Augmenter, make_augmenter
from pipeline.task.contract import first_images
from pipeline.train.block_outputs import BlockOutputs, refuse_other_shapes
from pipeline.train.cache.feature_cache import FeatureCache, teacher_logits
from pipeline.train.loop import Recipe
from pipeline.train.rows import (
    HELD,
    AugmentedRows,
    ComputedRows,
    Inputs,
    Rows,
    Stem,
    TensorRows,
    image_rows,
    with_tensor,
)

BaseKey = tuple[Cell | None, frozenset[str]]
"""Identifies a base: the cell whose init moved it, or None; and the names of the layers that are adapted."""


class Bases:
    """Makes each base when it is first asked for, and shares it among all cells with the same key."""

    def __init__(self, combination: Combination, recipe: Recipe, features: FeatureCache) -> None:
        self.combination, self.recipe, self.features = combination, recipe, features
        self._bases: dict[BaseKey, Base] = {}
        self._logits: dict[str, torch.Tensor] = {}
        self._images: Rows | None = None
        self._lock = threading.RLock()

    def of(self, cell: Cell) -> Base:
        """The base that the trials of a cell adapt."""
        return self.at(self.key(cell))

    def key(self, cell: Cell) -> BaseKey:
        """Identifies the base of a cell; the lanes of a cohort have the same key."""
        return cell if self.combination.has_own_base(cell) else None, self.combination.adapted(cell.rank)

    @property
    def common(self) -> Base:
        """The base of the cells of the highest rank, except those whose init moves it."""
        return self.at((None, self.combination.adapted(max(self.combination.search.ranks))))

    @property
    def shared(self) -> list[Base]:
        """The bases of all cells except those whose init moves it; one for each set of adapted layers."""
        layer_sets = dict.fromkeys(map(self.combination.adapted, self.combination.search.ranks))
        return [self.at((None, layers)) for layers in layer_sets]

    def at(self, key: BaseKey) -> Base:
        (cell, layers), combination = key, self.combination
        with self._lock:
            if key not in self._bases:
                count = len({self.key(cell) for cell in cells(combination.search)} | {key})
                compressed = combination.compressed if cell is None else combination.with_moved_base(cell)
                self._bases[key] = Base(combination, compressed, layers, self.recipe, self.features, HELD // count)
            return self._bases[key]

    @cached_property
    def teacher(self) -> Stem | None:
        """The uncompressed model, if the loss learns from it."""
        model = self.combination.task.model
        if not self.recipe.loss.needs_teacher:
            return None
        return Stem(on_device(model, self.recipe.device), f"logits of {type(model).__qualname__}")

    @cached_property
    def lessons(self) -> Callable[[torch.Tensor], Inputs] | None:
        """What the teacher gives of images: logits, and the outputs of the loss's blocks; None without a teacher.

        Raises:
            SpecError: The loss compares modules that one of the two models lacks, or whose outputs differ in shape.
        """
        blocks = self.recipe.loss.blocks
        if self.teacher is None or not blocks:
            return self.teacher
        student = BlockOutputs(copy_sharing_tensors(self.common.compressed.model), blocks)
        teacher = BlockOutputs(copy_sharing_tensors(self.teacher.model), blocks)
        images = first_images(self.combination.task.train).to(self.recipe.device)
        refuse_other_shapes(blocks, teacher, student, images)
        return teacher

    def rows(self, base: Base, name: str) -> Rows:
        """What lanes on a base are fed with for a part; what the teacher gives comes last, if there is one."""
        if self.teacher is None:
            return base.rows(name)
        if self.recipe.loss.blocks:  # too large to keep
            return self._computed(base, image_rows(getattr(self.combination.task, name)))
        with self._lock:
            if name not in self._logits:
                part, device = getattr(self.combination.task, name), self.recipe.device
                cache = None if self.recipe.compute.cache == "off" else self.features
                self._logits[name] = teacher_logits(self.teacher, part, device, cache, base.feature_facts(name))
            return with_tensor(base.rows(name), self._logits[name])

    @cached_property
    def augmenter(self) -> Augmenter | None:
        """What augments the training images; None if the study asks for no augmentation, or trains nothing.

        Raises:
            SpecError: The images cannot be augmented, or the outputs of frozen layers are cached for them.
        """
        combination, chosen = self.combination, self.combination.search.augmentation
        if not chosen or not combination.adapter.trains:
            return None
        task = combination.task
        augmenter = make_augmenter(chosen, task.description.get("preprocessing"), first_images(task.train).shape[1:])
        for base in self.shared:
            if base.program.cut is not None and base.program.cut.stem is not None:
                raise SpecError(
                    f"search.augmentation ({', '.join(one.name for one in chosen)}) changes the images in every epoch, "
                    f"and the layers before the first target, which are frozen, run once, on the images as they are: "
                    f"leave augmentation out, or let the targets begin at the model's first layer, or set "
                    f'compute.cache = "off", with which every image takes the whole model in every epoch'
                )
        return augmenter

    @property
    def repeated(self) -> tuple[str, ...]:
        """The parts of a search whose rows are the same in every epoch."""
        if self.recipe.loss.blocks:
            return ()
        return ("train", "val") if self.augmenter is None else ("val",)

    def training_rows(self, base: Base, seed: int) -> Rows:
        """What lanes on a base train on in an epoch; ``seed``, of the order and the epoch, is that of augmentation."""
        if self.augmenter is None:
            return self.rows(base, "train")
        with self._lock:
            if self._images is None:
                images, device = image_rows(self.combination.task.train), self.recipe.device
                on_cpu = torch.device(device).type == "cpu"
                self._images = images.to(device) if isinstance(images, TensorRows) and not on_cpu else images
        return self.augmented(base, self._images, seed)

    def augmented(self, base: Base, images: Rows, seed: int) -> Rows:
        """What lanes on a base are fed with for rows of images, augmented; the teacher sees the same images."""
        if self.augmenter is None:
            raise ValueError("the study asks for no augmentation")
        return self._computed(base, AugmentedRows(images, self.augmenter, seed, self.recipe.device))

    def _computed(self, base: Base, images: Rows) -> Rows:
        """What lanes on a base are fed with for rows of images, computed batch by batch."""
        program, lessons, recipe = base.program, self.lessons, self.recipe
        like = real_parameter(program.model)

        def inputs(images: torch.Tensor) -> Inputs:
            images = recipe.laid_out(images.to(like))
            with recipe.autocast():
                return (*program.inputs(images), *(lessons(images) if lessons else ()))

        return ComputedRows(images, inputs)

    def release(self) -> None:
        """Free the rows that are held in memory; the next use reads them from the cache again."""
        with self._lock:
            self._images = None
            self._logits.clear()
            for base in self._bases.values():
                base.release()
