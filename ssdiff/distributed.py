"""Several processes, as torchrun starts them; one process needs nothing of this."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssdiff.errors import ResourceError, one_line
from ssdiff.files import writer_is_alive

_T = TypeVar("_T")
_PATIENCE = 2.0  # seconds until a process that was killed is gone for the system, too


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    processes: tuple[tuple[str, int], ...] = ()  # host and number of each, by rank

    def device(self, device: torch.device) -> torch.device:
        """Return the GPU of this process, where ``device`` is CUDA without a number."""
        return torch.device("cuda", self.local_rank) if self.size > 1 and str(device) == "cuda" else device

    def shard(self, count: int) -> range:
        """Return this process's part of ``count`` items: contiguous, as even as possible."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def any(self, flag: bool) -> bool:
        """Return True on every process if it is True on one."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes)

    def gather(self, part: Tensor) -> Tensor | None:
        """Return the parts of all processes joined along the first dimension, on process 0; None on the
        others.

        Args:
            part: (n, ...) on the CPU; n may differ between processes.
        """
        if self.size == 1:
            return part
        parts = [torch.empty(0)] * self.size if self.rank == 0 else None
        dist.gather_object(part.cpu(), parts)
        return torch.cat(parts) if parts else None

    def broadcast(self, value: _T | None) -> _T:
        """Return on every process what process 0 gives."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        assert values[0] is not None, "process 0 gives a value"
        return values[0]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def without(self, error: BaseException) -> BaseException:
        """Return what a lost connection means, which names the process that has ended; other errors as they
        are.

        Args:
            error: that ended the work of this process.
        """
        if self.size == 1 or not _is_lost_connection(error):
            return error
        until = time.monotonic() + _PATIENCE
        here, gone = socket.gethostname(), ""
        while not gone and time.monotonic() < until:
            for rank, (host, number) in enumerate(self.processes):
                if rank != self.rank and host == here and writer_is_alive(number) is False:
                    gone = f"rank {rank}, process {number} on {host}, has ended"
            time.sleep(0.05)
        said = gone or f"another process has ended, or cannot be reached: {one_line(error)}"
        return ResourceError(said, hint="look for its own message, and resume")

    def rank0_first(self, read: Callable[[], _T]) -> _T:
        """Return the result of ``read`` on each process; the others find what process 0 has prepared
        before."""
        results = []
        for turn in (0, 1):
            if (self.rank == 0) == (turn == 0):
                results.append(read())
            self.barrier()
        return results[0]


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the other processes that torchrun started, for the length of a block.

    CPU tensors travel by gloo, CUDA tensors by NCCL.

    Args:
        device: as given by the user; ``cpu`` leaves NCCL out.

    Raises:
        ResourceError: if torchrun's variables are incomplete or no numbers.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank, local = (int(os.environ[name]) if size != 1 else 0 for name in ("RANK", "LOCAL_RANK"))
    except KeyError as error:
        raise ResourceError(f"WORLD_SIZE is set but {error} is not", hint="start with torchrun") from None
    except ValueError:
        message = "WORLD_SIZE, RANK or LOCAL_RANK is no whole number"
        raise ResourceError(message, hint="start with torchrun, or unset them") from None
    world = World(rank, size, local)
    if size == 1:
        yield world
        return
    on_gpu = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    processes: list[tuple[str, int]] = [("", 0)] * size
    dist.all_gather_object(processes, (socket.gethostname(), os.getpid()))
    world = World(rank, size, local, tuple(processes))
    try:
        yield world
    except Exception as error:
        if (found := world.without(error)) is not error:
            raise found from error
        raise
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: BaseException) -> bool:
    words = str(error)
    of_gloo = isinstance(error, RuntimeError) and "gloo" in words
    return isinstance(error, dist.DistError) or (of_gloo and ("onnect" in words or "peer" in words))
