"""What settings mean: every one has a note, and editors are given it."""

import pytest
from setting_notes import setting_notes

from phfcli.core.config import EvalConfig, Section, TrainConfig
from phfcli.core.settings import leaves


@pytest.mark.parametrize("kind", [TrainConfig, EvalConfig])
def test_every_setting_has_a_note(kind: type[Section]) -> None:
    assert set(leaves(kind().model_dump(mode="json"))) - set(setting_notes(kind)) == set()


def test_a_note_is_the_text_under_a_field() -> None:
    notes = setting_notes(TrainConfig)
    assert notes["rollout.top_k"] == "0 is off"
    assert notes["lora.target_modules"].startswith("names of linear layers of the decoder blocks")


def test_an_editor_shows_the_note() -> None:
    schema = TrainConfig.model_json_schema()
    assert schema["$defs"]["RolloutSettings"]["properties"]["top_k"]["description"] == "0 is off"
    assert schema["properties"]["steps"]["description"] == "the last step"
