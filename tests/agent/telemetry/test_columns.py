import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.columns import pack, pack_within, unpack
from protos.nanofleet.v1.telemetry_pb2 import (
    CpuSample,
    PowerModeSample,
    TelemetrySample,
    TemperatureSample,
    WorkerSample,
)
from tests.agent.telemetry.samples import NEXT_BOOT, sample

_KINDS = WorkerSample.Kind
_UINT64 = st.integers(0, 2**64 - 1)
_DOUBLE = st.floats(allow_nan=False)


def _some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


SAMPLES = st.builds(
    TelemetrySample,
    seq=_UINT64,
    boot_id=st.sampled_from(["one", "two"]),
    boottime_ns=_UINT64,
    utc_ns=st.integers(-(2**63), 2**63 - 1),
    cpu=_some(
        st.builds(
            CpuSample, load_percent=_DOUBLE, frequency_mhz=_some(st.integers(0, 2**32 - 1))
        )
    ),
    temperatures=st.lists(
        st.builds(TemperatureSample, zone=st.sampled_from("ab"), celsius=_DOUBLE), max_size=3
    ),
    workers=st.lists(
        st.builds(
            WorkerSample, kind=st.sampled_from(_KINDS.values()), job_id=st.text(max_size=3),
            loss=_some(_DOUBLE),
        ),
        max_size=2,
    ),
    offline_zones=st.lists(st.text(max_size=3), max_size=2),
    power_mode=_some(st.builds(PowerModeSample, clocks_pinned=_some(st.booleans()))),
    simulated=st.booleans(),
)  # fmt: skip


@given(st.lists(SAMPLES, max_size=20))
def test_samples_come_back_as_they_were(samples: list[TelemetrySample]) -> None:
    assert unpack(pack(samples)) == samples


@pytest.mark.parametrize(
    "values",
    [
        (44.125, 44.25, 44.125), (1.5, math.pi, 2.5), (0.0, math.inf, -math.inf),
        (1e300, -1e-300, 5e-324), (2.0**53, 2.0**53 + 2, 0.001),
        (-40.5, 0.1 + 0.2, 0.3), (8e12, 8e12 + 0.001, 9e12),
    ],
)  # fmt: skip
def test_doubles_are_exact(values: tuple[float, ...]) -> None:
    samples = [TelemetrySample(seq=7, temperatures=[TemperatureSample(celsius=v)]) for v in values]
    assert [one.temperatures[0].celsius for one in unpack(pack(samples))] == list(values)


def test_not_a_number_stays_one() -> None:
    samples = [
        TelemetrySample(temperatures=[TemperatureSample(celsius=v)]) for v in (1.0, math.nan)
    ]
    first, second = unpack(pack(samples))
    assert first.temperatures[0].celsius == 1
    assert math.isnan(second.temperatures[0].celsius)


def test_zones_that_come_and_go_keep_their_place_in_the_order() -> None:
    samples = [sample(number) for number in range(60)]
    for one in samples[::2]:
        del one.temperatures[3:]
        one.offline_zones.append("tj-thermal")
    samples[31].boot_id = NEXT_BOOT
    assert unpack(pack(samples)) == samples


def test_what_does_not_change_costs_nothing_and_what_trembles_a_few_bits() -> None:
    noise = random.Random(5)
    samples = []
    for number in range(120):
        samples.append(sample(number))
        # Sensors that tremble; no digits that nothing can compress.
        samples[-1].workers[0].ClearField("loss")
        samples[-1].power.energy_j = 3.0 * number
        for zone in samples[-1].temperatures:
            zone.celsius += noise.choice((-0.5, -0.25, 0.0, 0.25, 0.5))
    still = [sample(7)] * 120
    assert len(pack(still)) < 400
    plain = sum(one.ByteSize() for one in samples)
    assert len(pack(samples)) < plain / 20


def test_batch_that_were_too_long_becomes_several() -> None:
    samples = []
    for number in range(40):
        samples.append(sample(number))
        samples[-1].seq = number + 1
    whole = pack(samples)
    ((first, last, content),) = pack_within(len(whole), samples)
    assert (first, last, content) == (1, 40, whole)
    parts = list(pack_within(len(whole) - 1, samples))
    assert [(first, last) for first, last, _ in parts] == [(1, 20), (21, 40)]
    assert [one for _, _, content in parts for one in unpack(content)] == samples
    assert not list(pack_within(100, []))
    with pytest.raises(ValueError, match="100 are the most"):
        list(pack_within(100, samples))


@pytest.mark.parametrize("damage", [b"", b"no zlib", pack([sample(1), sample(2)])[:-9]])
def test_no_batch_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no batch of samples"):
        unpack(damage)
