"""What every test needs: no network, few threads, quiet libraries, reproducible Hypothesis, tiny checkpoints."""

from __future__ import annotations

import os
import socket

ONLINE = os.environ.get("BODA_ONLINE") == "1"
if not ONLINE:
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest  # noqa: E402  (the environment must be set before anything imports the hub client)
from hypothesis import HealthCheck, settings  # noqa: E402

from tests import tiny  # noqa: E402

settings.register_profile(
    "boda", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("boda")


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries():
    """Two threads, no progress bars."""
    import torch
    import transformers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Any connection that leaves this machine fails at once and says so. BODA_ONLINE=1 lets it through."""
    if ONLINE:
        yield
        return
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex

    def is_local(sock, address) -> bool:
        families = (socket.AF_INET, socket.AF_INET6)
        return sock.family not in families or str(address[0]).startswith(("127.", "::1", "localhost"))

    def connect(sock, address):
        if not is_local(sock, address):
            raise OSError(f"tests use no network; something tried to reach {address}")
        return real_connect(sock, address)

    def connect_ex(sock, address):
        if not is_local(sock, address):
            raise OSError(f"tests use no network; something tried to reach {address}")
        return real_connect_ex(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        yield


@pytest.fixture(scope="session")
def language_folder():
    """family -> folder of a tiny causal language model."""
    return tiny.language_folder


@pytest.fixture(scope="session")
def vision_folder():
    """family -> folder of a tiny vision model."""
    return tiny.vision_folder


@pytest.fixture(scope="session")
def text_folder():
    """family -> folder of a tiny text encoder."""
    return tiny.text_folder


@pytest.fixture(scope="session", params=tiny.LANGUAGE_FAMILIES)
def language_family(request) -> str:
    """Every language family in turn."""
    return request.param


@pytest.fixture(scope="session", params=tiny.VISION_FAMILIES)
def vision_family(request) -> str:
    """Every vision family in turn."""
    return request.param


@pytest.fixture
def llava_data(tmp_path):
    """A json of twelve LLaVA rows with pictures beside it, some without a picture, some of two turns."""
    return tiny.llava_file(tmp_path / "llava", 12, turns=(1, 2, 1))
