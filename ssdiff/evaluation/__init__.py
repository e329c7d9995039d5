"""How good images are, and what a model costs: metrics of sets, quality of restorations, FLOPs and times."""
