"""The bar of a study names its step, never goes back, and is full at the end."""

import pytest

from interp.study_progress import Steps

Capsys = pytest.CaptureFixture[str]


def test_the_bar_is_full_at_the_end_whatever_was_advanced(capsys: Capsys) -> None:
    with Steps({"usage": 1, "experts": 9}, show=True) as steps:
        steps.start("usage")
        steps.start("experts")
        steps.advance(2)
    assert "analyze: 100%" in capsys.readouterr().err


def test_a_log_gets_few_states(capsys: Capsys) -> None:
    with Steps({"probes": 1000}, show=True) as steps:
        steps.start("probes")
        for _ in range(1000):
            steps.advance(1)
    assert capsys.readouterr().err.count("\r") <= 3


def test_a_step_ends_where_the_next_begins() -> None:
    with Steps({"divergence": 10, "experts": 10}, show=False) as steps:
        steps.start("divergence")
        steps.advance(500)
        assert steps._place == 10
        steps.start("experts")
        assert steps._place == 10
        steps.advance(3)
        assert steps._place == 13


def test_a_watched_bar_names_its_step(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Steps({"divergence": 10, "experts": 10}, show=True) as steps:
        steps.start("divergence")
        steps.start("experts")
    said = capsys.readouterr().err
    assert said.index("divergence") < said.index("experts")


def fail(steps: Steps) -> None:
    with steps:
        steps.start("experts")
        raise RuntimeError("no memory")


def test_a_failed_study_leaves_its_bar_unfilled(capsys: Capsys) -> None:
    steps = Steps({"usage": 1, "experts": 9}, show=True)
    with pytest.raises(RuntimeError, match="no memory"):
        fail(steps)
    assert "100%" not in capsys.readouterr().err


def test_no_bar_writes_nothing_and_an_unknown_step_is_refused(capsys: Capsys) -> None:
    with Steps({"usage": 1}, show=False) as steps:
        steps.start("usage")
        with pytest.raises(ValueError, match="'lunch' is not in list"):
            steps.start("lunch")
    assert capsys.readouterr().err == ""
