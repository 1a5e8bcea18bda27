"""Item 7 of the loop: which of a sample's labels counts, in whatever order labels and samples came."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from hybridge_cloud.data.join import EARLIEST_MS, JoinCounts, LabelSet, Outcome, changed, judge
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_edge.contract.errors import HybridgeError

DAY = 24 * 3600 * 1000
NOW = 1_790_000_000_000
RULE = LabelRule(window_days=30, source_priority=("expert", "annotator"), minimum_confidence=0.3)

a_label = st.builds(
    Label,
    sample_id=st.sampled_from(["s/1", "s/2", "s/3"]),
    label=st.sampled_from(["walk", "run", "rest"]),
    source=st.sampled_from(["expert", "annotator", "somebody", "nurse"]),
    confidence=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    at_ms=st.sampled_from([0, 5, NOW, NOW + DAY, NOW + 29 * DAY, NOW + 31 * DAY, NOW - 31 * DAY]),
    thing=st.sampled_from(["", "left", "right"]),
    imported_at_ms=st.sampled_from([0, NOW, NOW + 2 * DAY, NOW + 40 * DAY]),
)
SAMPLES = [("s/1", "left", NOW), ("s/2", "right", NOW + DAY), ("s/3", "left", 0), ("s/4", "left", NOW)]


def joined(labels: Sequence[Label], samples: Sequence[tuple[str, str, int]] = SAMPLES) -> list[object]:
    """What every sample has, sorted by sample."""
    known = LabelSet(labels, RULE)
    return [(sample, known.judge(*sample)) for sample in sorted(samples)]


def last_wins(labels: Sequence[Label]) -> list[object]:
    """What a join does that goes by arrival."""
    found = {label.sample_id: label.label for label in labels if label.confidence >= RULE.minimum_confidence}
    return sorted(found.items())


def differs(join: Callable[[Sequence[Label]], list[object]]) -> Callable[[tuple[list[Label], int]], bool]:
    """Whether a join of these labels depends on their order, or on hearing some of them twice."""

    def check(drawn: tuple[list[Label], int]) -> bool:
        labels, seed = drawn
        shuffled = [*labels, *labels[: seed % (len(labels) + 1)]]
        random.Random(seed).shuffle(shuffled)
        return join(labels) != join(shuffled)

    return check


drawn_labels = st.tuples(st.lists(a_label, max_size=12, unique=True), st.integers(0, 2**32))


@given(drawn_labels)
@settings(max_examples=100, deadline=None)
def test_the_join_does_not_depend_on_the_order_of_labels_nor_on_repeats(drawn: tuple[list[Label], int]) -> None:
    assert not differs(joined)(drawn)


def test_the_control_a_join_by_arrival_is_found_out() -> None:
    fast = settings(database=None, phases=(Phase.generate,), max_examples=200)
    labels, _ = find(drawn_labels, differs(last_wins), settings=fast)
    assert len(labels) >= 2


@given(st.lists(a_label, max_size=12), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_labels_first_or_samples_first_or_in_turns_gives_the_same_join(labels: list[Label], seed: int) -> None:
    """What is known grows in any order; the join of what is known in the end is one."""
    events: list[object] = [*labels, *SAMPLES]
    random.Random(seed).shuffle(events)
    known: list[Label] = []
    samples: list[tuple[str, str, int]] = []
    standing: list[object] = []
    for event in events:
        (known if isinstance(event, Label) else samples).append(event)  # type: ignore[arg-type]
        standing = joined(known, samples)
    assert standing == joined(labels)


@given(st.lists(a_label, max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_sample_and_every_label_is_somewhere(labels: list[Label]) -> None:
    known = LabelSet(labels, RULE)
    verdicts = [known.judge(*sample) for sample in SAMPLES]
    counts = JoinCounts.of(verdicts)
    assert counts.samples == len(SAMPLES) == counts.labelled + counts.unlabelled
    for sample, verdict in zip(SAMPLES, verdicts, strict=True):
        own = set(known.of(sample[0]))
        left_out = verdict.late + verdict.unsure + verdict.foreign
        assert left_out <= len(own)
        assert (left_out == len(own)) == (verdict.outcome not in (Outcome.LABELLED, Outcome.CONFLICT))
        if verdict.label is not None:
            assert verdict.label in own
            assert verdict.label.thing in ("", sample[1])
            assert verdict.label.confidence >= RULE.minimum_confidence


@pytest.mark.parametrize(
    ("said_at", "captured_at", "outcome", "unclocked"),
    [
        (NOW, NOW, Outcome.LABELLED, 0),
        (NOW + 30 * DAY, NOW, Outcome.LABELLED, 0),
        (NOW + 30 * DAY + 1, NOW, Outcome.LATE, 0),
        (NOW, NOW + 30 * DAY, Outcome.LABELLED, 0),
        (NOW, NOW + 30 * DAY + 1, Outcome.LATE, 0),
        (NOW, 0, Outcome.LABELLED, 1),
        (NOW, EARLIEST_MS - 1, Outcome.LABELLED, 1),
        (5, NOW, Outcome.LABELLED, 1),
    ],
    ids=["same", "at the end", "after it", "label first", "too long before", "1970", "never set", "said in 1970"],
)
def test_a_label_counts_within_the_window_whichever_came_first(
    said_at: int, captured_at: int, outcome: Outcome, unclocked: int
) -> None:
    verdict = judge([Label("s", "walk", "x", at_ms=said_at)], "left", captured_at, RULE)
    assert (verdict.outcome, verdict.unclocked) == (outcome, unclocked)
    assert verdict.late == (outcome is Outcome.LATE)


def test_a_label_that_says_no_time_was_said_when_it_was_imported() -> None:
    late = Label("s", "walk", "x", imported_at_ms=NOW + 31 * DAY)
    assert judge([late], "left", NOW, RULE).outcome is Outcome.LATE
    delayed = Label("s", "walk", "x", at_ms=NOW, imported_at_ms=NOW + 31 * DAY)
    assert judge([delayed], "left", NOW, RULE).outcome is Outcome.LABELLED


@pytest.mark.parametrize(
    ("labels", "counts", "disagree"),
    [
        ([("walk", "x", 0.9, NOW), ("run", "expert", 0.8, NOW + 1)], "walk", True),
        ([("walk", "expert", 1.0, NOW), ("run", "annotator", 1.0, NOW + 1)], "walk", True),
        ([("walk", "annotator", 1.0, NOW), ("run", "somebody", 1.0, NOW + 1)], "walk", True),
        ([("walk", "x", 1.0, NOW), ("run", "y", 1.0, NOW + 1)], "run", True),
        ([("walk", "x", 1.0, NOW), ("walk", "y", 1.0, NOW + 1)], "walk", False),
        ([("walk", "x", 1.0, NOW), ("run", "y", 1.0, NOW)], "", True),
        ([("walk", "x", 1.0, NOW), ("run", "y", 0.2, NOW)], "walk", True),
        ([("walk", "x", 0.2, NOW)], "", False),
        ([("walk", "x", 1.0, NOW), ("run", "expert", 1.0, NOW + 31 * DAY)], "walk", False),
    ],
    ids=["surest", "source", "listed", "newest", "agree", "undecided", "one unsure", "unsure", "one late"],
)
def test_of_several_labels_the_declared_rule_chooses(
    labels: list[tuple[str, str, float, int]], counts: str, disagree: bool
) -> None:
    given_labels = [Label("s", label, source, confidence, at) for label, source, confidence, at in labels]
    for order in (given_labels, given_labels[::-1]):
        verdict = judge(order, "left", NOW, RULE)
        assert (verdict.label.label if verdict.label else "", verdict.disagree) == (counts, disagree)


def test_of_two_imports_of_one_statement_the_later_corrects_the_earlier() -> None:
    first, second = (
        Label("s", text, "x", 1.0, NOW, imported_at_ms=at) for text, at in (("walk", NOW), ("run", NOW + 1))
    )
    verdict = judge([second, first], "left", NOW, RULE)
    assert (verdict.label, verdict.disagree) == (second, True)


def test_a_device_speaks_of_its_own_samples_only_and_after_everybody_else() -> None:
    mine, cloud = Label("s", "run", "nurse", thing="left"), Label("s", "walk", "somebody")
    assert judge([mine], "left", NOW, RULE).label == mine
    assert judge([mine], "right", NOW, RULE).outcome is Outcome.FOREIGN
    assert judge([mine, cloud], "left", NOW, RULE).label == cloud
    trusting = LabelRule(source_priority=("nurse",))
    assert judge([mine, cloud], "left", NOW, trusting).label == mine
    assert judge([mine, cloud], "left", NOW, LabelRule(source_priority=("left/nurse",))).label == mine


def test_a_label_that_changed_or_went_is_a_change_and_a_first_one_is_none() -> None:
    none, walk, run = (LabelSet(labels, RULE) for labels in ((), [Label("s", "walk", "x")], [Label("s", "run", "x")]))
    said = [
        changed(then, now, "left", "s", NOW) for then, now in ((none, walk), (walk, walk), (walk, run), (walk, none))
    ]
    assert said == [False, False, True, True]


@pytest.mark.parametrize(
    "fields", [{"window_days": 0}, {"window_days": 1e6}, {"source_priority": ("a", "a")}, {"minimum_confidence": 2.0}]
)
def test_a_rule_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(HybridgeError):
        LabelRule(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " walk", "a\nb", "x" * 129, "=1+1", "@sum", "+cmd|x", "-cmd|x"])
def test_a_label_or_source_that_is_no_word_is_refused(text: str) -> None:
    for fields in ((text, "x"), ("walk", text)):
        with pytest.raises(HybridgeError):
            Label("s", *fields)
    assert [Label("s", fine, "x").label for fine in ("-1", "+2.5", "-", "+", "a=b")]
