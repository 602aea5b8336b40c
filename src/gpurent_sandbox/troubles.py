"""Faults that strike an instance for as long as it lives, dealt when it is created."""

from __future__ import annotations

from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.held import Order, Troubles

OTHER_GPUS = ("A40", "RTX A5000")


def deal(faults: Faults, now: float, order: Order, machine: Machine) -> Troubles:
    """Take what is armed, as far as the API that rents can tell of it."""

    def struck(fault: Fault) -> bool:
        return faults.take(fault) is not None

    def seconds(fault: Fault) -> float:
        rule = faults.take(fault)
        return 0.0 if rule is None else rule.amount

    def after(fault: Fault) -> float | None:
        rule = faults.take(fault)
        return None if rule is None else rule.amount

    vanish, count = after(Fault.HOST_VANISHES), after(Fault.WRONG_GPU_COUNT)
    bid = order.interruptible
    return Troubles(
        listed_from=now + seconds(Fault.LIST_LAG),
        boot_stuck=struck(Fault.BOOT_STUCK),
        no_sshd=struck(Fault.NO_SSHD),
        refuse_key_s=seconds(Fault.SSHD_REFUSES_KEY_FOR),
        vanish_at=None if vanish is None else now + vanish,
        no_address=struck(Fault.NO_ADDRESS),
        gpu_count=None if count is None else int(count),
        move_after_s=after(Fault.ENDPOINT_MOVES),
        no_key=struck(Fault.NO_INSTANCE_KEY),
        boot_fails=struck(Fault.BOOT_FAILS),
        bad_image=struck(Fault.BAD_IMAGE) if Fault.BAD_IMAGE in order.tells else False,
        outbid_after_s=after(Fault.OUTBID) if bid else None,
        back_after_s=after(Fault.OUTBID_RETURNS) if bid else None,
        stops_after_s=after(Fault.STOPS_UNASKED) if Fault.STOPS_UNASKED in order.tells else None,
        ports_late_s=seconds(Fault.PORTS_LATE),
        sshd_first_s=seconds(Fault.SSHD_FIRST),
        other_gpu=next(gpu for gpu in OTHER_GPUS if gpu != machine.gpu) if struck(Fault.WRONG_GPU) else "",
        raised_percent=after(Fault.PRICE_RAISED),
        raised_after_s=seconds(Fault.PRICE_RAISED_LATER),
        foreign_mbps=after(Fault.FOREIGN_TRAFFIC),
        foreign_after_s=seconds(Fault.FOREIGN_TRAFFIC_LATER),
    )
