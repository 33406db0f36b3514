"""Options in the services' messages, and existing commands in every remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cytosynth.cli import words
from cytosynth.cli.global_options import RENAMED
from cytosynth.client.errors import CytosynthError, FieldViolation, JobFailed
from cytosynth.generator.v1 import generator_pb2
from cytosynth.trainer.v1 import trainer_pb2
from services.common.errors import FailedPrecondition, InvalidArgument
from tests.support.command_tree import commands, options
from tests.support.servers.toy_services.server import Cyto, ToyServices

ROOT = Path(__file__).resolve().parents[4]
COMMANDS = commands()


def refused(field: str, message: str, remedy: str = "") -> CytosynthError:
    violation = FieldViolation(field, message)
    return CytosynthError(
        "INVALID_ARGUMENT", f"{field}: {message}", field_violations=[violation], remedy=remedy
    )


# Fields that no option of the command sets.
_UNSET = {
    "upload": {"commit.num_images", "image.class_id", "image.data", "image.file_name",
               "image.patient_id"},
    "synthesize": {"first_index", "sources"},
    "fit-classifier": {"synthetic.sampler.num_steps", "synthetic.sampler.guidance_scale",
                       "synthetic.sampler.scheduler", "synthetic.sampler.guidance_start",
                       "synthetic.sampler.guidance_stop", "synthetic.sampler.decoder"},
    "report": {"phase_seconds"},
    "study": {"dataset", "idempotency_key"},
}  # fmt: skip


def leaves(descriptor: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in descriptor.fields:
        message = field.message_type
        if message is not None and not message.GetOptions().map_entry:
            found |= leaves(message, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


@pytest.mark.parametrize(
    ("command", "request_type"),
    [
        ("upload", trainer_pb2.UploadDatasetRequest),
        ("import", trainer_pb2.ImportDatasetRequest),
        ("fit-adapter", trainer_pb2.CreateAdapterRequest),
        ("fit-classifier", trainer_pb2.CreateClassifierRequest),
        ("report", trainer_pb2.CreateReportRequest),
        ("study", trainer_pb2.CreateStudyRequest),
        ("synthesize", generator_pb2.SynthesizeRequest),
    ],
)
def test_every_field_of_a_request_has_its_option(command: str, request_type: Any) -> None:
    missing = leaves(request_type.DESCRIPTOR) - set(COMMANDS[command].words)
    assert missing <= _UNSET.get(command, set())


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name].words])
def test_a_message_names_only_options_that_the_command_has(command: str) -> None:
    named = set(COMMANDS[command].words.values())
    if command in ("upload", "import"):
        named -= {"URI"}
    if command == "demo":
        named -= {"--data", "--shots", "--max-test-per-class"}  # The demonstration's own.
    if command in ("jobs", "watch", "cancel"):
        named -= {"NAME", "--state", "--limit"}
    assert named <= options(COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_an_old_name_leads_to_an_option_that_exists(command: str) -> None:
    renamed = COMMANDS[command].renamed
    assert set(renamed.values()) <= options(COMMANDS[command])
    assert not set(renamed) & options(COMMANDS[command])
    assert RENAMED == {"--tls-dir": "--certs-dir"}


def test_fields_become_options_in_message_remedy_and_violations() -> None:
    error = refused("header.split.shots", "is -1", "send split.shots of 0 or header.split.seed")
    told = words.in_words(error, words.SPLIT)
    assert str(told) == "--shots: is -1; send split.shots of 0 or --seed"
    assert told.field_violations == (FieldViolation("--shots", "is -1"),)
    told = words.in_words(refused("header.split.class_shots['blast']", "is -1"), words.SPLIT)
    assert told.message == "--shots (blast): is -1"
    told = words.in_words(refused("arms[3].classifier", "is empty"), words.REPORT)
    assert told.message == "--arm: is empty"
    told = words.in_words(refused("num_steps", "no integer"), words.FIT_ADAPTER)
    assert told.message == "--adapter-steps: no integer", "as the client names it"
    told = words.in_words(refused("name", "is 'x', not a name of adapters"), words.SYNTHESIZE)
    assert told.message == "--adapter: is 'x', not a name of adapters"
    told = words.in_words(refused("colour", "is unknown"), words.FIT_ADAPTER)
    assert told.message == "colour: is unknown"


def test_the_error_of_a_job_stays_one() -> None:
    failed = JobFailed("jobs/j1", refused("settings.rank", "is 0", "send 1 or more"))
    told = words.in_words(failed, words.FIT_ADAPTER)
    assert isinstance(told, JobFailed)
    assert (told.job_name, str(told)) == ("jobs/j1", "--rank: is 0; send 1 or more")


@pytest.mark.parametrize(
    ("kind", "command", "told"),
    [
        ("fit_adapter", ("fit-adapter", "datasets/d"), "--adapter-steps: is 0"),
        ("fit_classifier", ("fit-classifier", "datasets/d"), "--classifier-steps: is 0"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_command_line(
    cyto: Cyto, toy: ToyServices, kind: str, command: tuple[str, ...], told: str
) -> None:
    toy.trainer.refusals[kind] = InvalidArgument("settings.num_steps", "is 0", "send 1 or more")
    code, _, err = cyto(*command)
    assert code == 1
    assert err.splitlines()[-1] == f"cytosynth: {told}; send 1 or more"


@pytest.mark.parametrize(
    ("kind", "option"), [("fit_adapter", "--adapter-steps"), ("fit_classifier", "--classifier")]
)
def test_a_run_names_the_option_of_the_phase_that_was_refused(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path, kind: str, option: str
) -> None:
    toy.trainer.refusals[kind] = InvalidArgument("settings.num_steps", "is 0", "send 1 or more")
    code, _, err = cyto("run", "--data", cells, "--out", tmp_path / "out", "--shots", 1)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"cytosynth: {option}")


def test_a_study_that_fails_names_its_options(
    cyto: Cyto, toy: ToyServices, cells: Path, tmp_path: Path
) -> None:
    toy.trainer.job_errors["study"] = InvalidArgument("settings.num_draws", "is 99", "send 1 to 50")
    code, _, err = cyto("study", "--data", cells, "--out", tmp_path / "out")
    assert code == 1
    assert "cytosynth: --replicates: is 99; send 1 to 50" in err
    toy.trainer.job_errors["study"] = FailedPrecondition("datasets/d1", "was deleted", "upload it")
    code, _, err = cyto("study", "--data", cells, "--out", tmp_path / "out")
    assert "cytosynth: datasets/d1: was deleted; upload it" in err


def remedies() -> list[tuple[str, str]]:
    """File and text of each command that code or documentation suggests."""
    found = []
    code = [*ROOT.glob("cytosynth/**/*.py"), *ROOT.glob("services/**/*.py")]
    code += [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("deploy/**/*.py")]
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    quoted = re.compile(r"[`']{1,2}cytosynth ([a-z][^`'\n]*)[`']")
    typed = re.compile(r"^\s*(?:\$ )?cytosynth ([a-z-].*?)(?:\s+#.*|\s*\\)?$", re.M)
    for path in code + pages:
        if path.name == "lab-notebook.md":
            continue
        text = path.read_text(encoding="utf-8")
        # A sentence may go on in the next line of a string.
        joined = re.sub(r'"\s*\n\s*f?"', "", text)
        texts = quoted.findall(joined)
        if path.suffix == ".md":
            for block in re.findall(r"^```.*?^```", text, re.M | re.S):
                texts += typed.findall(block)
        found += [(str(path.relative_to(ROOT)), each) for each in texts]
    return found


def test_every_command_that_is_told_exists_with_its_options() -> None:
    found = remedies()
    assert len(found) > 20
    wrong = []
    for path, text in found:
        parts = text.split()
        words_of = [part for part in parts[:2] if re.fullmatch(r"[a-z][a-z-]*", part)]
        name = next((n for n in (" ".join(words_of), words_of[0]) if n in COMMANDS), "")
        given = [re.match(r"--[a-z-]+", part) for part in parts]
        unknown = {match[0] for match in given if match} - (
            options(COMMANDS[name]) if name else set()
        )
        is_group = words_of[0] in {command.split()[0] for command in COMMANDS}
        if not (name or (is_group and len(parts) == 1)) or unknown - {"--help"}:
            wrong.append(f"{path}: cytosynth {text} {sorted(unknown)}")
    assert not wrong, "\n".join(wrong)
