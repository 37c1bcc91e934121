import pytest
import torch
from torch import nn

from pipeline.compress.layer_statistics import calibration, reestimate, refuse_reestimation
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.errors import SpecError
from pipeline.task.parts import TensorPart


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()


def images(count: int) -> TensorPart:
    return TensorPart(torch.randn(count, 2, 6, 6), torch.arange(count) % 3)


def test_statistics_become_the_mean_over_the_batches_of_what_each_norm_is_given():
    own, part = model(), images(96)
    batches = [chosen for chosen, _ in calibration(part)]
    given = [own[0](batch).transpose(0, 1).flatten(1) for batch in batches]
    reestimate(own, part)
    torch.testing.assert_close(own[1].running_mean, torch.stack([x.mean(1) for x in given]).mean(0))
    torch.testing.assert_close(own[1].running_var, torch.stack([x.var(1) for x in given]).mean(0))
    assert own[4].running_mean.any()
    assert [norm.momentum for norm in (own[1], own[4])] == [0.1, 0.1]
    assert not any(module.training for module in own.modules())


def test_the_model_whose_memory_is_shared_keeps_its_statistics():
    own = model()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    reestimate(copy_sharing_tensors(own), images(8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(SpecError, match='leave it "kept"'):
        refuse_reestimation(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), images(4))
