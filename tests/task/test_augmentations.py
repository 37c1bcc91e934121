"""Augmentations of images: what they change, and what they follow from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from pipeline.config.registry import AUGMENTATIONS
from pipeline.errors import SpecError
from pipeline.task.augmentations.contract import Augmentation, make_augmenter
from pipeline.task.augmentations.crop import Crop
from pipeline.task.augmentations.flip import Flip
from pipeline.task.augmentations.randaugment import RandAugment
from pipeline.task.augmentations.shift import Shift

MNIST = {"mean": [0.1307], "std": [0.3081]}
COLOURS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def pixels(n: int, *shape: int) -> torch.Tensor:
    """Random pixels in 0..1 that are whole multiples of 1 / 255."""
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0)) / 255


def normalised(images: torch.Tensor, facts: dict[str, list[float]]) -> torch.Tensor:
    mean, std = (torch.tensor(facts[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


@pytest.mark.parametrize("kind", list(AUGMENTATIONS), ids=lambda kind: kind.name)
@pytest.mark.parametrize(("shape", "facts"), [((1, 12, 10), MNIST), ((3, 9, 9), COLOURS)], ids=["grey", "colour"])
def test_a_batch_follows_from_its_images_and_its_seed(kind, shape, facts):
    images, augmenter = normalised(pixels(40, *shape), facts), make_augmenter([kind()], facts, shape)
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = augmenter(images, 1), augmenter(images, 1), augmenter(images, 2)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert augmenter(images.double(), 1).dtype == torch.float64
    changes = {i for i in range(40) if not torch.equal(first[i], images[i])}
    assert len(changes) > 10  # each image in a way of its own


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(0, 99))
def test_a_shifted_image_is_a_window_of_the_image_on_black(most, height, width, channels, seed):
    facts = {"mean": [0.3] * channels, "std": [0.5] * channels}
    images = normalised(pixels(6, channels, height, width), facts)
    shifted = make_augmenter([Shift(pixels=most)], facts, (channels, height, width))(images, seed)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(2 * most + 1, (2, 6), generator=generator)
    for image, result, (y, x) in zip(images, shifted, offsets.T.tolist(), strict=True):
        canvas = torch.full((channels, height + 2 * most, width + 2 * most), -0.3 / 0.5)
        canvas[:, most : most + height, most : most + width] = image
        torch.testing.assert_close(result, canvas[:, y : y + height, x : x + width], rtol=0, atol=1e-6)


def test_a_crop_is_a_shift_on_black_or_mirrors_the_image_at_its_edge():
    images = normalised(pixels(20, 3, 8, 8), COLOURS)
    crop, shift, mirrored = (
        make_augmenter([one], COLOURS, (3, 8, 8))(images, 5)
        for one in (Crop(padding=2), Shift(pixels=2), Crop(padding=2, edge="reflect"))
    )
    assert torch.equal(crop, shift)
    assert not torch.equal(crop, mirrored)
    assert set(mirrored.flatten().tolist()) <= set(images.flatten().tolist())


def test_images_in_channels_last_order_are_moved_as_others():
    images = torch.rand(4, 3, 6, 5)
    for edge in ("black", "reflect"):
        crop = make_augmenter([Crop(padding=1, edge=edge)], {"mean": [0.5], "std": [0.5]}, (3, 6, 5))
        assert torch.equal(crop(images.contiguous(memory_format=torch.channels_last), 0), crop(images, 0))


def test_a_flip_mirrors_about_half_of_the_images():
    images = pixels(200, 1, 4, 5)
    flipped = make_augmenter([Flip()], None, (1, 4, 5))(images, 0)
    mirrored = [torch.equal(result, image.flip(2)) for image, result in zip(images, flipped, strict=True)]
    same = [torch.equal(result, image) for image, result in zip(images, flipped, strict=True)]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("magnitude", [5, 9, 30])
def test_the_operations_of_randaugment_are_those_of_torchvision(magnitude):
    image = pixels(1, 3, 11, 11)
    augmenter = make_augmenter([RandAugment(operations=1, magnitude=magnitude)], COLOURS, (3, 11, 11))
    ours = augmenter.scaling.pixels(augmenter(normalised(image, COLOURS).expand(600, -1, -1, -1), 0))
    reference = v2.RandAugment(num_ops=1, magnitude=magnitude)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([reference((image[0] * 255).round().to(torch.uint8)) for _ in range(600)])
    found, expected = (ours * 255).round().flatten(1).unique(dim=0), theirs.float().flatten(1).unique(dim=0)
    apart = torch.cdist(found, expected, p=float("inf"))  # a factor in float32 may round to the next grey level
    assert apart.min(0).values.max() <= 1
    assert apart.min(1).values.max() <= 1


def test_several_are_applied_in_their_order():
    images, shape = normalised(pixels(30, 1, 6, 6), MNIST), (1, 6, 6)
    both = make_augmenter([Flip(), Shift(pixels=1)], MNIST, shape)(images, 3)
    generator = torch.Generator().manual_seed(3)
    scaling = make_augmenter([Shift()], MNIST, shape).scaling
    one = Flip().augmented(images, scaling, generator)
    assert torch.equal(both, Shift(pixels=1).augmented(one, scaling, generator))


class Halved(Augmentation):
    """Halves every image."""

    def augmented(self, images, scaling, generator):
        return images[:, :, ::2]


Halved.name = "halved"


@pytest.mark.parametrize(
    ("augmentations", "facts", "shape", "said"),
    [
        ([Shift()], None, (1, 8, 8), "which value is black"),
        ([Flip(), Crop()], {"mean": [0.1, 0.2], "std": [1.0]}, (3, 8, 8), r"augmentation \(crop\) needs"),
        ([Shift()], {"mean": None, "std": 1.0}, (1, 8, 8), r"mean = None and std = 1.0; give"),
        ([Shift()], {"mean": ["0.5"], "std": [1.0]}, (1, 8, 8), r"mean = \['0.5'\] and std = "),
        ([Shift()], {"mean": 0.5, "std": [1.0, 0.0]}, (2, 8, 8), "those of std above 0"),
        ([Flip()], MNIST, (16,), r"the inputs of this task are \[16\]"),
        ([Crop(padding=8, edge="reflect")], MNIST, (1, 8, 8), "'crop' cannot take images of 1 x 8 x 8"),
        ([RandAugment()], {"mean": [0.0], "std": [1.0]}, (4, 8, 8), "they have 4 channels"),
        ([Halved()], MNIST, (1, 8, 8), r"makes \[1, 4, 8\] of images \[1, 8, 8\]"),
    ],
)
def test_images_that_cannot_be_augmented_are_refused(augmentations, facts, shape, said):
    with pytest.raises(SpecError, match=said):
        make_augmenter(augmentations, facts, shape)
