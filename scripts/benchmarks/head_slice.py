"""What MidalignHF saves by handing the head no slice, as a ratio of products run in turn in one process.

A decoder gives its head the last position of every row, a slice of the padded batch. Both products have the
same result; the vocabulary is an eighth of Gemma's, since there the slow one takes minutes.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from midalign.device import has_bf16


def main() -> None:
    """Measure and print."""
    dtype = torch.bfloat16 if has_bf16() else torch.float32
    weight = torch.randn(32_768, 640).to(dtype)
    last = torch.randn(64, 96, 640).to(dtype)[:, -1:]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds = []
        with torch.inference_mode():
            for _ in range(4):
                times = []
                for states in (last, last.contiguous()):
                    start = time.perf_counter()
                    F.linear(states, weight)
                    times.append(time.perf_counter() - start)
                seconds.append(times)
        ratio = statistics.median(slow / fast for slow, fast in seconds[1:])
        print(f"{dtype}, {threads} threads: slice / contiguous {ratio:.1f}")


if __name__ == "__main__":
    main()
