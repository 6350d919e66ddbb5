"""Flight SQL from the program: off by default, on with a line of configuration."""

from __future__ import annotations

from pathlib import Path

from pyarrow import flight

from api.flight import messages
from tests.system.program import Program


def test_the_server_serves_flight_beside_http(tmp_path: Path) -> None:
    with Program(tmp_path / "data", '[flight]\nlisten = "127.0.0.1:0"\n', wait=False) as server:
        assert server.process.stdout is not None
        line = next(line for line in server.process.stdout if b"Flight SQL" in line).decode()
        server.wait_ready()
        server.write("cpu,host=a usage=1\n")
        url = line.split()[-1]
        with flight.connect(url) as client:
            command = messages.command("CommandStatementQuery", (1, "SELECT host, usage FROM cpu"))
            info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
            table = client.do_get(info.endpoints[0].ticket).read_all()
            assert table.to_pylist() == [{"host": "a", "usage": 1.0}]
        assert server.stop() == 0
