"""Host memory and seconds to read a base and quantize it: whole and then quantized, beside tensor by tensor.

    python -m benchmarks.loading [--layers 4 --width 65b --method nf4 --dtype float16 --device cpu] [--json]

Writes a LLaMA checkpoint of that width with few layers to a temporary folder (7.5 GB for the default) and reads it
to the CPU in fresh processes. `whole` is from_pretrained, its linear layers quantized one after another afterwards;
`by_tensor` is `harness.models.reading`. Peaks are in GB above the process with its libraries loaded: anonymous memory
is the process' own; resident memory also has the mapped pages of the file, which the system takes back when it needs
them. On a CPU the quantized model itself is in both, and what bitsandbytes needs to quantize a layer there. `--device
meta --method none` leaves both out: weights go to a device that isn't host memory, as they do to a GPU.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from harness.devices.process import prepare_process

WIDTHS = {  # hidden_size, intermediate_size, num_attention_heads
    "65b": (8192, 22016, 64),
    "7b": (4096, 11008, 32),
    "tiny": (64, 176, 4),
}
SAMPLE_SECONDS = 0.01


def main(
    layers: Annotated[int, typer.Option(help="Decoder layers of the checkpoint.")] = 4,
    width: Annotated[str, typer.Option(help=", ".join(WIDTHS))] = "65b",
    method: Annotated[str, typer.Option(help="nf4, fp4, int8 or none.")] = "nf4",
    dtype: Annotated[str, typer.Option(help="The checkpoint's: float16 is cast to bfloat16.")] = "float16",
    device: Annotated[str, typer.Option(help="cpu, cuda, or meta with --method none.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Turns of each side; the smallest seconds count.")] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures both ways in turn and prints a row for each."""
    prepare_process()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(folder, layers, width, dtype)
        turns = [measured(way, folder, method, device) for _ in range(rounds) for way in ("whole", "by_tensor")]
        checkpoint_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    rows = [min((t for t in turns if t["way"] == way), key=lambda t: t["seconds"]) for way in ("whole", "by_tensor")]
    record: dict[str, Any] = {"width": width, "layers": layers, "method": method, "device": device}
    record |= {"checkpoint_gb": checkpoint_bytes / 1e9, "rows": rows}
    print(json.dumps(record, indent=None if as_json else 2))


def write_checkpoint(folder: Path, layers: int, width: str, dtype: str) -> None:
    """Random weights in several files; a tensor at a time, so that writing needs less memory than what is measured."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, heads = WIDTHS[width]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads
    )
    config.architectures, config.dtype = ["LlamaForCausalLM"], getattr(torch, dtype)
    config.save_pretrained(folder)
    with torch.device("meta"):
        empty = LlamaForCausalLM(config).state_dict()
    groups: dict[str, list[str]] = {}
    for name in empty:
        part = name.split(".")[2] if ".layers." in name else "rest"
        groups.setdefault(f"model-{part}.safetensors", []).append(name)
    torch.manual_seed(0)
    for file, names in groups.items():
        made = {name: (torch.randn(empty[name].shape) * 0.02).to(config.dtype) for name in names}
        save_file(made, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in groups.items() for name in names}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def measured(way: str, folder: Path, method: str, device: str) -> dict[str, Any]:
    """What a fresh process says."""
    command = [sys.executable, "-m", "benchmarks.loading", "--child", way, str(folder), method, device]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(way: str, folder: Path, method: str, device_name: str) -> None:
    """Reads the checkpoint and prints its peaks."""
    prepare_process()
    import torch

    from harness.banks.load import read_base
    from harness.config.schema import DType, QuantConfig, QuantMethod
    from harness.devices.torch_device import quiet_libraries
    from harness.models.reading import read_config
    from harness.nn.quant import quantize_linear

    quiet_libraries()
    quant = QuantConfig(name=method, method=QuantMethod(method), compute_dtype=DType.bfloat16)
    device = torch.device(device_name)
    four_bit = QuantConfig(name="nf4", compute_dtype=DType.bfloat16)
    quantize_linear(torch.nn.Linear(64, 64), four_bit, torch.device("cpu"))  # imports what is imported once
    with Peaks() as peaks:
        if way == "whole":
            kept: Any = read_whole(folder, quant, device)
        else:
            kept = read_base(folder, read_config(folder), quant, device, None)
    held = peaks.now()
    del kept
    print(
        json.dumps(
            {
                "way": way,
                "seconds": peaks.seconds,
                "cpu_seconds": peaks.cpu_seconds,
                **peaks.gigabytes(),
                "held_anonymous_gb": held,
            }
        )
    )


def read_whole(folder: Path, quant: Any, device: Any) -> Any:
    """Reads the whole model and then quantizes it layer by layer, as the harness did before."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.config.schema import QuantMethod
    from harness.nn.quant import linear_layers, quantize_linear

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    layers = dict(linear_layers(model)) if quant.method is not QuantMethod.none else {}
    while layers:
        name = next(iter(layers))
        model.set_submodule(name, quantize_linear(layers.pop(name), quant, device))
    return model.to(device)


class Peaks:
    """Samples this process' memory on a thread of its own."""

    def __enter__(self) -> "Peaks":
        self._start = memory_kb()
        self._peak = dict(self._start)
        self._done = threading.Event()
        self._began, self._began_cpu = time.monotonic(), time.process_time()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        self.cpu_seconds = time.process_time() - self._began_cpu
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            for name, value in memory_kb().items():
                self._peak[name] = max(self._peak[name], value)

    def gigabytes(self) -> dict[str, float]:
        """-> how far the peaks are above the start."""
        return {
            "peak_anonymous_gb": (self._peak["RssAnon"] - self._start["RssAnon"]) * 1024 / 1e9,
            "peak_resident_gb": (self._peak["VmHWM"] - self._start["VmRSS"]) * 1024 / 1e9,
        }

    def now(self) -> float:
        """-> anonymous memory above the start, GB: the model."""
        return (memory_kb()["RssAnon"] - self._start["RssAnon"]) * 1024 / 1e9


def memory_kb() -> dict[str, int]:
    """The kernel's counts for this process, in KiB; VmHWM is the resident peak since its start (`ru_maxrss`)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) for name in ("RssAnon", "VmRSS", "VmHWM")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5])
    else:
        typer.run(main)
