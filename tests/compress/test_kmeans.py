import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.kmeans import kmeans, nearest_centroids


def error(points, centroids, weights):
    nearest = nearest_centroids(points, centroids, weights)
    return float((weights * (points - centroids[nearest]).square()).sum())


@settings(max_examples=40)
@given(n=st.integers(1, 60), d=st.integers(1, 9), k=st.integers(2, 20), seed=st.integers(0, 999))
def test_centroids_are_finite_the_same_each_time_and_the_means_of_their_members(n, d, k, seed):
    generator = torch.Generator().manual_seed(seed)
    points, weights = torch.randn(n, d, generator=generator), torch.rand(n, d, generator=generator) + 0.1
    centroids = kmeans(points, k, weights)
    assert centroids.shape == (k, d)
    assert centroids.isfinite().all()
    assert torch.equal(centroids, kmeans(points, k, weights))
    assert torch.equal(centroids[:, 0], centroids[:, 0].sort().values)
    nearest = nearest_centroids(points, centroids, weights)
    for code in nearest.unique():
        mine = nearest == code
        mean = (weights[mine] * points[mine]).sum(0) / weights[mine].sum(0)
        torch.testing.assert_close(centroids[code], mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("d", [1, 3])
def test_separate_clusters_are_found(d):
    centres = 100 * torch.arange(5.0)[:, None].expand(5, d)
    points = centres[torch.arange(200) % 5] + torch.randn(200, d)
    centroids = kmeans(points, 5, torch.ones_like(points))
    assert ((centroids - centres).abs() < 2).all()


def test_normal_values_on_four_levels_err_as_the_quantiser_of_lloyd_and_max_does():
    points = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    assert error(points, kmeans(points, 4, torch.ones_like(points)), torch.ones_like(points)) / 1e5 == pytest.approx(
        0.1175, abs=0.002
    )


def test_weights_draw_centroids_to_what_matters():
    points = torch.randn(2000, 1)
    heavy = torch.where(points > 0, 100.0, 0.01)
    plain, weighted = (kmeans(points, 8, m) for m in (torch.ones_like(points), heavy))
    assert error(points, weighted, heavy) < 0.6 * error(points, plain, heavy)


def test_points_without_any_weight_and_fewer_points_than_centroids_give_finite_centroids():
    for d in (1, 4):
        points = torch.randn(5, d)
        assert kmeans(points, 3, torch.zeros_like(points)).isfinite().all()
        assert error(points, kmeans(points, 9, torch.ones_like(points)), torch.ones_like(points)) < 1e-6


def test_of_centroids_that_are_equally_near_the_first_is_taken():
    points = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    centroids = torch.tensor([[9.0, 9.0], [0.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    assert nearest_centroids(points, centroids).tolist() == [1, 1]
