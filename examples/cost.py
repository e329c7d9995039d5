"""What a model costs at each resolution, counted for one preset and measured for another."""

import ssdiff

celeba = ssdiff.cost("celeba64", steps=250)
print(celeba)
print(f"{celeba.sampling_flops / 1e12:.3g} TFLOPs an image")

shapes = ssdiff.cost("shapes32", measure=True, batch=1, seconds=1, device="cpu")
print(shapes.machine())
for path in shapes.to_dict()["paths"]:
    print(path["in"], path["training"]["ms"], "ms a training step")
