"""The tables that a run leaves in the documents."""

from typing import Any

from deploy.rehearsal.document import NOT_YET, STEPS, filled, summary
from deploy.rehearsal.steps import Result, told

TEXT = "before\n<!-- compose: steps -->\nold\n<!-- end of steps -->\nbetween\n<!-- compose: waits -->\n<!-- end of waits -->\nafter\n"


def results(**changed: Any) -> dict[str, Any]:
    steps = [
        {
            "step": name,
            "name": title,
            "seconds": 9.5,
            "posts": 1_302,
            "sent_again": number,
            "longest_wait": number + 0.5,
            "rows": 1_000 + number,
            "mails": 500 + number,
            "healthy_after": {"kafka": 12.5} if name == "kafka" else {},
        }
        for number, (name, title) in enumerate(STEPS.items())
    ]
    suites = [{"stack": "external", "files": [], "passed": 12, "seconds": 20.4}]
    run = {
        "seed": 1,
        "cpus": 2,
        "engine": "28.0",
        "compose": "2.39",
        "up_seconds": 14.2,
        "seconds": 200.0,
        "steps": steps,
        "suites": suites,
    }
    return run | {"images": {"postgres:17-alpine": "pulled", "apache/kafka:4.1.2": "stand-in"}} | changed


def test_parts_are_filled_and_the_rest_is_kept() -> None:
    text = filled(TEXT, results())

    assert text.startswith("before\n<!-- compose: steps -->\n| under load |")
    assert text.endswith("<!-- end of waits -->\nafter\n")
    assert "old" not in text
    assert filled(text, results()) == text
    assert "| Kafka killed (SIGKILL) | 1,302 | 2 | 2.5 | kafka 12.5 | 1,002 | 502 |" in text
    assert "12 integration tests on `external` in 20 s" in text


def test_wait_of_each_kind_is_told() -> None:
    text = filled(TEXT, results())

    assert "2.5 s when the broker was killed" in text
    assert "5.5 s over `docker compose restart`" in text


def test_stand_ins_are_named_and_official_images_are_not() -> None:
    assert "stand-ins for `apache/kafka:4.1.2`" in filled(TEXT, results())
    assert "the official images" in filled(TEXT, results(images={"postgres:17-alpine": "kept"}))


def test_without_results_it_says_so() -> None:
    assert filled(TEXT, {}).count(NOT_YET) == 2


def test_summary_counts_all_posts_and_what_they_left() -> None:
    assert summary(results()) == "9,114 posts, 1,006 audit rows and 506 mails over 7 steps: nothing missing, wrong or doubled, in 200 s."


def test_result_is_told_in_one_line() -> None:
    result = Result("Kafka killed", 25.3, 302, 224, 14.6, 614, 310, {"kafka": 16.5})

    assert told(result) == (
        "302 posts, 224 sent again, longest wait 14.6 s, kafka healthy after 16.5 s; exact: 614 rows, 310 mails; 25.3 s"
    )
