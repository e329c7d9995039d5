"""A linear process of one's own: a camera that shakes more and more, with noise. Train, sample, restore."""

import torch

import ssdiff
from ssdiff.data.shapes import draw
from ssdiff.operators.base import Operator
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.linear import LinearProcess
from ssdiff.schedules import noise
from ssdiff.training.losses import gaussian_loss

SIZE, T = 16, 30


class Shake(Operator):
    """Move the camera: each pixel is a mean with its neighbour to the left, ``times`` times over."""

    def __init__(self, times):
        self.times = times

    def apply(self, x):
        """Return M x."""
        for _ in range(self.times):
            x = (x + x.roll(1, -1)) / 2
        return x

    def adjoint(self, y):
        """Return M^T y."""
        for _ in range(self.times):
            y = (y + y.roll(-1, -1)) / 2
        return y


shake = LinearDegradation((SIZE, SIZE), T, between=lambda s, t: Shake(t // 3 - s // 3))
process = LinearProcess(shake, noise.linear(T))


class Small(torch.nn.Module):
    """Predict the clean image."""

    def __init__(self, width=16):
        super().__init__()
        self.time = torch.nn.Embedding(T, width)
        self.head, self.tail = (
            torch.nn.Conv2d(3, width, 5, padding=2),
            torch.nn.Conv2d(width, 3, 5, padding=2),
        )

    def forward(self, x, index, resolution, labels=None):
        """Return (B, 3, 16, 16) of x_t and t - 1."""
        return self.tail(torch.nn.functional.silu(self.head(x) + self.time(index)[:, :, None, None]))


model = Small()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
images, _ = draw(256, SIZE)
for _ in range(60):
    x0 = images[torch.randint(len(images), (32,))].float() / 127.5 - 1
    loss = gaussian_loss(model, process, x0, torch.randint(1, T + 1, (32,)), torch.randn_like(x0)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

pipe = ssdiff.Pipeline(process, model.eval())
drawn = [pipe.sample(4, steps=10, sampler="ddim", eta=eta) for eta in (0.0, 0.5, 1.0)]
restored = pipe.restore(pipe.degrade(x0[:4], t=10), t=10)
print(f"loss {loss.item():.3f}; {len(drawn)} x {tuple(drawn[0].shape)} drawn, {len(restored)} restored")
