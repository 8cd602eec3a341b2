"""Versions that come, go, and cannot be served, asked for over REST in this process."""

import time

import pytest
import toy_savedmodel
from running_server import running_server

BODY = {"instances": ["a"]}


def probabilities(server, path=""):
    status, answer = server.post(f"/v1/models/toy{path}:predict", BODY)
    assert status == 200, answer
    return answer["predictions"][0]["probabilities"]


def statuses(server):
    return server.get("/v1/models/toy")[1]["model_version_status"]


def wait_for(server, version, state):
    deadline = time.monotonic() + 30
    while {row["version"]: row["state"] for row in statuses(server)}.get(version) != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_new_version_is_served(tmp_path):
    toy_savedmodel.save(tmp_path / "1")
    with running_server(tmp_path, labels={"old": 1}) as server:
        (tmp_path / "2").mkdir()  # being written
        wait_for(server, "2", "END")
        assert "saved_model.pb" in statuses(server)[0]["status"]["error_message"]
        assert probabilities(server) == [0.75, 0.25]
        toy_savedmodel.save(tmp_path / "2", offset=0.125)
        wait_for(server, "2", "AVAILABLE")
        assert probabilities(server) == [0.875, 0.375]
        assert probabilities(server, "/labels/old") == [0.75, 0.25]
        toy_savedmodel.save(tmp_path / "0005", offset=0.25)
        wait_for(server, "5", "AVAILABLE")
        wait_for(server, "2", "END")
        assert probabilities(server) == [1.0, 0.5]
        assert server.post("/v1/models/toy/versions/2:predict", BODY)[0] == 404
        assert server.post("/v1/models/toy/versions/1:predict", BODY)[0] == 200


def test_a_version_whose_warm_up_fails_is_not_served(tmp_path):
    toy_savedmodel.save(tmp_path / "1")
    with running_server(tmp_path) as server:
        toy_savedmodel.save(tmp_path / "new", offset=0.125)
        (tmp_path / "new" / "assets.extra").mkdir()
        (tmp_path / "new" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records" * 10)
        (tmp_path / "new").rename(tmp_path / "2")
        wait_for(server, "2", "END")
        assert statuses(server)[0]["status"]["error_message"]
        assert probabilities(server) == [0.75, 0.25]
        (tmp_path / "2" / "assets.extra" / "tf_serving_warmup_requests").unlink()
        wait_for(server, "2", "AVAILABLE")
        assert probabilities(server) == [0.875, 0.375]


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="no such directory"):
        running_server(tmp_path / "nothing").__enter__()
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"1/saved_model\.pb"):
        running_server(tmp_path).__enter__()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ValueError, match="version 1"):
        running_server(tmp_path).__enter__()
    toy_savedmodel.save(tmp_path / "2")
    with pytest.raises(ValueError, match="version 9"):
        running_server(tmp_path, labels={"old": 9}).__enter__()
