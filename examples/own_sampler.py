"""An own sampler: Heun's steps, which look at the network twice and take the mean of what it says."""

import ssdiff


@ssdiff.register_sampler("heun", evaluations=2, help="second order by a second look at the end of each step")
def heun(walk):
    """Yield (s, x_s) for each step from t down to s."""
    x = walk.x
    for t, s in walk.steps:
        clean = walk.predict(x, t)
        if s > 0:
            again = walk.predict(walk.step(x, clean, t, s), s)
            clean = (clean + again) / 2 if again.shape == clean.shape else clean
        x = walk.step(x, clean, t, s)
        yield s, x


pipe = ssdiff.load()  # the newest run, or the small model that comes with ssdiff
images = pipe.sample(2, steps=5, sampler="heun")
print(f"{len(images)} images of {images.shape[-1]} px; samplers: {', '.join(ssdiff.samplers(pipe))}")
