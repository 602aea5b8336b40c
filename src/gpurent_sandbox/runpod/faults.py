"""What only RunPod can get wrong."""

from __future__ import annotations

from gpurent_sandbox.faults import FaultKind


class RunPodFault(FaultKind):
    """Faults of the look-alike of RunPod; ``value`` is the number a rule may carry."""

    PRICE_LATE = "price_late"
    """The look-alike of RunPod reports a cost of 0 until the instance runs."""
    WRONG_DATA_CENTER = "wrong_data_center"
    """The look-alike of RunPod puts the pod into another data centre than the one that was asked for."""
    NO_CAPACITY = "no_capacity"
    """The look-alike of RunPod has no machine for that create; ``on`` narrows it to a ``CLOUD/data centre/GPU id``."""
    CRASH_LOOP = "crash_loop"
    """The look-alike of RunPod calls a pod running whose container starts again and again: no ports, no uptime."""
