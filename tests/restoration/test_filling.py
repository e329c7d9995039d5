"""Pictures filled without a model."""

import torch
from torch.testing import assert_close

from ssdiff.restoration.filling import fill_smoothly


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
