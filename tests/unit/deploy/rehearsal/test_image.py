"""The pure parts of the image's check: what a build needs of the checkout, and what is said. The rest needs an engine."""

from pathlib import Path

from deploy.rehearsal.image import RESTRICTED, STOP_SECONDS, context_files, copy_context, signed_webhook, some
from streams.gateway.signatures import verify_razorpay

ROOT = Path(__file__).parents[4]


def test_only_the_first_phrases_are_shown() -> None:
    assert some(["a", "b", "c"], most=2) == "a; b; and 1 more"
    assert some(["a", "b"], most=2) == "a; b"


def test_context_is_what_the_dockerfile_copies_for_the_owner_alone(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "src" / "__pycache__").mkdir(parents=True)
    for name in (".dockerignore", "a.lock", "b.lock", "src/module.py", "src/__pycache__/module.pyc", "other"):
        (root / name).write_text(name, encoding="utf-8")
    (root / "Dockerfile").write_text("FROM base\nCOPY a.lock b.lock ./\nCOPY src/ src/\nCOPY --from=build /x /x\n", encoding="utf-8")

    assert context_files((root / "Dockerfile").read_text(encoding="utf-8")) == ["a.lock", "b.lock", "src"]
    copy_context(root, target)

    assert {str(path.relative_to(target)): path.stat().st_mode & 0o777 for path in target.rglob("*")} == {
        "Dockerfile": 0o600,
        ".dockerignore": 0o600,
        "a.lock": 0o600,
        "b.lock": 0o600,
        "src": 0o700,
        "src/module.py": 0o600,
    }


def test_every_file_that_the_dockerfile_copies_is_in_the_context(tmp_path: Path) -> None:
    copy_context(ROOT, tmp_path)

    assert (tmp_path / "deploy" / "image" / "imports.py").is_file()
    assert (tmp_path / "streams" / "cli" / "__init__.py").is_file()
    assert not (tmp_path / "tests").exists()


def test_webhook_is_one_that_the_gateway_reads_to_its_end() -> None:
    head = signed_webhook(b"{}").decode()
    (signature,) = [line.partition(": ")[2] for line in head.splitlines() if line.startswith("X-Razorpay-Signature")]

    assert "Content-Length: 2\r\n" in head
    assert head.endswith("\r\n\r\n")
    assert verify_razorpay(b"{}", signature.encode(), [b"image-check"])


def test_user_is_none_that_the_image_makes_and_times_are_those_of_the_document() -> None:
    (user,) = [option for option in RESTRICTED if option.startswith("--user=")]
    document = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")

    assert f"useradd --uid {user.removeprefix('--user=').split(':')[0]}" not in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"| Kafka | any number, behind a load balancer | {STOP_SECONDS:g} s |" in document
