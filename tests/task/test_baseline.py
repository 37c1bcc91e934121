"""How a baseline is trained: as a plain loop by default, on augmented images, and to its best epoch."""

import pytest
import torch
from tiny_data import write_images
from tiny_studies import count_correct

from pipeline.config.task_spec import BaselineSpec, TaskSpec
from pipeline.errors import SpecError
from pipeline.task.baseline import baseline_epochs, try_baseline
from pipeline.task.opened_task import OpenedTask
from pipeline.task.prepare import prepare

PLAIN = {"epochs": 3, "lr": 1e-2, "batch_size": 7}


@pytest.fixture
def open_task(tmp_path):
    """Opens the task of a baseline; it holds random images, which a model does not learn at once."""
    write_images(tmp_path / "images", 12, classes=dict.fromkeys(("a", "b", "c"), (120, 120, 120)))

    def opened(**baseline: object) -> OpenedTask:
        model = {"source": "mlp", "widths": [192, 16, 3], "mean": [0.5], "std": [0.25]}
        data = {"source": "image-folder", "root": str(tmp_path / "images")}
        split = {"val": 0.4, "test": 0.2}
        return OpenedTask(
            TaskSpec.model_validate({"model": model, "data": data, "split": split, "baseline": {**PLAIN, **baseline}})
        )

    return opened


def plain_loop(opened: OpenedTask, optimizer: torch.optim.Optimizer, rates: list[float] | None = None) -> torch.Tensor:
    """The weight of the first layer after the epochs of ``PLAIN``, trained by a loop that is written out."""
    images, labels = next(opened.parts["train"].batches(100))
    order, step = torch.Generator().manual_seed(0), 0
    for _ in range(3):
        for indices in torch.randperm(len(images), generator=order).split(7):
            if rates:
                optimizer.param_groups[0]["lr"] = rates[step]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(opened.model(images[indices]), labels[indices]).backward()
            optimizer.step()
            step += 1
    return opened.model.fc1.weight.detach()


def test_without_options_it_is_a_plain_loop_and_is_described_as_before_there_were_any(open_task):
    opened = open_task()
    expected = plain_loop(opened, torch.optim.Adam(opened.model.parameters(), lr=1e-2))
    assert torch.equal(prepare(open_task()).model.fc1.weight, expected)
    assert opened.description["baseline"] == {**PLAIN, "optimizer": "adam"}
    spelt = {"schedule": "constant", "weight_decay": None, "augmentation": [], "keep": "last"}
    assert open_task(**spelt).baseline_file == open_task().baseline_file
    assert open_task(schedule="cosine").baseline_file != open_task().baseline_file


def test_the_rate_follows_its_schedule_and_weights_decay(open_task):
    opened = open_task()
    steps = 3 * -(-len(opened.parts["train"]) // 7)
    rates = [1e-2 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()) for step in range(steps)]
    optimizer = torch.optim.AdamW(opened.model.parameters(), lr=1e-2, weight_decay=0.3)
    expected = plain_loop(opened, optimizer, rates)
    trained = prepare(open_task(optimizer="adamw", schedule="cosine", weight_decay=0.3)).model.fc1.weight
    torch.testing.assert_close(trained, expected)


def test_its_images_are_augmented_by_seed(open_task):
    chosen = [{"method": "shift", "pixels": 1}, "flip"]

    def first_layer(**baseline: object) -> torch.Tensor:
        *_, model = baseline_epochs(open_task(**baseline))
        return model.fc1.weight.detach().clone()

    assert "one batch tried" in try_baseline(open_task(augmentation=chosen))
    augmented = first_layer(augmentation=chosen)
    assert torch.equal(augmented, first_layer(augmentation=chosen))
    assert not torch.equal(augmented, first_layer())


def test_its_best_epoch_on_the_validation_part_is_kept(open_task, said):
    options = {"epochs": 12, "lr": 3e-2, "keep": "best"}
    opened = open_task(**options)
    val, seen = opened.parts["val"], list[tuple[int, torch.Tensor]]()
    for model in baseline_epochs(opened):
        assert model.training
        seen.append((count_correct(model, val), model.fc1.weight.detach().clone()))
    counts = [count for count, _ in seen[1:]]
    best = counts.index(max(counts))
    assert best < 11, "the last epoch is the best one, which shows nothing"
    kept = prepare(open_task(**options)).model
    assert torch.equal(kept.fc1.weight, seen[1 + best][1])
    assert torch.equal(opened.model.fc1.weight, kept.fc1.weight)
    assert count_correct(kept, val) == max(counts)
    assert any(f"epoch {best + 1} is kept" in line for line in said)
    assert any(f"validation accuracy {max(counts) / len(val):.4f}" in line for line in said)


def test_images_that_an_augmentation_cannot_take_are_refused_before_the_training(open_task):
    with pytest.raises(SpecError, match="'crop' cannot take images of 3 x 8 x 8"):
        try_baseline(open_task(augmentation=[{"method": "crop", "padding": 8, "edge": "reflect"}]))


@pytest.mark.parametrize("options", [{"keep": "first"}, {"schedule": "cosin"}, {"weight_decay": -1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        BaselineSpec.model_validate({**PLAIN, **options})
