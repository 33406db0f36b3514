"""Networks trained one after another share a job's checkpoints."""

from __future__ import annotations

from services.trainer.classifiers.stages import TrainingStages
from tests.support.few_shot import MemoryCheckpoints


def test_first_stage_is_checkpointed_as_if_it_were_alone() -> None:
    inner = MemoryCheckpoints()
    TrainingStages(inner).checkpoints().save({"step": 4}, {"classifier.safetensors": b"w"})
    assert inner.state == {"step": 4} and inner.files == {"classifier.safetensors": b"w"}
    found = TrainingStages(inner).checkpoints().load()
    assert found == ({"step": 4}, {"classifier.safetensors": b"w"})


def test_later_stage_carries_what_is_done_and_no_other_stage_loads_it() -> None:
    inner = MemoryCheckpoints()
    stages = TrainingStages(inner)
    stages.keep("final.safetensors", b"final")
    stages.keep("fold-0", b"answers")
    stages.checkpoints("fold-1").save({"step": 2}, {"classifier.safetensors": b"w"})
    again = TrainingStages(inner)
    assert again.kept("final.safetensors") == b"final" and again.kept("fold-0") == b"answers"
    assert again.kept("fold-1") is None
    assert again.checkpoints("fold-1").load() == ({"step": 2}, {"classifier.safetensors": b"w"})
    assert again.checkpoints().load() is None and again.checkpoints("fold-0").load() is None


def test_due_is_asked_of_the_job() -> None:
    stage = TrainingStages(MemoryCheckpoints(every=2)).checkpoints("fold-0")
    assert [stage.due() for _ in range(4)] == [False, True, False, True]
