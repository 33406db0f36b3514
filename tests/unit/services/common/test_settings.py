"""Settings, read once; bad values stop start-up and name their variable."""

import pytest
from pydantic import ValidationError

from services.common.database.jobs import JobDatabase
from services.common.database.migrate import migrate
from services.common.settings import CommonSettings, SettingsError, refuse_unknown_variables
from services.common.store.artifacts import ArtifactStore
from services.generator.config import GeneratorSettings
from services.operations.backup import copy_database


def test_defaults_lie_under_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = CommonSettings.load()
    assert settings.store_uri == f"file://{tmp_path}/.cytosynth/store"
    assert settings.database_url == f"sqlite:///{tmp_path}/.cytosynth/jobs.db"
    assert settings.max_message_bytes == 32 * 1024 * 1024


@pytest.mark.parametrize(
    "name", ["Study: AML #1", "50%41 ?a=b&c", """'q' "q" $HOME {x} \\""", "é\n☃", "a::b", "s @h:1"]
)
def test_store_and_database_lie_in_the_state_folder_whatever_its_name(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("CYTOSYNTH_STATE_DIR", str(folder))
    settings = CommonSettings.load()
    migrate(settings.database_url)
    jobs = JobDatabase(settings.database_url)
    jobs.create("local", "fit_adapter", {})
    jobs.close()
    draft = ArtifactStore(settings.store_uri).new_draft("local", "datasets", "d1")
    draft.write("a.txt", b"a")
    draft.commit({"kind": "datasets"})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {"store", "jobs"}
    assert list(folder.glob("store/tenants/local/datasets/d1/a.txt"))
    copy_database(settings.database_url, folder / "copy.db")


def test_environment_wins_over_defaults(monkeypatch):
    monkeypatch.setenv("CYTOSYNTH_MAX_IMAGE_BYTES", "1000")
    monkeypatch.setenv("CYTOSYNTH_STORE_URI", "s3://bucket/cells")
    settings = CommonSettings.load()
    assert (settings.max_image_bytes, settings.store_uri) == (1000, "s3://bucket/cells")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CYTOSYNTH_MAX_IMAGE_BYTES", "many"),
        ("CYTOSYNTH_MAX_IMAGE_PIXELS", "-1"),
        ("CYTOSYNTH_MAX_MESSAGE_BYTES", "1"),
        ("CYTOSYNTH_STORE_URI", "/just/a/path"),
        ("CYTOSYNTH_DATABASE_URL", "mysql://host/db"),
        ("CYTOSYNTH_DATABASE_URL", "no url"),
    ],
)
def test_bad_value_is_refused_naming_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        CommonSettings.load()


def test_settings_do_not_change():
    settings = CommonSettings.load()
    with pytest.raises(ValidationError):
        settings.default_base = "other"


def test_a_variable_that_nothing_reads_is_refused_with_the_nearest(monkeypatch):
    known = CommonSettings.variables()
    refuse_unknown_variables(known)
    monkeypatch.setenv("CYTOSYNTH_MAX_IMAGE_BYTE", "1000")
    with pytest.raises(SettingsError, match=r"CYTOSYNTH_MAX_IMAGE_BYTE: .*_IMAGE_BYTES\?"):
        refuse_unknown_variables(known)


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("CYTOSYNTH_GENERATOR_WINDOW_NUM_IMAGES", "SHARDS_PER_REPLICA"),
        ("CYTOSYNTH_GENERATOR_CUDA_GRAPHS", "unset it"),
    ],
)
def test_a_variable_of_an_earlier_version_is_refused_with_what_to_do(monkeypatch, variable, remedy):
    known = GeneratorSettings.variables()
    assert variable not in known
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError, match=rf"{variable}: .*{remedy}"):
        refuse_unknown_variables(known)


def test_series_are_served_only_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CYTOSYNTH_METRICS_PORT", "8081")
    with pytest.raises(SettingsError, match="needs CYTOSYNTH_METRICS_DIR"):
        CommonSettings.load()
    monkeypatch.setenv("CYTOSYNTH_METRICS_DIR", str(tmp_path))
    assert CommonSettings.load().metrics_port == 8081
