"""The suite has teeth: each wrong adapter fails, by the test that names its mistake and by no unrelated one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = "tests/conformance/wrong_adapters.py"

EXPECTED = {
    "TestLosesTheTag": {
        "test_created_is_listed_with_its_tag",
        "test_half_made_is_named_or_found[reply_lost]",
        "test_half_made_is_named_or_found[error_reply]",
    },
    "TestReadsOnePage": {"test_listing_is_complete_over_all_pages"},
    "TestRenamesTheGpu": {"test_gpu_of_an_instance_is_spelled_like_its_offer_s"},
    "TestRetriesCreate": {
        f"test_create_is_sent_once_whatever_happens[{failure}]"
        for failure in ("server_error", "timeout", "reset", "garbage")
    },
    "TestRaisesOnUnknown": {
        "test_destroy_of_unknown_is_a_success",
        "test_destroy_twice_is_a_success",
        "test_vanished_is_gone_and_can_be_destroyed",
        "test_another_account_is_another_and_sees_nothing",
    },
    "TestLeaksTheKey": {"test_secrets_never_show"},
    "TestHidesFailedListings": {"test_failed_read_has_the_right_class[garbage-instances]"},
}


WHOLE = ("TestReadsOnePage", "TestLeaksTheKey", "TestRaisesOnUnknown")
"""These run the whole suite, and no test fails but those named; the others run the tests that name their mistake."""


@pytest.fixture(scope="module")
def failures() -> dict[str, set[str]]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "-rfE",
        *(f"{SUITE}::{name}" for name in WHOLE),
        *(f"{SUITE}::{name}::{test}" for name, tests in EXPECTED.items() if name not in WHOLE for test in tests),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    failed: dict[str, set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        if match := re.match(r"(?:FAILED|ERROR) \S+::(\w+)::(\S+)", line):
            failed[match[1]].add(match[2])
    return failed


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_adapter_fails_by_the_right_test(failures: dict[str, set[str]], name: str) -> None:
    """What is wrong with the adapter is said by the names of the tests that fail."""
    assert failures[name] == EXPECTED[name]
