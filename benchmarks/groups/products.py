"""Float32 products of frozen layers on this CPU: by torch and by oneDNN, of which `harness.devices.product` takes one.

    python -m benchmarks.groups.products                  # SmolLM2's layers, 1 to 1024 rows, two threads
    python -m benchmarks.groups.products --threads 1

Each is the best of 30, in turns; `ratio` is torch's time over oneDNN's, forward and for the input's gradient.
"""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from harness.devices.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402

from benchmarks.evaluation.mmlu import processor  # noqa: E402
from harness.devices.product import is_by_onednn  # noqa: E402

LAYERS = ((576, 576), (1536, 576), (576, 1536), (49152, 576))  # [O, I]
ROWS = (1, 16, 64, 256, 512, 1024)
REPEATS = 30


def main(threads: Annotated[int, typer.Option(help="Of torch.")] = 2) -> None:
    """Prints GFLOP a second of both libraries."""
    torch.set_num_threads(threads)
    used = "oneDNN" if is_by_onednn(torch.zeros(1)) else "torch"
    print(f"{processor()}, {threads} threads; here products are by {used}")
    print(f"{'rows':>5} {'layer':>13} {'torch':>6} {'oneDNN':>7} {'ratio':>6} {'of gradients':>13}")
    for num_outputs, num_inputs in LAYERS:
        weight_OI = torch.randn(num_outputs, num_inputs)
        for rows in ROWS:
            x_NI, grad_NO = torch.randn(rows, num_inputs), torch.randn(rows, num_outputs)
            own, other = best(lambda: functional.linear(x_NI, weight_OI), lambda: onednn(x_NI, weight_OI))  # noqa: B023
            back, other_back = best(lambda: grad_NO @ weight_OI, lambda: onednn(grad_NO, weight_OI.T))  # noqa: B023
            flop = 2e-9 * rows * num_inputs * num_outputs
            layer = f"{num_outputs}x{num_inputs}"
            speeds = f"{flop / own:>6.0f} {flop / other:>7.0f} {own / other:>6.2f} {back / other_back:>13.2f}"
            print(f"{rows:>5} {layer:>13} {speeds}")


def onednn(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """oneDNN's product."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")
    return out


def best(one: Callable[[], Tensor], two: Callable[[], Tensor]) -> tuple[float, float]:
    """The least seconds of each, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for call, taken in zip((one, two), times, strict=True):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return min(times[0]), min(times[1])


if __name__ == "__main__":
    typer.run(main)
