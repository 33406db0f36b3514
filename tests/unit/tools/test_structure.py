"""Each rule of the tree finds the violation planted for it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tools import structure


def texts(**by_path: str) -> dict[PurePosixPath, str]:
    """Texts by path, given with ``__`` for ``/``."""
    return {PurePosixPath(name.replace("__", "/") + ".py"): text for name, text in by_path.items()}


def test_a_circle_counts_imports_in_functions_and_for_types() -> None:
    found = structure.import_problems(
        texts(
            services__a="from services import b\n",
            services__b="def late() -> None:\n    import services.c\n",
            services__c="if TYPE_CHECKING:\n    from services.a import Thing\n",
            services__d="from services.a import Thing\n",
        )
    )
    assert found == ["imports go in a circle: services.a, services.b, services.c"]


def test_a_submodule_from_a_package_is_not_the_package() -> None:
    package = {PurePosixPath("services/p/__init__.py"): "from services.p import part\n"}
    part = texts(services__p__part="from services.p import other\n", services__p__other="")
    assert structure.import_problems({**package, **part}) == []


def test_a_circle_of_scripts_in_tools_is_found() -> None:
    found = structure.import_problems(texts(tools__a="import b\n", tools__b="import a\n"))
    assert found == ["imports go in a circle: tools.a, tools.b"]


def test_deploy_and_services_import_nothing_of_each_other() -> None:
    found = structure.import_problems(
        texts(
            deploy__k8s__make="from services.edge import render\n",
            services__edge__render="",
            services__launch__cluster="import deploy.k8s.names\n",
            deploy__k8s__names="",
        )
    )
    assert [line.partition(":")[0] for line in found] == [
        "deploy.k8s.make imports services.edge.render",
        "services.launch.cluster imports deploy.k8s.names",
    ]


def test_a_long_file_and_a_full_folder_are_found() -> None:
    many = {PurePosixPath(f"services/many/m{number}.lua"): "" for number in range(16)}
    packages = {PurePosixPath(f"services/few/p{n}/__init__.py"): "" for n in range(16)}
    versions = {PurePosixPath(f"services/migrations/versions/v{n}.py"): "" for n in range(20)}
    long = texts(services__long="\n" * 351, services__fits="\n" * 350)
    assert structure.size_problems({**many, **packages, **versions, **long}) == [
        "services/long.py has 351 lines; 350 are allowed: which second idea does it hold?",
        "services/many holds 16 source files; 15 are allowed: group them by role",
    ]


def test_generated_stubs_and_other_files_are_no_source(tmp_path: Path) -> None:
    names = ("job_pb2.py", "job_pb2_grpc.py", "page.md", "kept.py", "filter.lua")
    for name in names:
        (tmp_path / name).write_text("")
    found = structure.sources(tmp_path, map(Path, names))
    assert set(found) == {PurePosixPath("kept.py"), PurePosixPath("filter.lua")}


def test_a_test_lies_where_what_it_tests_lies() -> None:
    tree = texts(
        services__trainer__jobs="",
        tests__unit__services__trainer__test_jobs="",
        tests__unit__services__trainer__test_jobs_on_a_full_disk="",
        tests__unit__services__trainer__test_trainer="",
        tests__unit__services__trainer__test_storm="from services.trainer.jobs import work\n",
        tests__unit__services__trainer__test_page="FOLDER = 'services/trainer'\n",
        tests__e2e__services__trainer__test_disaster="",
        tests__unit__repository__test_anything="",
        tests__unit__services__trainer__test_jobless="",
        tests__contract__services__lost__test_jobs="",
    )
    folders = {PurePosixPath("services"), PurePosixPath("services/trainer")}
    assert structure.test_problems(tree, folders) == [
        "tests/contract/services/lost/test_jobs.py: there is no folder services/lost to test",
        "tests/unit/services/trainer/test_jobless.py tests nothing of services/trainer: "
        "move it to what it tests",
    ]
