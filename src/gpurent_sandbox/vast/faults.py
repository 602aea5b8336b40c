"""What only Vast.ai can get wrong."""

from __future__ import annotations

from gpurent_sandbox.faults import FaultKind


class VastFault(FaultKind):
    """Faults of the look-alike of Vast.ai; ``value`` is the number a rule may carry."""

    HEARTBEAT_LOST = "heartbeat_lost", 5.0
    """The look-alike of Vast calls an instance ``unknown`` for the first ``value`` seconds (5) in which it runs."""
    RAW_CONTROL = "raw_control"
    """The look-alike of Vast leaves control characters unescaped, so that its reply is not strict JSON."""
    MIN_INTERVALS = "min_intervals", 1.0
    """The look-alike of Vast enforces its shortest times between requests, times ``value`` (1), until cleared."""
    SEARCH_QUOTA = "search_quota"
    """The look-alike of Vast has no searches left for this day."""
    SECOND_FACTOR = "second_factor"
    """The look-alike of Vast wants a session with a second factor for everything but a search."""
    RATE_LIMIT_IN_JSON = "rate_limit_in_json", 1.0
    """The look-alike of Vast does not handle the request; 429 with JSON that asks for ``value`` seconds (1)."""
    HOST_OFFLINE = "host_offline", 5.0
    """The look-alike of Vast calls an instance ``offline`` for the first ``value`` seconds (5) in which it runs."""
    OLD_LIST_EMPTY = "old_list_empty"
    """The look-alike of Vast answers the old list of instances with an empty one."""
    TEAM_KEYS = "team_keys"
    """The look-alike of Vast attaches no key to an instance, as for an account of a team."""
