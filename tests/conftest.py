"""What every ring shares: the real servers, started on first use, and how properties are tried."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.services"]

settings.register_profile("headgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headgate")
"""Properties are no measurements: how long an example takes is up to whatever else the machine does."""
