"""The script that checks the tree of folders finds each kind of fault, and none in this tree."""

from pathlib import Path

from tests.check_layout import MAX_MODULES, layout_problems, name_problems

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_this_tree_is_in_order() -> None:
    assert layout_problems(ROOT) == []


def test_a_full_folder_is_named(tmp_path: Path) -> None:
    files = {f"harness/nn/m{number}.py": "" for number in range(MAX_MODULES)} | {"harness/nn/__init__.py": ""}
    assert layout_problems(write(tmp_path, files)) == []
    write(tmp_path, {"harness/nn/more.py": ""})
    problem = f"harness/nn: {MAX_MODULES + 1} modules, at most {MAX_MODULES} fit into a folder"
    assert layout_problems(tmp_path) == [problem]


def test_modules_in_a_circle_are_named_wherever_they_import(tmp_path: Path) -> None:
    files = {
        "harness/nn/a.py": "from harness.nn.b import x\n",
        "harness/nn/b.py": "def f():\n    from harness.nn import c\n",
        "harness/nn/c.py": "import harness.nn.a\n",
    }
    circle = "harness.nn.a -> harness.nn.b -> harness.nn.c -> harness.nn.a"
    assert f"modules import each other: {circle}" in layout_problems(write(tmp_path, files))


def test_folders_that_import_each_other_are_named_at_every_level(tmp_path: Path) -> None:
    files = {
        "eval/a/one.py": "from eval.b.one import x\n",
        "eval/b/one.py": "",
        "eval/b/two.py": "from eval.a.two import x\n",
        "eval/a/two.py": "from harness.x import y\n",
        "harness/x.py": "",
        "harness/run.py": "from eval.a.two import x\n",
    }
    assert layout_problems(write(tmp_path, files)) == ["folders import each other: eval.a -> eval.b -> eval.a"]
    write(tmp_path, {"harness/z.py": "from eval.a.two import x\n"})
    assert "folders import each other: eval -> harness -> eval" in layout_problems(tmp_path)


def test_a_name_that_leads_nowhere_is_found_in_documents_and_sources(tmp_path: Path) -> None:
    named = "`harness.nn.loss.target_losses`, `harness.nn.lost`, docs/gone.md, eval/of/others"
    files = {
        "harness/nn/loss.py": f'"""{named}"""\ntarget_losses = 1\n',
        "conf/eval/none.yaml": "after_training: []\n",
        "README.md": "`target_losses`, `old_losses`, `OldClass`, `eval.after_training`, `eval.nowhere`\n",
        "docs/a.md": "[loss](../harness/nn/loss.py) [gone](../harness/gone.py) harness/old/ runs/<id>/eval/x.json\n",
    }
    assert list(name_problems(write(tmp_path, files))) == [
        "README.md: no OldClass in this tree",
        "README.md: no eval.nowhere in this tree",
        "README.md: no old_losses in this tree",
        "docs/a.md: no ../harness/gone.py in this tree",
        "docs/a.md: no harness/old in this tree",
        "harness/nn/loss.py: no docs/gone.md in this tree",
        "harness/nn/loss.py: no harness.nn.lost in this tree",
    ]
