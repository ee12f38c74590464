"""What the benchmarks share: seconds and peak memory of a piece of work, and the machine's matrix-product rate."""
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class Measurement:
    "One piece of work, measured once."

    seconds: float
    peak_mib: float  # how far resident memory rose above where it stood at the start
    result: object


def measure(work: Callable[[], object]) -> Measurement:
    "Run some work; its memory is sampled every 5 ms."
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def sample():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    try:
        result = work()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        sampler.join()
    return Measurement(seconds, (peak - before) / 2**20, result)


def matmul_rate(rows: int, width: int = 2048, repeats: int = 5) -> float:
    "The best rate, in FLOP/s, at which this machine multiplies [rows, width] by [width, width] in float32."
    a, b = torch.rand(rows, width), torch.rand(width, width)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * rows * width * width / min(seconds[1:])
