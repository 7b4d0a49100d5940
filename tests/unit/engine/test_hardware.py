"""The device that is meant is the device that is used, or there is one clear error."""

import pytest
import torch

from helix_p2p.engine.hardware import find_hardware
from helix_p2p.errors import ConfigError


def test_cpu_tells_its_name_and_the_memory_that_is_free() -> None:
    found = find_hardware("cpu")
    assert (found.device, found.kind, found.dtype) == ("cpu", "cpu", "f32")
    assert found.name
    assert 0 < found.usable_bytes < found.memory_bytes


def test_auto_takes_a_gpu_only_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.backends.mps.is_available():
        expected = "mps"
    assert find_hardware().device.startswith(expected)


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "tpu:0", "cpu cuda"])
def test_what_is_no_device_is_refused_with_what_would_be(wanted: str) -> None:
    with pytest.raises(ConfigError, match="no device is called"):
        find_hardware(wanted)


def test_gpu_that_is_not_there_is_never_replaced_by_another_device() -> None:
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match="there is no cuda"):
        find_hardware(missing)
