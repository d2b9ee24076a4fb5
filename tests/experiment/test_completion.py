"""Words for the shell's completion key, asked of a real bash."""

import io
import shutil
import subprocess
from contextlib import redirect_stdout

import pytest

from fedjax_rec.experiment.completion import SHELLS
from fedjax_rec.experiment.main import main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    place, files = tmp_path_factory.mktemp("completion"), {}
    for shell in SHELLS:
        told = io.StringIO()
        with redirect_stdout(told):
            assert main(["completion", shell]) == 0
        files[shell] = place / shell
        files[shell].write_text(told.getvalue())
    return files


def completed(script, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    line = " ".join(f"'{word}'" for word in ("fedjax-rec", *words))
    asked = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _fedjax_rec; "
    done = subprocess.run(
        ["bash", "-c", asked + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


CASES = [
    (("sw",), {"sweep"}),
    (("run", "quick"), {"quickstart"}),
    (("run", "quickstart", "--strategy", "fedpr"), {"fedprox"}),
    (("run", "quickstart", "--strategy.uplink", "top"), {"top_k", "top_k_per_row"}),
    (("run", "quickstart", "--rounds", "3", "--evaluation.ev"), {"--evaluation.every"}),
    (("sweep", "quickstart", "--work"), {"--workers"}),
    (("list", "comp"), {"compressors"}),
    (("data", "about", "gowal"), {"gowalla"}),
    (("data", "check", "ratings.csv", "--sep"), {"--separator"}),
    (("bench", "cohort", "clic"), {"clicks"}),
    (("explain", "evaluation.can"), {"evaluation.candidates"}),
    (("help", "recom"), {"recommend"}),
    (("report", "runs", "--ht"), {"--html"}),
    (("recommend", "runs/"), set()),  # the shell's own files
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_keys_and_names(scripts):
    for words, wanted in CASES:
        assert set(completed(scripts["bash"], *words)) == wanted, words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(scripts, shell):
    text = scripts[shell].read_text()
    assert "quickstart" in text and "evaluation.every" in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", scripts[shell]], check=True)


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "use one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err
