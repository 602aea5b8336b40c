"""Lives that once broke an invariant, by the seed that drew them then. Whatever is drawn today, these are played."""

from __future__ import annotations

from collections.abc import Mapping

from tests.simulation.engine import Course
from tests.simulation.schedule import NEVER, Aftermath, Guard, Home, Schedule, Second

from gpurent.budget.events import Kind
from gpurent.money import Usd
from gpurent_sandbox.faults import Fault, Rule

KEPT: Mapping[str, Schedule] = {
    "the computer slept between the intent and create, and the listing was late": Schedule(
        seed=1016689, budget=Usd(132_373), course=Course(135, 2.989, every=27, size=65536),
        rules=(Rule(Fault.LIST_LAG, value=35.8), Rule(Fault.DESTROY_LAG, value=24.3),
               Rule(Fault.ENDPOINT_MOVES, value=581.4)),
        outages=((3708.4, 98.9),), cuts=((2913.0, 1068.9),), naps=((6, 5635.5),), guard=Guard(),
        boot_s=182.2, follow_s=4.0, hold_minutes=60.0,
    ),
    "a clock was set forward while a late listing was waited for": Schedule(
        seed=1042264, budget=Usd(76_838), course=Course(31, 0.331, every=31, size=65536, fails_at=19),
        rules=(Rule(Fault.LIST_LAG, value=85.9), Rule(Fault.DESTROY_IGNORED, times=2)),
        cuts=((1643.9, 1058.1), (2721.0, 373.9)), naps=((111, 4182.0),), crash_at=227, aftermath=Aftermath.STOP,
        delay_s=1382.7, boot_s=107.1, shrinks=True, hold_minutes=5.0,
        jumps=((2714.8, -654.8), (67.18462443155282, 1279.75)),
    ),
    "twice the price, billed by the quarter of an hour, and the switch counted from its own start": Schedule(
        seed=1010845, budget=Usd(79_116), course=Course(127, 65.44, every=127, size=65536),
        rules=(Rule(Fault.WRONG_PRICE, value=98.4), Rule(Fault.CREATE_ERROR_BUT_CREATED)),
        outages=((3270.7, 24.9),), naps=((16, 7115.9),), dies_at=(Kind.DESTROY_SENT, "after"),
        aftermath=Aftermath.STOP, delay_s=6085.3, boot_s=159.6, hold_minutes=60.0, unit_s=900,
        cut_in_fetch=(2, 700.0), second=Second(25.7, Usd(220_736), None), per_day=Usd(280_097),
    ),
    "nobody went on looking for a machine that a lost answer to create had made": Schedule(
        seed=1033689, budget=Usd(117_917), course=Course(200, 2.518, every=200, size=65536),
        rules=(Rule(Fault.CREATE_REPLY_LOST), Rule(Fault.BOOT_STUCK), Rule(Fault.NO_INSTANCE_KEY),
               Rule(Fault.LIST_LAG, value=85.9), Rule(Fault.WRONG_PRICE, value=55.0)),
        outages=((1770.0, 10.0),), cuts=((3686.5, 314.2),), dies_at=(Kind.DESTROY_SENT, "before"),
        guard=Guard(), delay_s=77.9, boot_s=30.2, shrinks=True, hold_minutes=1.0,
        jumps=((506.5, -709.3), (2633.4, -5934.2)),
    ),
    "the ledger's disk was full when a job was to be shortened": Schedule(
        seed=1022259, budget=Usd(105_320), course=Course(94, 31.685, every=18, size=65536),
        rules=(Rule(Fault.LISTED_AFTER_DESTROY, value=10.9),), cuts=((648.4, 283.1), (19.95, 292.06)),
        guard=Guard(), delay_s=6854.4, boot_s=155.8, shrinks=True, minimum_s=300,
        home=((1758.8, 566.5, Home.LEDGER),), deaf_at=(Kind.REPLANNED, 0.0826),
    ),
    "a create was carried out an hour later, and the machine could not end itself": Schedule(
        seed=1, budget=Usd(150_000), course=Course(20, 1.0, every=10, size=4096),
        rules=(Rule(Fault.BOOT_STUCK), Rule(Fault.NO_INSTANCE_KEY)), late_create=3000.0, guard=Guard(),
        aftermath=Aftermath.REAP, delay_s=30_000.0,
    ),
    "two listings left out a machine that was created after the first one had begun its grace": Schedule(
        seed=1795713489, budget=Usd(643_128), course=Course(33, 86.4734684352646, every=6, size=65536),
        rules=(Rule(Fault.PAGES_SHIFT, times=2),), guard=Guard(),
        home=((362.32056390909526, 142.12304769771757, Home.NETWORK),), late_create=350.91654217733213,
    ),
    "a watchdog that was alone looked at the traffic half as often as the reserve allows for": Schedule(
        seed=1795713567, budget=Usd(181_903), course=Course(180, 104.87059438821413, every=90, size=65536),
        rules=(Rule(Fault.FOREIGN_TRAFFIC, value=108.06),), freezes=((43, 7709.887696836508),),
        guard=Guard(worker_hangs_at=5), boot_s=166.37442717539452,
    ),
    "a create was carried out an hour late, and its client hung: nobody looked for it": Schedule(
        seed=1795718954, budget=Usd(120_000), course=Course(71, 0.7244536082052779, every=14, size=4096),
        rules=(Rule(Fault.PRICE_RAISED, value=186.67), Rule(Fault.PRICE_RAISED_LATER, value=147.9),
               Rule(Fault.NO_INSTANCE_KEY)),
        freezes=((33, NEVER),), guard=Guard(), late_create=5220.282671611911, boot_s=187.06054242795258,
    ),
    "a number was given away while no listing was answered": Schedule(
        seed=1795714759, budget=Usd(134_749), course=Course(12, 1.6283073242406894, every=12, size=65536), hangs_at=18,
        trickles=((508.4335112448328, 3261.993817548754),), reused=True,
    ),
    "a bill of nothing but traffic was taken for that of a short rental": Schedule(
        seed=1795719742, budget=Usd(121_650), course=Course(182, 0.1815148739213287, every=36, size=65536),
        rules=(Rule(Fault.CHARGES_LATE, p=1.0, value=2555.6),), crash_at=126, hold_minutes=1.0,
        aftermath=Aftermath.DYING_REAPS,
    ),
    "a reply that said little named a machine whose number was a stranger's by the time of the search": Schedule(
        seed=1795722389, budget=Usd(62_748), course=Course(82, 79.72729539704937, every=82, size=65536),
        rules=(Rule(Fault.CREATE_ERROR_BUT_CREATED),), naps=((13, 1528.657974413642),), reused=True,
    ),
    "a client hung while it looked for a machine, and nobody counted that machine's traffic": Schedule(
        seed=1795725902, budget=Usd(42_435), course=Course(200, 0.8771383358827598, every=50, size=4096),
        rules=(Rule(Fault.FOREIGN_TRAFFIC, value=11.2), Rule(Fault.LIST_LAG, value=16.8)), freezes=((35, NEVER),),
        guard=Guard(), late_create=3.8369032491542834, cut_off=True,
    ),
    "a process was frozen between its last look and its order": Schedule(
        seed=1795725334, budget=Usd(157_012), course=Course(72, 2.229022332624565, every=72, size=65536),
        freezes=((51, 5860.976965203309),), reused=True, boot_s=93.6668825116483, host_skew=1334.4516310006254,
    ),
    "a run of a computer whose clock was wrong was never closed": Schedule(
        seed=1795740057, budget=Usd(657_202), course=Course(181, 0.27052026569486376, every=60, size=65536),
        second=Second(794.9254449044867, Usd(269_018), 50, 1140.498581542175),
    ),
    "no watchdog held the deadline of a client on another computer": Schedule(
        seed=1795756761, budget=Usd(583_037), course=Course(85, 55.234176677028074, every=17, size=65536),
        second=Second(311.73305603288173, Usd(265_059), 73, 30.0), guard=Guard(), switch_dies_after_s=1355.947357254846,
    ),
    "a clock that was ahead made a stranger's machine older than ours": Schedule(
        seed=1795743456, budget=Usd(48_624), course=Course(186, 0.9392549254648456, every=62, size=4096),
        rules=(Rule(Fault.ODD_OFFERS), Rule(Fault.LIST_LAG, value=77.6), Rule(Fault.CREATE_ERROR_BUT_CREATED),
               Rule(Fault.DESTROY_LAG, value=40.0), Rule(Fault.DESTROY_404_WHILE_ALIVE)),
        shrinks=True, hold_minutes=5.0, second=Second(1188.7289514183176, Usd(117_970), 90, 1746.1864658377028),
        per_day=Usd(153_004), guard=Guard(), aftermath=Aftermath.STOP, delay_s=86.60934947538621,
        cuts=((3682.608034680688, 824.6515910831868),), reused=True, unit_s=60, boot_s=46.66090082419707,
    ),
    "a service that was wrong about the time carried out a create an hour late": Schedule(
        seed=930001, budget=Usd(393_685), course=Course(66, 0.1763121224367938, every=33, size=65536),
        rules=(Rule(Fault.DATE_AHEAD, p=1.0, value=5431.4),), late_create=3467.4900973217664,
    ),
    "an answer that trickled held a switch for a quarter of an hour": Schedule(
        seed=1795733449, budget=Usd(95_820), course=Course(23, 0.7814795138383462, every=7, size=65536),
        rules=(Rule(Fault.DESTROY_IGNORED, times=2),), dies_at=(Kind.PREPARED, "before"), hold_minutes=60.0,
        trickles=((2285.2371360218044, 1949.8681162619027),),
    ),
    "a number was given away while the ledger could not be read": Schedule(
        seed=1795734084, budget=Usd(81_012), course=Course(96, 38.81207174910972, every=96, size=4096),
        freezes=((24, 7309.4099977290125),), guard=Guard(),
        home=((1989.8613277906552, 373.6773758512946, Home.LEDGER),), reused=True,
    ),
    "after a nap no listing was answered at once, and the number was somebody else's": Schedule(
        seed=1795740281818, budget=Usd(49_030), course=Course(26, 0.30034229182667993, every=6, size=4096),
        rules=(Rule(Fault.HTTP_TIMEOUT, p=0.2999834746636203),), poll_s=10.0, naps=((99, 7428.203470155032),),
        reused=True, boot_s=159.02591579092004,
    ),
    "the price was doubled while the ledger could not be read, and two orders to destroy were ignored": Schedule(
        seed=3000011, budget=Usd(230_000), course=Course(150, 40.0, every=10, size=4096),
        rules=(Rule(Fault.DESTROY_IGNORED, times=2), Rule(Fault.PRICE_RAISED, value=100),
               Rule(Fault.PRICE_RAISED_LATER, value=453.6)),
        home=((55.9, 90_000.0, Home.LEDGER),), hold_minutes=60.0, guard=Guard(), boot_s=30.0,
    ),
    "a second run began when nobody was waited for": Schedule(
        seed=1795719810, budget=Usd(51_270), course=Course(123, 93.3828277367179, every=61, size=65536), crash_at=85,
        second=Second(914.2854066481461, Usd(348_174), 43),
    ),
}  # fmt: skip
