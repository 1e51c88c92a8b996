import json
import os
import re
import shutil
import subprocess
import sys

import numpy
import pytest

from egeunet.environment import environment


def run(script, *arguments, cwd, **variables):
    return json.loads(
        subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=cwd,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


@pytest.fixture
def checkout(tmp_path):
    """A git checkout that holds a copy of the module, and a way to ask it."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    source = sys.modules[environment.__module__].__file__
    (tmp_path / "package").mkdir()
    shutil.copy(source, tmp_path / "package" / "environment.py")
    script = tmp_path / "package" / "tell.py"
    script.write_text("import json, environment; print(json.dumps(environment.environment()))\n")

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init")
    return tmp_path, script, git


def test_what_ran_is_told():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["numpy"] == numpy.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", found["versions"]["egeunet"])
    assert found["cpu"]
    assert 1 <= found["cores"] <= os.cpu_count()


def test_the_commit_and_whether_files_were_changed(checkout):
    folder, script, git = checkout
    (folder / "results.jsonl").touch()
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1")  # the commit is wanted, not its name
    commit = git("rev-parse", "HEAD")
    assert run(script, cwd=folder.parent, PYTHONDONTWRITEBYTECODE="1")["git_commit"] == commit
    (folder / "results.jsonl").write_text("a row, as the package writes them\n")
    assert run(script, cwd=folder.parent)["git_commit"] == commit
    script.write_text(script.read_text() + "# changed\n")
    assert run(script, cwd=folder.parent)["git_commit"] == f"{commit}-dirty"


def test_a_checkout_around_an_installed_package_is_not_taken_for_its_own(checkout):
    folder, script, git = checkout
    git("commit", "--allow-empty", "-m", "another project, the package is not part of it")
    assert run(script, cwd=folder)["git_commit"] is None


def test_it_works_without_git(checkout):
    folder, script, _ = checkout
    assert run(script, cwd=folder, PATH="/nowhere")["git_commit"] is None


def test_the_command_line_is_kept_as_it_can_be_typed(checkout):
    folder, script, _ = checkout
    assert run(script, "train", "a b", cwd=folder)["command"] == "tell.py train 'a b'"
    (folder / "program").mkdir()
    shutil.copy(folder / "package" / "environment.py", folder / "program")
    shutil.copy(script, folder / "program" / "__main__.py")
    found = run(folder / "program" / "__main__.py", "--help", cwd=folder)
    assert found["command"] == "program --help"


def test_absolute_paths_of_the_command_line_are_kept_by_name(checkout):
    folder, script, _ = checkout
    words = ("train", "/home/me/x.yaml", "data.root=/home/me/skin", "out=runs/x")
    told = run(script, *words, cwd=folder)["command"]
    assert told == "tell.py train x.yaml data.root=skin out=runs/x"
    words = ("distill.teacher=[/home/me/a,runs/b]", "augmentation.scale=[0.8,1.2]")
    told = run(script, *words, cwd=folder)["command"]
    assert told == "tell.py 'distill.teacher=[a,runs/b]' 'augmentation.scale=[0.8,1.2]'"
