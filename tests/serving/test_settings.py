"""Nobody else on the network is served without a secret."""

from __future__ import annotations

import pytest

from weakloc.errors import SettingError
from weakloc.output.settings import ServeSettings, require_token_beyond_this_machine
from weakloc.serving.app import bound_socket, url_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    require_token_beyond_this_machine(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "box.lan", ""])
def test_other_machines_need_a_token(host: str) -> None:
    require_token_beyond_this_machine(host, "secret")
    with pytest.raises(SettingError, match="WEAKLOC_TOKEN"):
        require_token_beyond_this_machine(host, None)


def test_an_empty_token_is_none_at_all() -> None:
    with pytest.raises(SettingError, match="--token"):
        require_token_beyond_this_machine("127.0.0.1", "")


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(SettingError, match="--queue"):
        ServeSettings(queue=0)
    with pytest.raises(SettingError, match="--port"):
        ServeSettings(port=70000)
    with pytest.raises(SettingError, match="--best-per-class"):
        ServeSettings(best_per_class=0)


def test_a_port_that_is_taken_is_one_line() -> None:
    with bound_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(SettingError, match=f"--port {port}"):
            bound_socket("127.0.0.1", port)
