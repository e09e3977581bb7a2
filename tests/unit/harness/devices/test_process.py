"""A process that was prepared says nothing that a user can't act upon."""

import logging

import pytest
import torch

from harness.config.schema import DType, QuantConfig, QuantMethod
from harness.devices.process import prepare_process
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
