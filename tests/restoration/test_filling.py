"""Pictures filled without a model."""

import torch
from torch.testing import assert_close

from ssdiff.restoration.filling import fill_smoothly, passed_on


def picture(*size):
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    return torch.stack([0.02 * y[:, None] - 0.01 * x, 0.03 * x.expand(size) - 0.5])[None]


def test_planes_are_continued_exactly_and_known_pixels_stay():
    x, known = picture(24, 30), torch.ones(24, 30)
    known[6:11, 10:17] = 0
    known[15, 5:9] = 0
    found = fill_smoothly(x * known, known)
    assert torch.equal(found[..., known > 0], x[..., known > 0])
    assert_close(found, x, atol=2e-3, rtol=0)


def test_the_energy_is_least():
    """Against the normal equations, solved as a whole."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 12, 13, dtype=torch.float64, generator=generator)
    known = (torch.rand(12, 13, generator=generator) < 0.6).double()
    identity = torch.eye(156, dtype=torch.float64).reshape(156, 1, 12, 13)
    wide = torch.nn.functional.pad(identity, (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
    laplacian = torch.nn.functional.conv2d(wide, kernel).flatten(1).mT
    energy, missing = laplacian.mT @ laplacian, (known == 0).flatten()
    right = -energy[missing][:, ~missing] @ x.flatten()[~missing]
    expected = torch.linalg.solve(energy[missing][:, missing], right)
    found = fill_smoothly(x * known, known).flatten()[missing]
    assert_close(found, expected, atol=2e-3, rtol=0)


def test_one_known_pixel_and_pictures_of_a_batch_by_themselves():
    single = torch.zeros(20, 33)
    single[3, 4] = 1
    assert_close(fill_smoothly(0.5 * single.expand(1, 1, 20, 33), single), torch.full((1, 1, 20, 33), 0.5))
    known = torch.ones(24, 30)
    known[4:9, 4:20] = 0
    both = torch.cat([picture(24, 30), 3 * picture(24, 30).flip(-1) ** 2])
    alone = torch.cat([fill_smoothly(one[None] * known, known) for one in both])
    assert_close(fill_smoothly(both * known, known), alone, atol=2e-3, rtol=0)


def test_corrections_are_passed_on_to_missing_pixels():
    known = (torch.rand(20, 24, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    known[8:20, 8:20] = 0
    change = torch.full((2, 3, 20, 24), 0.3, dtype=torch.float64) * known
    found = passed_on(change, known)
    assert torch.equal(found * known, change), "known pixels keep their own"
    assert float(found[..., 14, 14].abs().max()) < 1e-3, "far from all known ones nothing is known"
    near = (known == 0) & (torch.nn.functional.avg_pool2d(known[None, None], 3, 1, 1)[0, 0] > 0.5)
    assert (found[..., near] > 0.2).all() and (found[..., near] < 0.3).all()
    # as numbers: one known pixel, and its neighbour
    one = torch.zeros(9, 9, dtype=torch.float64)
    one[4, 4] = 1
    weight = torch.exp(torch.tensor(-1 / (2 * 0.6**2), dtype=torch.float64))
    assert_close(passed_on(one[None, None], one)[0, 0, 4, 5], weight / (weight + 0.1))
    # a process that is larger than the picture knows nothing beyond it
    wide = torch.nn.functional.pad(change, (0, 4, 0, 2))
    assert_close(passed_on(wide, known)[..., :20, :24], found)
