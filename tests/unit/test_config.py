"""Settings: the later layer wins, origins are known, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninestory.core.config import load_settings
from ninestory.core.errors import InvalidRequest


def test_later_layers_win_and_say_where_from(tmp_path: Path) -> None:
    user, project = tmp_path / "user.toml", tmp_path / "project.toml"
    user.write_text("language = 'zh'\n[serve]\nport = 1\nhost = 'a'\nmax_n = 3\n")
    project.write_text("[serve]\nport = 2\nhost = 'b'\n")
    environ = {"NINESTORY_SERVE_PORT": "3", "HF_ENDPOINT": "https://mirror.example"}
    loaded = load_settings({"serve.port": 4, "serve.host": None}, environ=environ, project=project, user=user)
    serve = loaded.settings.serve
    assert (serve.port, serve.host, serve.max_n, loaded.settings.language) == (4, "b", 3, "zh")
    assert loaded.settings.hub.hf_endpoint == "https://mirror.example"
    assert loaded.origins["serve.port"] == "flag"
    assert loaded.origins["serve.host"] == str(project)
    assert loaded.origins["serve.max_n"] == str(user)
    assert loaded.origins["hub.hf_endpoint"] == "HF_ENDPOINT"
    assert loaded.origins["runtime.slots"] == "default"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"NINESTORY_SERVE_PROT": "1"}, "serve"),
        ({"NINESTORY_SERVE_PORT": "many"}, "serve.port"),
        ({"NINESTORY_LOG_JSON": "maybe"}, "log_json"),
    ],
)
def test_mistakes_are_named(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_settings(environ=environ, project=tmp_path / "x", user=tmp_path / "x")


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "n.toml"
    file.write_text("[serve]\nprot = 1\n")
    with pytest.raises(InvalidRequest) as caught:
        load_settings(environ={}, project=file, user=tmp_path / "x")
    assert "serve.port" in caught.value.hint


def test_a_secret_is_not_in_the_message(tmp_path: Path) -> None:
    file = tmp_path / "n.toml"
    file.write_text("[serve]\napi_key = 12345\n")
    with pytest.raises(InvalidRequest) as caught:
        load_settings(environ={}, project=file, user=tmp_path / "x")
    assert "12345" not in caught.value.message
