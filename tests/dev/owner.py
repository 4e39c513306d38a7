"""A process that owns a PostgreSQL and a RabbitMQ node in a folder, until it is killed.

`python -m tests.dev.owner FOLDER` prints one JSON line with their pids when both are ready.
"""

import json
import signal
import sys
from pathlib import Path

from veltrix.dev.servers.postgres import Postgres
from veltrix.dev.servers.rabbitmq import RabbitMQ


def main(folder: Path) -> None:
    postgres, rabbitmq = Postgres(folder / "postgres"), RabbitMQ(folder / "rabbitmq")
    rabbitmq.begin()
    postgres.start()
    rabbitmq.wait_ready()
    sys.stdout.write(json.dumps({"postgres": postgres.pid, "rabbitmq": rabbitmq.pid}) + "\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
