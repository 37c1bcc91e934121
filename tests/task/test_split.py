import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.task_spec import SplitSpec
from pipeline.task.split import split


@given(
    count=st.integers(10, 200),
    val=st.floats(0.05, 0.5),
    test=st.floats(0.05, 0.5),
    seed=st.integers(0, 99),
)
def test_every_image_is_in_exactly_one_part_and_every_class_in_its_share(count, val, test, seed):
    labels = torch.randint(5, (count,), generator=torch.Generator().manual_seed(seed))
    parts = split(labels, SplitSpec(val=val, test=test, seed=seed), test=True)
    assert torch.cat([parts.train, parts.val, parts.test]).sort().values.tolist() == list(range(len(labels)))
    assert len(parts.test) == round(test * len(labels))
    assert len(parts.val) == round(val * (len(labels) - len(parts.test)))
    for label in labels.unique():
        share = len(parts.test) * (labels == label).sum() / len(labels)
        assert abs((labels[parts.test] == label).sum() - share) <= 1


def test_the_seed_decides_the_split_and_its_hash():
    labels = torch.arange(100) % 10
    one, again, other = (split(labels, SplitSpec(seed=seed), test=False) for seed in (1, 1, 2))
    assert one.test is None
    assert torch.equal(one.val, again.val)
    assert one.hash() == again.hash()
    assert one.hash() != other.hash()


def test_the_split_of_seed_0_stays_what_it_was():
    parts = split(torch.arange(20) % 2, SplitSpec(val=0.2, test=0.2), test=True)
    assert (parts.test.tolist(), parts.val.tolist()) == ([0, 1, 3, 16], [7, 12, 17])


def test_splitting_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    split(torch.arange(20) % 2, SplitSpec(), test=True)
    assert torch.equal(before, torch.get_rng_state())
