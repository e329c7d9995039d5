"""Plan where the resolution should change, before anything is trained."""

import ssdiff

small = {"data.size": 16, "process.levels": 2, "process.resolution.at": [0.0], "process.T": 200}
preset = ssdiff.load_preset("shapes32", small)
plan = ssdiff.plan_schedule("shapes", preset, steps=[10], eta=[0.0], budget=0.8, images=300)

print(plan.table())
print(plan.preset.process.resolution)
print(*plan.save("schedule"))  # planned.toml is a preset to train
