"""What every ring shares: the real servers, started on first use, and how properties are tried."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.services"]

os.environ.setdefault("HEADGATE_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
"""No server of the tests lives for long: what its JVM compiles at length is not used."""

settings.register_profile("headgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headgate")
"""Properties are no measurements: how long an example takes is up to whatever else the machine does."""
