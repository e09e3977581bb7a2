"""A process that was prepared says nothing that a user can't act upon."""

import gc
import logging
import sys
from types import ModuleType

import pytest
import torch

from harness.config.schema import DType, QuantConfig, QuantMethod
from harness.devices.process import heavy_imports, prepare_process
from harness.nn.quant import quantize_linear


def test_int8_says_nothing_at_every_product(caplog: pytest.LogCaptureFixture) -> None:
    """bitsandbytes casts bfloat16 inputs to float16 in LLM.int8(), and would warn of each."""
    from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState

    config = QuantConfig(name="int8", method=QuantMethod.int8, compute_dtype=DType.bfloat16)
    layer = quantize_linear(torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16), config, torch.device("cpu"))
    state = MatmulLtState()
    state.CB, state.SCB = layer.weight.CB, layer.weight.SCB  # as the layer hands them on, on CUDA by this path
    state.threshold, state.has_fp16_weights = 6.0, False
    inputs = torch.randn(4, 64, dtype=torch.bfloat16)
    logging.getLogger("bitsandbytes").setLevel(logging.NOTSET)
    MatMul8bitLt.apply(inputs, layer.weight, None, None, state)
    assert "inputs will be cast from torch.bfloat16 to float16" in caplog.text, "else there is nothing to mute"
    caplog.clear()
    prepare_process()
    MatMul8bitLt.apply(inputs, layer.weight, None, None, state)
    assert not caplog.records


def test_the_collector_rests_during_heavy_imports_and_never_looks_at_them_again() -> None:
    kept = []
    with heavy_imports():
        assert not gc.isenabled()
        sys.modules["harness.devices.made_up"] = ModuleType("made_up")
        kept.append([[] for _ in range(1000)])
    assert gc.isenabled()
    living = {id(one) for one in gc.get_objects()}  # frozen ones are not among them
    assert not any(id(one) in living for one in kept[0])
    del sys.modules["harness.devices.made_up"]


def test_nothing_is_kept_for_good_where_all_was_imported_already() -> None:
    alive, before = [[] for _ in range(1000)], gc.get_freeze_count()
    with heavy_imports():
        import harness.devices.process  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() < before + len(alive)  # less by what has died since


def test_the_collector_works_again_after_an_import_that_failed() -> None:
    with pytest.raises(ModuleNotFoundError), heavy_imports():
        import harness.devices.no_such_module  # noqa: F401
    assert gc.isenabled()
