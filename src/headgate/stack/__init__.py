"""Real servers on a laptop, from Python packages alone: no Docker, no root, no system packages."""

from headgate.stack.base import Connection, Progress, Server, Service
from headgate.stack.connect import Connect
from headgate.stack.kafka import Kafka
from headgate.stack.mariadb import MariaDB
from headgate.stack.mysql import MySQL
from headgate.stack.postgres import Postgres
from headgate.stack.registry import Registry
from headgate.stack.stack import DEFAULT_SERVICES, Stack, Status
from headgate.stack.valkey import Valkey

__all__ = [
    "DEFAULT_SERVICES",
    "Connect",
    "Connection",
    "Kafka",
    "MariaDB",
    "MySQL",
    "Postgres",
    "Progress",
    "Registry",
    "Server",
    "Service",
    "Stack",
    "Status",
    "Valkey",
]
