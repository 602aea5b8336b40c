"""Someone with a ledger who rents from a look-alike, over real SSH."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.adapters.alike import AlikeHarness, LaterClock
from tests.runpod.harness import RunPodHarness
from tests.vast.harness import VastHarness

from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import UNSEEN_GRACE_S
from gpurent.http import Policy
from gpurent.jobs.boot import Held, Patience
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.rental import LaunchOrder, Rentals
from gpurent.jobs.watch import Watch
from gpurent.model import Offer
from gpurent.money import Usd
from gpurent.spi import Host
from gpurent.testing.conformance import ANY
from gpurent_providers.runpod import PLUGIN as runpod
from gpurent_providers.vastai import PLUGIN as vastai

QUICK = Patience(
    boot_s=25, poll_s=0.1, connect_s=6, appear_s=3, search_s=2, destroy_s=20, confirm_every_s=0.1, lost_s=5, address_s=2
)
POLICY = Policy(connect_s=2.0, answer_s=2.0, total_s=3.0, destroy_s=2.0, attempts=3, wait_s=0.1)
SERVICES: dict[str, type[AlikeHarness]] = {"runpod": RunPodHarness, "vastai": VastHarness}
PLUGINS = {"runpod": runpod, "vastai": vastai}


@dataclass(frozen=True)
class Renter:
    """Someone with a ledger who rents one instance."""

    harness: AlikeHarness
    rentals: Rentals
    ledger: Ledger
    run_id: str
    clock: LaterClock

    @property
    def tag(self) -> str:
        return f"gpurent-{self.run_id}-1"

    @property
    def limits(self) -> Deadlines:
        now = self.clock.now()
        return Deadlines(now + 3000, now + 3600)

    def again(self) -> Renter:
        """The same, with a run of its own."""
        run_id = self.ledger.open_run("job", Usd.parse("5"), output_dir=self.rentals.run_dir, config={})
        return replace(self, run_id=run_id)

    def offer(self) -> Offer:
        return min(self.rentals.providers[self.harness.name].offers(ANY), key=lambda one: (one.price.gpu_hour, one.id))

    def rent(self, image: str = "", offer: Offer | None = None) -> Held:
        order = LaunchOrder(image or next(iter(self.harness.images.values())), 10)
        return self.rentals.rent(
            self.run_id, self.tag, offer or self.offer(), order, deadlines=self.limits, reserved=Usd.parse("1")
        )

    def reach(self, held: Held) -> Host:
        watch = Watch(self.ledger, self.run_id, self.limits, self.clock, Interrupt(), self.rentals.tell, Usd(0))
        return self.rentals.reach(held, watch)

    def end(self) -> None:
        """Ends it; where a busy computer never saw it listed, the time to wait for that passes quickly."""
        self.clock.pace = 10 * UNSEEN_GRACE_S
        self.rentals.end(self.run_id, self.tag, None, reason="the test is over")

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.ledger.events()]
