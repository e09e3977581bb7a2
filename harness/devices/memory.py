"""How much memory a device has left, and whether an error means that it has none."""

import psutil
import torch

_OUT_OF_MEMORY = (  # what libraries below torch say in a plain RuntimeError; compared in lower case
    "out of memory",  # CUDA's driver and runtime, torch's allocator, bitsandbytes, NCCL
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # cuBLAS found no room for its handle
    "cusolver_status_alloc_failed",
    "cusparse_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
    "can't allocate memory",  # torch's CPU allocator
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, had no room for a tensor.

    torch raises `OutOfMemoryError` for its own allocations only; cuBLAS, the driver and the CPU allocator
    raise plain `RuntimeError`s.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def free_bytes(device: torch.device) -> int:
    """Bytes that new tensors can take on a device: what the driver has left and what torch's cache holds unused.

    On a CPU it is what the system can give without swapping.
    """
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def release_cached(device: torch.device) -> None:
    """Gives torch's unused cached blocks back to the device, so that blocks of other sizes fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
