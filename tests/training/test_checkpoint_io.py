"""Checkpoint files: whole or as they were, checked before they are read, never code."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from lightning_rlhf import DPOModule, SFTModule
from lightning_rlhf.training import checkpoint_io
from lightning_rlhf.training.checkpoint_io import SafeCheckpointIO, read
from runs import Runs

CHECKPOINT = {"state_dict": {"w": torch.arange(300.0)}, "n": 1, "text": "x" * 200}


@pytest.fixture
def runs(light: Runs) -> Runs:
    return light


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "step=1.ckpt")
    os.utime(tmp_path / "step=1.ckpt", (1, 1))
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "step=2.ckpt")
    return tmp_path / "step=2.ckpt"


class Evil:
    """A pickle that makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in ``served``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = (tmp_path / "served" / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "served").mkdir()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_every_flipped_bit_is_named_or_harmless(saved: Path) -> None:
    whole, draw, named = saved.read_bytes(), random.Random(0), 0
    for _ in range(300):
        bits = bytearray(whole)
        bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
        saved.write_bytes(bits)
        said, found = "", CHECKPOINT
        try:
            found = read(saved)
        except ValueError as error:
            said = str(error)
        # else a bit that nobody reads, between two tensors
        assert torch.equal(found["state_dict"]["w"], CHECKPOINT["state_dict"]["w"])
        assert {k: found[k] for k in ("n", "text")} == {"n": 1, "text": "x" * 200}
        if said:
            assert "step=2.ckpt is damaged" in said and "step=1.ckpt, the one before it" in said
            named += 1
    assert named > 150


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_named(saved: Path, share: float) -> None:
    saved.write_bytes(saved.read_bytes()[: int(share * saved.stat().st_size)])
    with pytest.raises(ValueError, match=r"damaged, it is not complete.*go on from .*step=1.ckpt"):
        read(saved)
    (saved.parent / "step=1.ckpt").unlink()
    with pytest.raises(ValueError, match="no earlier checkpoint is beside it: start anew"):
        read(saved)


def test_a_save_that_fails_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved.read_bytes()

    def full(checkpoint: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"step=2.ckpt cannot be written: No space left.*free"):
        SafeCheckpointIO().save_checkpoint(CHECKPOINT, saved)
    assert saved.read_bytes() == whole
    assert not list(saved.parent.glob(".*.part"))


def test_temporary_files_of_a_killed_save_are_cleared(saved: Path) -> None:
    (saved.parent / ".step=9.ckpt.part").write_bytes(b"half")
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, saved)
    assert sorted(p.name for p in saved.parent.iterdir() if not p.name.endswith(".lock")) == [
        "step=1.ckpt",
        "step=2.ckpt",
    ]


def test_a_folder_in_the_way_is_named(saved: Path) -> None:
    (saved.parent / "step=3.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"cannot be written: Is a directory; something is in the"):
        SafeCheckpointIO().save_checkpoint(CHECKPOINT, saved.parent / "step=3.ckpt")


@pytest.mark.parametrize(
    "address", ["{server}/evil.ckpt", "file://{folder}/evil.ckpt", "{folder}/evil.ckpt"]
)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_no_address_runs_code(tmp_path: Path, served: str, address: str, form: str) -> None:
    folder = tmp_path / "served"
    evil = {"state_dict": Evil(tmp_path / "ran")}
    if form == "pickle":
        (folder / "evil.ckpt").write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, folder / "evil.ckpt", _use_new_zipfile_serialization=form == "zip")
    name = address.format(server=served, folder=folder)
    for load in (read, SafeCheckpointIO().load_checkpoint, SFTModule.load_from_checkpoint):
        with pytest.raises(ValueError, match=r"holds more than weights|not a checkpoint"):
            load(name)
    assert not (tmp_path / "ran").exists()


def test_an_honest_checkpoint_is_read_from_an_address(tmp_path: Path, served: str) -> None:
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "served" / "a.ckpt")
    found = SafeCheckpointIO().load_checkpoint(f"{served}/a.ckpt")
    assert torch.equal(found["state_dict"]["w"], CHECKPOINT["state_dict"]["w"])
    with pytest.raises(FileNotFoundError, match="no checkpoint could be read from"):
        read(f"{served}/b.ckpt")


def test_it_is_installed_under_any_trainer_and_leaves_an_own_one(runs: Runs) -> None:
    class Own(TorchCheckpointIO):
        pass

    for plugin, expected in [
        (None, SafeCheckpointIO),
        (AsyncCheckpointIO(), AsyncCheckpointIO),
        (AsyncCheckpointIO(Own()), AsyncCheckpointIO),
        (Own(), Own),
    ]:
        module, data = runs.make("sft", rows=12)
        trainer = runs.trainer(max_steps=1, plugins=plugin)
        trainer.fit(module, data)
        used = trainer.strategy.checkpoint_io
        assert type(used) is expected
        if isinstance(used, AsyncCheckpointIO):
            inner = (
                Own
                if plugin._base_checkpoint_io_configured and type(plugin.checkpoint_io) is Own
                else SafeCheckpointIO
            )
            assert type(used.checkpoint_io) is inner


def test_load_from_checkpoint_imports_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = runs.make("dpo", rows=12)
    trainer = runs.trainer(max_steps=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    assert isinstance(DPOModule.load_from_checkpoint(tmp_path / "good.ckpt"), DPOModule)

    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    stored = torch.load(tmp_path / "good.ckpt")
    for name in ("evilmod.f", "antigravity.fly", "xml.sax.expatreader.AttributesImpl"):
        stored["hyper_parameters"]["loss"] = name
        torch.save(stored, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=f"names {name}, and the module .* not been imported"):
            DPOModule.load_from_checkpoint(tmp_path / "bad.ckpt")
        with (tmp_path / "bad.ckpt").open("rb") as file, pytest.raises(ValueError, match="names"):
            DPOModule.load_from_checkpoint(io.BytesIO(file.read()))
    assert not (tmp_path / "ran").exists()


# ---- what it belongs to ----


def fit(runs: Runs, folder: Path, **kwargs: Any) -> Path:
    module, data = runs.make("sft", rows=16)
    keep = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True)
    options = {"max_steps": 2, "enable_checkpointing": True, "callbacks": [keep]}
    runs.trainer(**options).fit(module, data, **kwargs)
    return folder / "last.ckpt"


def test_another_base_is_refused(runs: Runs, tmp_path: Path) -> None:
    last = fit(runs, tmp_path / "kept")
    other, data = runs.make("sft", rows=16)
    other.configure_model()
    with torch.no_grad():  # of the same shape: one entry differs
        other.backbone.base.get_input_embeddings().weight[3, 5] += 1
    for verb in ("fit", "validate"):
        with pytest.raises(ValueError, match=r"is of another base model: it was trained on"):
            getattr(runs.trainer(max_steps=4), verb)(other, data, ckpt_path=str(last))


def test_other_versions_and_settings_are_told_in_a_line(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = fit(runs, tmp_path / "kept")
    stored = torch.load(last)
    stored["belongs_to"]["versions"]["peft"] = "0.1"
    torch.save(stored, last)
    module, data = runs.make("sft", rows=16, seed=7)
    caplog.clear()
    runs.trainer(max_steps=3).fit(module, data, ckpt_path=str(last))
    said = [r.getMessage() for r in caplog.records if "belonging" in r.name]
    assert len(said) == 2
    assert "of a run with other settings: data.seed (there 0, here 7)" in said[0]
    assert "was written with peft 0.1 (here" in said[1]


def test_weights_alone_cannot_be_resumed(runs: Runs, tmp_path: Path) -> None:
    module, data = runs.make("sft", rows=16)
    trainer = runs.trainer(max_steps=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    module, data = runs.make("sft", rows=16)
    with pytest.raises(ValueError, match=r"holds weights and no optimizer_states"):
        runs.trainer(max_steps=2).fit(module, data, ckpt_path=str(tmp_path / "weights.ckpt"))
    runs.trainer().validate(module, data, ckpt_path=str(tmp_path / "weights.ckpt"), verbose=False)


def test_a_checkpoint_of_nan_is_neither_written_nor_read(runs: Runs, tmp_path: Path) -> None:
    last = fit(runs, tmp_path / "kept")
    module, data = runs.make("sft", rows=16)
    trainer = runs.trainer(max_steps=1)
    trainer.fit(module, data)
    with torch.no_grad():
        module.backbone.role_parameters("policy")[0].view(-1)[-1] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite weights, first in .*lora"):
        trainer.save_checkpoint(tmp_path / "nan.ckpt")
    assert not (tmp_path / "nan.ckpt").exists()

    stored = torch.load(last)
    next(v for k, v in stored["state_dict"].items() if "lora" in k).fill_(float("inf"))
    torch.save(stored, last)
    with pytest.raises(ValueError, match=r"last.ckpt holds NaN or infinite weights"):
        fit(runs, tmp_path / "again", ckpt_path=str(last))


def test_a_save_costs_no_more_than_lightnings(tmp_path: Path) -> None:
    """The bytes are the same, since the checksums are torch's own."""
    big = {"state_dict": {str(i): torch.randn(100_000) for i in range(20)}}
    sizes = []
    for kind in (TorchCheckpointIO, SafeCheckpointIO):
        kind().save_checkpoint(big, tmp_path / f"{kind.__name__}.ckpt")
        sizes.append((tmp_path / f"{kind.__name__}.ckpt").stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 1000
    began = time.perf_counter()
    assert checkpoint_io.peek(tmp_path / "SafeCheckpointIO.ckpt")
    assert time.perf_counter() - began < 2
