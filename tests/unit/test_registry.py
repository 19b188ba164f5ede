"""Loading: files, folders and modules are read anew and checked whole."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sluicegate.registry import LoadError, Problem, check, code_version, load
from sluicegate.spec import PipelineSpec

HEAD = "from sluicegate.declare import bronze, silver, gold, table\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write files below a folder; the interpreter is left as it was found."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            file = tmp_path / (name.replace("__", "/").replace("INIT", "__init__") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(HEAD + inspect.cleandoc(text) + "\n")
        return tmp_path

    modules, paths = set(sys.modules), list(sys.path)
    yield write
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = paths


def problems(target: str | Path) -> list[Problem]:
    """What is wrong with a target; every problem must say how to mend it."""
    with pytest.raises(LoadError) as caught:
        load(str(target))
    assert all(problem.mend for problem in caught.value.problems)
    assert caught.value.code == "load_failed"
    return list(caught.value.problems)


def test_a_folder_is_read_in_order_with_its_sub_folders_and_without_what_is_no_pipeline(
    write: Write,
) -> None:
    """Helpers, tests and virtual environments lie beside pipelines in real projects."""
    folder = write(
        b="@bronze\ndef second(): ...",
        a="@bronze\ndef first(): ...",
        sub__c="@bronze\ndef third(): ...",
        _helper="raise RuntimeError",
        test_a="raise RuntimeError",
        venv__lib__x="raise RuntimeError",
        _private__x="raise RuntimeError",
    )
    (folder / "venv" / "pyvenv.cfg").touch()
    (folder / ".hidden.py").write_text("raise RuntimeError")
    registry = load(str(folder))
    assert list(registry.pipelines) == ["bronze.first", "bronze.second", "bronze.third"]
    assert list(registry.specs()) == list(registry.pipelines)


def test_names_mean_the_nearest_layer_below(write: Write) -> None:
    """Gold sees silver before bronze, silver sees bronze, and itself never."""
    folder = write(
        p="""
        @bronze
        def flights(): ...
        @bronze
        def raw(): ...
        @silver
        def flights(flights): ...
        @gold
        def delays(flights, raw): ...
        """
    )
    specs = load(str(folder / "p.py")).specs()
    assert specs["silver.flights"].depends_on == ("bronze.flights",)
    assert [one.table for one in specs["gold.delays"].inputs] == ["silver.flights", "bronze.raw"]
    assert specs["gold.delays"].depends_on == ("silver.flights", "bronze.raw")


def test_helpers_beside_the_pipelines_can_be_imported_also_while_they_run(write: Write) -> None:
    """Whoever splits a file in two should not have to make a package of it."""
    folder = write(
        p="""
        from _common import NAME
        @bronze(name=NAME)
        def f():
            from _late import VALUE
            return VALUE
        """,
        sub__q="from _near import NAME\n@bronze(name=NAME)\ndef f(): ...",
        sub___near="NAME = 'near'",
        _common="NAME = 'common'",
        _late="VALUE = 7",
    )
    registry = load(str(folder))
    assert list(registry.pipelines) == ["bronze.common", "bronze.near"]
    assert registry.pipelines["bronze.common"]() == 7


def test_files_may_import_each_other_without_declaring_twice(write: Write) -> None:
    """A constant of bronze is wanted in silver; that must not make a second bronze."""
    folder = write(
        a="from b import SCHEMA\n@silver\ndef x(x): ...",
        b="SCHEMA = 1\n@bronze\ndef x(): ...",
        sub__c="SCHEMA = 2\n@bronze\ndef c(): ...",
        sub__d="from c import SCHEMA",
    )
    assert sorted(load(str(folder)).pipelines) == ["bronze.c", "bronze.x", "silver.x"]


def test_packages_keep_their_relative_imports_as_folder_file_and_module(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same project is loaded in all three ways: by a person, a test and a service."""
    folder = write(
        pack__INIT="",
        pack__flows__INIT="from ._names import NAME",
        pack__flows__p="""
        from . import NAME
        @bronze(name=NAME)
        def f(): ...
        """,
        pack__flows___names="NAME = 'flights'",
    )
    monkeypatch.chdir(folder)
    for target in ("pack/flows", "pack/flows/p.py", "pack.flows", "pack.flows.p", "pack"):
        assert list(load(target).pipelines) == ["bronze.flights"], target


def test_two_loads_in_one_process_do_not_mix(write: Write, tmp_path: Path) -> None:
    """A server loads again after an edit: helpers must be today's, and of the right folder."""
    write(
        one__p="from _common import NAME\n@bronze(name=NAME)\ndef f(): ...",
        one___common="NAME = 'one'",
        two__p="from _common import NAME\n@bronze(name=NAME)\ndef f(): ...",
        two___common="NAME = 'two'",
    )
    before = list(sys.path)
    first = load(str(tmp_path / "one"))
    assert list(load(str(tmp_path / "two")).pipelines) == ["bronze.two"]
    write(one___common="NAME = 'six'")  # the same size, within the same second
    assert list(load(str(tmp_path / "one")).pipelines) == ["bronze.six"]
    assert list(first.pipelines) == ["bronze.one"]
    assert sorted(sys.path) == sorted([*before, str(tmp_path / "one")])
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_named_like_a_library_module_does_not_replace_it(write: Write) -> None:
    """`statistics.py` is a fair name for pipelines, and somebody else's import."""
    folder = write(statistics="@gold\ndef totals(): ...", calendar="@bronze\ndef days(): ...")
    assert sorted(load(str(folder)).pipelines) == ["bronze.days", "gold.totals"]
    import statistics

    assert statistics.mean([1, 3]) == 2


def test_all_problems_are_told_at_once_with_pipeline_file_line_and_mend(write: Write) -> None:
    """One run, one list: nobody mends a project error by error."""
    folder = write(
        a="""
        @bronze
        def flights(): ...

        @silver(mode="merge")
        def merged(flights): ...

        @silver
        def Bad(flights): ...

        @silver
        def lonely(flihgts): ...

        @silver(depends_on=["bronze.nothing"])
        def waiting(): ...

        silver.sql("broken", "selec 1")

        silver.sql("early", "select * from gold.late")

        @gold
        def late(merged): ...
        """,
        b="""
        @bronze
        def flights(): ...

        @bronze
        def more(task): ...
        """,
    )
    found = problems(folder)
    a, b = str(folder / "a.py"), str(folder / "b.py")
    assert [(one.pipeline, one.file, one.line) for one in found] == [
        ("silver.merged", a, 5),
        ("silver.Bad", a, 8),
        ("silver.lonely", a, 11),
        ("silver.waiting", a, 14),
        ("silver.broken", a, 17),
        ("silver.early", a, 19),
        ("bronze.flights", b, 2),
        ("bronze.more", b, 5),
    ]
    texts = [f"{one.what} | {one.mend}" for one in found]
    for text, part in zip(
        texts,
        (
            "mode='merge' matches rows by key, and keys is missing",
            "'Bad' cannot name a table",
            "'flihgts' names no table: there is no bronze.flihgts | did you mean bronze.flights?",
            "depends on 'bronze.nothing', which is not declared",
            "syntax error",
            "reads gold.late, which is in a layer above silver",
            f"is declared twice, first at {a}:2",
            "annotate it, if it is the task: task: Task",
        ),
        strict=True,
    ):
        assert part in text
    with pytest.raises(LoadError) as caught:
        load(str(folder))
    shown = str(caught.value)
    assert shown.startswith(f"cannot load '{folder}': 8 problems\n")
    assert (
        f"  silver.merged ({a}:5): mode='merge' matches rows by key, and keys is missing\n" in shown
    )
    assert "    mend: did you mean bronze.flights?" in shown


def test_the_table_of_a_command_cannot_be_read(write: Write) -> None:
    """There is none; without this the pipeline would fail in the worker, each time."""
    folder = write(
        p="""
        bronze.command("fetch", ["true"])
        @silver
        def by_name(fetch): ...
        silver.sql("by_query", "from bronze.fetch")
        @silver(depends_on=["bronze.fetch"])
        def waits(): ...
        """
    )
    found = problems(folder)
    assert [one.pipeline for one in found] == ["silver.by_name", "silver.by_query"]
    for one in found:
        assert one.what == "reads bronze.fetch, which is a command and fills no table"
        assert 'depends_on=["bronze.fetch"]' in one.mend


def test_a_cycle_is_shown_with_its_path(write: Write) -> None:
    """ "There is a cycle" helps nobody who has two hundred pipelines."""
    folder = write(
        p="""
        @silver
        def a(x=table("silver.c")): ...
        @silver
        def b(x=table("silver.a")): ...
        @silver
        def c(x=table("silver.b")): ...
        @silver
        def alone(x=table("silver.alone")): ...
        """
    )
    assert sorted(problem.what for problem in problems(folder)) == [
        "is part of a cycle: silver.a → silver.b → silver.c → silver.a",
        "is part of a cycle: silver.alone → silver.alone",
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("x = 1\nraise ValueError('no')", 3, "raises ValueError while it is loaded: no"),
        ("import sys\nsys.exit(3)", 3, "calls exit(3) while it is loaded"),
        ("def f(:\n    pass", 2, "cannot be read"),
        ("import no_such_library_of_ours", 2, "raises ModuleNotFoundError"),
        ("@bronze\nclass A: ...", 2, "is no plain function"),
        ("import json\njson.loads('{')", 3, "raises JSONDecodeError"),
    ],
)
def test_whatever_a_file_does_is_told_with_the_line_of_the_user(
    write: Write, text: str, line: int, what: str
) -> None:
    """A traceback through our code would hide the one line that matters."""
    folder = write(bad=text, good="@bronze\ndef flights(): ...\n@silver\ndef y(from_bad): ...")
    [one] = problems(folder)  # what is missing because of `bad` is no problem of its own
    assert (one.file, one.line) == (str(folder / "bad.py"), line)
    assert what in one.what


def test_an_error_in_a_helper_is_told_once_and_where_it_is(write: Write) -> None:
    """Three files that import it do not make three problems."""
    folder = write(_h="1 / 0", a="import _h", b="import _h", c="import _h")
    [one] = problems(folder)
    assert (one.file, one.line) == (str(folder / "_h.py"), 2)


@pytest.mark.parametrize(
    "target", ["nowhere.py", "no/such/folder", "no_such_module.at_all", "", "a b"]
)
def test_a_target_that_does_not_exist_is_a_problem_like_any_other(target: str) -> None:
    """The command line shows one kind of error for everything that load can meet."""
    if target:
        [one] = problems(target)
        assert repr(target) in one.what


def test_a_target_without_pipelines_is_refused(write: Write) -> None:
    """An empty job that succeeds would look like work that was done."""
    [one] = problems(write(a="x = 1"))
    assert "no pipelines are declared" in one.what


def test_check_is_pure_and_accepts_what_fits() -> None:
    """Plans made by hand, as tests make them, are checked by the same rules."""
    a = PipelineSpec("bronze.a", "bronze", "a", "python")
    b = PipelineSpec("silver.b", "silver", "b", "python", depends_on=("bronze.a",))
    assert check([a, b]) == []
    assert len(check([a, b, replace(b, line=3)])) == 1


def test_the_hash_follows_content_and_not_the_place_it_lies_in(
    write: Write, tmp_path: Path
) -> None:
    """The same commit on another machine must have the same version; any edit must not."""
    texts = {"p": "@bronze\ndef a(): ...", "_common": "X = 1"}
    write(**{f"one__{name}": text for name, text in texts.items()})
    write(**{f"two__{name}": text for name, text in texts.items()})
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    version = code_version(one, load(one).specs())
    assert version == code_version(two, load(two).specs())
    write(two___common="X = 2")
    assert code_version(two, load(two).specs())["hash"] != version["hash"]
    assert version["git"] is None


def test_the_commit_is_told_and_whether_the_files_still_are_it(
    write: Write, tmp_path: Path
) -> None:
    """A job's version must not name a commit that does not hold what ran."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    write(flows__p="@bronze\ndef a(): ...", other="X = 1")
    git("init", "-q")
    git("add", "flows")
    git("commit", "-qm", "first")
    target = str(tmp_path / "flows")
    commit = git("rev-parse", "HEAD")
    specs = load(target).specs()
    assert code_version(target, specs)["git"] == commit
    write(flows__q="X = 1")
    assert code_version(target, specs)["git"] == f"{commit}-dirty"
