from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from humo_rt.conditions.text import TextConditioner, load_tokenizer
from humo_rt.config import TextEncoderConfig
from humo_rt.model.encoders import build_text_encoder
from humo_rt.weights.load import load_into
from training.task import Moment, Task
from training.tasks import text_encoder
from training.tasks.captions_pool import labelled_captions
from training.tasks.text_encoder import TextEncoderTask, TextEncoderTaskConfig

CPU = torch.device("cpu")
CONFIG = TextEncoderTaskConfig(
    encoder=TextEncoderConfig(vocab_size=512, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2),
    captions=120,
    held_out_captions=20,
    batch_size=16,
    validate_every=5,
)


@pytest.fixture(scope="module")
def task():
    patch = pytest.MonkeyPatch()
    patch.setattr(text_encoder, "tokenizer_corpus", lambda seed: labelled_captions(100, seed, "train")[0])
    task = TextEncoderTask(CONFIG)
    task.prepare(CPU, 0, 1)
    yield task
    patch.undo()


def _moment(step: int) -> Moment:
    return Moment(seed=0, step=step, index=step)


def test_a_few_steps_lower_both_losses(task):
    assert isinstance(task, Task)
    torch.manual_seed(0)
    model = task.build(CPU).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = task.batch(_moment(1))
    history = []
    for _ in range(15):
        loss, scalars = task.loss(model, batch, _moment(1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append(scalars)
    for name in ("tokens", "attributes"):
        assert history[-1][name] < 0.8 * history[0][name]


def test_masks_hide_only_words(task):
    ids = task.pool.ids_NL
    masked, hidden = task._mask(ids, torch.Generator().manual_seed(0))
    assert (masked[hidden] == 2).all()
    assert torch.equal(masked[~hidden], ids[~hidden])
    assert ((masked == 1) == (ids == 1)).all()
    assert 0.1 < (hidden.sum() / (ids > 2).sum()) < 0.3


def test_padding_has_no_influence(task):
    model = task.build(CPU).eval()
    ids = task.pool.ids_NL[:4]
    length = int((ids[0] != 0).sum())
    with torch.no_grad():
        alone = model(ids[:1, :length])
        among = model(ids)[:1, :length]
        named, same = model.attributes(ids[:1, :length], alone), model.attributes(ids, model(ids))
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)
    torch.testing.assert_close(named[0], same[0][:1], atol=1e-5, rtol=0)


def test_examinations_are_repeatable_and_appear_when_due(task):
    model = task.build(CPU)
    _, scalars = task.loss(model, task.batch(_moment(5)), _moment(5))
    assert scalars["held_out/tokens_right"] == task.examine(model)["held_out/tokens_right"]
    assert "held_out/attributes_right" in scalars
    assert model.training == task.build(CPU).training


def test_the_shipped_files_serve_prompts(task, tmp_path):
    model = task.build(CPU)
    task.export(model.state_dict(), tmp_path / "text_encoder.safetensors")
    stored = load_file(tmp_path / "text_encoder.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    with torch.device("meta"):
        encoder = build_text_encoder(CONFIG.encoder)
    load_into(encoder, stored, dtype=torch.float32, device="cpu", optional=())
    conditioner = TextConditioner(load_tokenizer(tmp_path / "tokenizer.json"), encoder, max_length=64)
    features, empty = conditioner.encode(["A woman with red hair.", ""])
    assert features.shape[1] == 32
    assert empty.shape == (1, 32)
    assert torch.isfinite(features).all()


def test_a_foreign_tokenizer_is_refused(task, tmp_path):
    (tmp_path / "tokenizer.json").write_text(task.tokenizer_json)
    small = dataclasses.replace(CONFIG.encoder, vocab_size=300)
    wrong = TextEncoderTask(dataclasses.replace(CONFIG, encoder=small, tokenizer=str(tmp_path / "tokenizer.json")))
    with pytest.raises(ValueError, match="the encoder 300"):
        wrong.prepare(CPU, 0, 1)
