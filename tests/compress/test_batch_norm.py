import pytest
import torch
from torch import nn

from pipeline.compress.layer_statistics import reestimate
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.errors import SpecError


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()


def test_statistics_become_the_mean_over_the_batches_of_what_each_norm_is_given():
    own, batches = model(), torch.randn(24, 2, 6, 6).split(8)
    given = [own[0](batch).transpose(0, 1).flatten(1) for batch in batches]
    reestimate(own, batches)
    torch.testing.assert_close(own[1].running_mean, torch.stack([x.mean(1) for x in given]).mean(0))
    torch.testing.assert_close(own[1].running_var, torch.stack([x.var(1) for x in given]).mean(0))
    assert own[4].running_mean.any()
    assert [norm.momentum for norm in (own[1], own[4])] == [0.1, 0.1]
    assert not any(module.training for module in own.modules())


def test_the_model_whose_memory_is_shared_keeps_its_statistics():
    own = model()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    reestimate(copy_sharing_tensors(own), torch.randn(8, 2, 6, 6).split(4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(SpecError, match='leave it "kept"'):
        reestimate(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), [torch.randn(2, 3)])
