"""``sparring serve --address`` of a cluster whose Ray Serve has applications of others."""

from __future__ import annotations

import pytest

from sparring.cluster.errors import UsageError
from sparring.cluster.serving import on_ray
from sparring.cluster.serving.options import Where

WHERE = Where(port=8000, address="10.0.0.1:6379", host_by="ray")


@pytest.mark.parametrize(
    ("port", "applications", "words"),
    [
        (8001, {}, "answers on port 8001, not 8000; take it: --port 8001"),
        (8000, {"sparring": "/"}, "an application 'sparring' runs at 10.0.0.1:6379 already; end that one first"),
        (8000, {"theirs": "/"}, "the application 'theirs' at 10.0.0.1:6379 has the path /"),
    ],
)
def test_where_there_is_no_room(port: int, applications: dict[str, str | None], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        on_ray._check_place(WHERE, port=port, applications=applications)


def test_where_there_is() -> None:
    on_ray._check_place(WHERE, port=8000, applications={"theirs": "/theirs", "inner": None})


@pytest.mark.soak
def test_others_applications_stay(ray_session: str) -> None:
    """A Serve that runs is found; ours ends, theirs goes on."""
    import httpx
    from ray import serve as ray_serve

    from tests.serve.live import free_port

    port = free_port()

    @ray_serve.deployment
    class Theirs:
        def __call__(self, request: object) -> str:
            return "theirs"

    assert on_ray._known(ray_serve) is None
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        ray_serve.run(Theirs.bind(), name="theirs", route_prefix="/theirs")
        assert on_ray._known(ray_serve) == {"port": port, "applications": {"theirs": "/theirs"}}
        ray_serve.run(Theirs.bind(), name="sparring", route_prefix="/")  # stands for ours
        on_ray._end(own=False, shared=True)
        known = on_ray._known(ray_serve)
        assert known is not None
        assert known["applications"] == {"theirs": "/theirs"}
        assert httpx.get(f"http://127.0.0.1:{port}/theirs").text == "theirs"
    finally:
        ray_serve.shutdown()
