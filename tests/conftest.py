"""Settings of the whole suite: no fixtures with logic, see tests/support/ for those."""

from hypothesis import HealthCheck, settings

# Derandomized: a failure must be the same failure for the next person. No deadline: the suite
# runs beside others on few cores, and a slow example is no wrong example.
settings.register_profile(
    "aggfs",
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("aggfs")
