"""The tests and their campaign; a package, because some distributions install one named `tests`."""
