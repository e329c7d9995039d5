"""``python -m ssdiff`` and ``torchrun -m ssdiff``: the command line."""

from ssdiff.cli import program

if __name__ == "__main__":
    program()
