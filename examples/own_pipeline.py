"""An own network, trained by hand and sampled without a preset: ssdiff gives process and samplers."""

import torch
from torch import nn

import ssdiff
from ssdiff.data.shapes import draw

process = ssdiff.build_process(ssdiff.load_preset("ddpm-celeba64", {"data.size": 16}))


class Small(nn.Module):
    """Predict the noise from the noisy image and the timestep."""

    def __init__(self, width=16):
        super().__init__()
        self.time = nn.Embedding(process.T, width)
        self.head, self.tail = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.body = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU())

    def forward(self, x, index, resolution, labels=None):
        """Return (B, 3, 16, 16) of (B, 3, 16, 16) x_t and (B,) t - 1."""
        return self.tail(self.body(self.head(x) + self.time(index)[:, :, None, None]))


model = Small()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
images, _ = draw(256, 16)
for _ in range(60):
    x0 = images[torch.randint(len(images), (32,))].float() / 127.5 - 1
    t, noise = torch.randint(1, process.T + 1, (len(x0),)), torch.randn_like(x0)
    loss = (model(process.marginal(x0, t, noise), t - 1, 16) - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

pipe = ssdiff.Pipeline(process, model.eval(), predict="eps")
drawn = pipe.sample(4, steps=10, sampler="dpm++")
print(f"loss {loss.item():.3f}; {len(drawn)} images, {tuple(drawn.shape[1:])}, from no preset: {pipe.preset}")
