"""hpctrack templates, and the scripts of the gallery."""

import json
import shutil
import subprocess

import pytest

from hpctrack.cli.verbs import templates

GALLERY = {"array", "checkpoint_requeue", "mpi", "parameters", "single_gpu", "torchrun"}


def test_the_gallery_is_listed(command_line):
    code, out, err = command_line("templates")
    assert (code, err) == (0, "")
    assert {line.split()[0] for line in out.splitlines()} == GALLERY
    assert {
        template["name"] for template in json.loads(command_line("templates", "--json")[1])["templates"]
    } == GALLERY


@pytest.mark.parametrize("name", sorted(GALLERY))
def test_a_template_is_printed_copied_and_sound(command_line, name, tmp_path):
    code, text, err = command_line("templates", name)
    assert (code, err) == (0, "")
    assert text.startswith("#!/bin/bash\n# ")
    assert "\n#SBATCH --time=" in text
    assert f"\n#HPCTRACK --experiment={name.replace('_', '-')}\n" in text
    assert command_line("templates", name, "-o", str(tmp_path)) == (0, f"{tmp_path}/{name}.sh\n", "")
    assert (tmp_path / f"{name}.sh").read_text() == text
    subprocess.run([shutil.which("bash"), "-n", tmp_path / f"{name}.sh"], check=True)


def test_nothing_is_overwritten(command_line, tmp_path):
    path = tmp_path / "mine.sh"
    path.write_text("mine")
    code, _, err = command_line("templates", "array", "-o", str(path))
    assert (code, err) == (2, f"hpctrack: {path} exists already: nothing is overwritten\n")
    assert path.read_text() == "mine"


def test_an_unknown_name_is_answered_with_the_known_ones(command_line):
    code, _, err = command_line("templates", "nope")
    assert code == 2
    assert all(name in err for name in GALLERY)
    assert command_line("templates", "-o", "x")[0] == 2


def test_every_template_has_a_line():
    assert all(0 < len(template.about) < 110 for template in templates.gallery())
