"""Tests the slices of the GPU page: stopping, failing, and a rehearsal without a GPU."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_page
from benchmarks.gpu_page import Slice, advance

FIGURES = {
    "matching_sweep_s": 0.01,
    "model_update_640_s": 0.004,
    "compile_s": 20.0,
    "peer": {"matching_sweep_s": 0.03, "model_update_640_s": 0.008, "compile_s": 2.0},
    "ratios": {"sweep": [3.0], "update": [2.0]},
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return slices that each run one script, in a temporary folder of modules."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def made(name: str, code: str, folder: Path | None = None) -> Slice:
        module = "slice_" + name.replace(" ", "_")
        (tmp_path / f"{module}.py").write_text(code)
        return Slice(name, (module,), json.loads, folder)

    return made


def test_a_failure_is_recorded_and_the_other_slices_run(fake, tmp_path: Path) -> None:
    broken = fake("bfloat16", "import sys; print('warming up'); sys.exit('no kernel image')")
    good = fake("float32", f"print({json.dumps(json.dumps(FIGURES))})")
    assert advance([broken, good], tmp_path / "work", tmp_path / "page.md", 60) == []
    page = (tmp_path / "page.md").read_text()
    assert "no kernel image" in page and "warming up" in page
    assert "| float32 | 10 | 4 | 22.5 | 20.0 | 30 | 8 | 3.00 | 2.00 |" in page

    again = fake("bfloat16", f"print({json.dumps(json.dumps(FIGURES))})")
    advance([again, good], tmp_path / "work", tmp_path / "page.md", 60)
    assert "no kernel image" in (tmp_path / "page.md").read_text()
    advance([again, good], tmp_path / "work", tmp_path / "page.md", 60, retry=True)
    assert "no kernel image" not in (tmp_path / "page.md").read_text()


def test_a_stopped_run_resumes(fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_page, "GRACE", 0.2)
    folder = tmp_path / "run"
    code = f"""
import json, pathlib, sys, time
folder = pathlib.Path({str(folder)!r})
if "--resume" not in sys.argv:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("1\\n2\\n")
    time.sleep(60)
accuracy, seconds = dict(mean=66.6, std=0.3), dict(pretrain=10, distill=40)
print(json.dumps(dict(accuracy=accuracy, seconds=seconds, steps=dict(outer=4, inner=10), peak_bytes=2**30)))
"""
    long = fake("ipc 10", code, folder)
    quick = fake("float32", f"print({json.dumps(json.dumps(FIGURES))})")
    assert advance([long, quick], tmp_path / "work", None, 2) == ["ipc 10", "float32"]
    assert "stopped, 2 outer steps" in (tmp_path / "work" / "gpu.md").read_text()
    assert advance([long, quick], tmp_path / "work", None, 60) == []
    page = (tmp_path / "work" / "gpu.md").read_text()
    assert "| 10 | 66.60 ± 0.30 | 67.1 | 10 | 40 | 1000.0 | 1.00 | - | - |" in page


def test_a_command_longer_than_a_call_fails(fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_page, "GRACE", 0.2)
    slow = fake("float32", "import time; time.sleep(60)")
    assert advance([slow], tmp_path, None, 1) == []
    assert "stopped after 1 s" in (tmp_path / "gpu.md").read_text()


def test_a_time_limit_of_zero_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_page.main(["digits", "--workdir", str(tmp_path), "--minutes", "0"]) == 2
    assert "minutes is 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run every slice at tiny sizes, moving the workdir to another folder between two calls."""
    first = ["digits", "--smoke", "--workdir", str(tmp_path / "work")]
    assert gpu_page.main(first) == 0
    assert "all slices are finished" in capsys.readouterr().out
    state = json.loads((tmp_path / "work" / "slices.json").read_text())
    assert {each["status"] for each in state.values()} == {"done"}, state
    page = (tmp_path / "work" / "gpu.md").read_text()
    assert sys.version.split()[0] in page and "rehearsal" in page
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    assert gpu_page.main([*first[:3], str(tmp_path / "elsewhere")]) == 0
    assert "all slices are finished" in capsys.readouterr().out
