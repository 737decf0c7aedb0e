"""The engine as its callers see it and as TensorRT sees it; a fake TensorRT executes on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import tensorrt_rtx as trt
import torch

from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import guidance_table
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.sampling.schedule import make_scheduler
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.engine import Engine
from humo_rt.tensorrt.exportable import ExportableDiT
from humo_rt.tensorrt.kernel_cache import KernelCache
from humo_rt.tensorrt.profiles import Profile
from humo_rt.tensorrt.scratch import ScratchMemory
from humo_rt.tensorrt.spec import GraphSpec
from tests.tensorrt import fake_tensorrt
from tests.tiny import tiny_pipeline

CPU = torch.device("cpu")
SMALL = Profile(
    smallest=Size(branches=1, frames=2, height=2, width=2),
    typical=Size(branches=2, frames=3, height=4, width=4),
    largest=Size(branches=4, frames=4, height=6, width=6),
)
WIDE = Profile(
    smallest=Size(branches=1, frames=2, height=2, width=8),
    typical=Size(branches=1, frames=3, height=4, width=10),
    largest=Size(branches=4, frames=4, height=6, width=12),
)


@dataclasses.dataclass
class Rig:
    dit: HumoDiT
    engine: Engine
    fake: fake_tensorrt.Engine

    @property
    def context(self) -> fake_tensorrt.Context:
        return self.fake.contexts[0]


def make_rig(tmp_path, layout="frames", scratch=None, compiles_late=False, **parts) -> Rig:
    dit = tiny_pipeline(layout).dit
    spec = GraphSpec(config=dit.config, dtype=torch.float32, **parts)
    fake = fake_tensorrt.Engine(ExportableDiT(dit, mask_predictor=spec.mask_predictor), spec, (SMALL, WIDE))
    engine = Engine(
        dit,
        fake_tensorrt.header(spec, (SMALL, WIDE)),
        fake_tensorrt.loaded(fake, compiles_late=compiles_late),
        source="dit.engine",
        device=CPU,
        kernels=KernelCache(tmp_path / "dit.kernels"),
        scratch=scratch,
    )
    return Rig(dit, engine, fake)


@pytest.fixture
def rig(tmp_path) -> Rig:
    return make_rig(tmp_path)


def call(model, size: Size, seed: int = 0, **options):
    config = model.config
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int):
        return torch.randn(size.branches, *shape, generator=generator)

    x = noise(16, size.frames, size.height, size.width)
    text = noise(config.text_len, config.text_dim)
    audio = noise(size.frames, config.audio_window, config.audio_bands, config.audio_dim)
    if config.image_injection == "channels":
        options["condition"] = noise(20, size.frames, size.height, size.width)
    with torch.no_grad():
        context = model.project_context(text, audio)
        return model(x, torch.full((size.branches,), 500.0), context=context, **options)


def test_a_size_that_does_not_fit_leaves_the_one_before_as_it_was(rig, monkeypatch):
    expected = call(rig.engine, SMALL.smallest).clone()
    empty = torch.empty

    def full(shape, **options):
        if shape[0] == SMALL.largest.branches:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return empty(shape, **options)

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError):
        call(rig.engine, SMALL.largest)
    assert torch.equal(call(rig.engine, SMALL.smallest), expected)


@pytest.mark.parametrize("layout", ["frames", "channels"])
@pytest.mark.parametrize("size", [SMALL.smallest, SMALL.typical, WIDE.largest], ids=str)
def test_the_engine_gives_what_the_model_gives(tmp_path, layout, size):
    rig = make_rig(tmp_path, layout)
    assert torch.equal(call(rig.engine, size), call(rig.dit, size))


def test_the_velocity_of_some_frames(rig):
    size = SMALL.typical
    assert torch.equal(call(rig.engine, size, frames_wanted=2), call(rig.engine, size)[:, :, :2])
    for wanted in (0, size.frames + 1):
        with pytest.raises(ValueError, match=f"frames_wanted is {wanted}: give 1 to the {size.frames} frames"):
            call(rig.engine, size, frames_wanted=wanted)


def test_the_face_mask_and_the_mask_predictor_pass_through(tmp_path):
    rig = make_rig(tmp_path, face_mask=True, mask_predictor=True)
    size = SMALL.typical
    mask = (torch.rand(size.branches, size.frames, size.height, size.width) < 0.5).float()
    velocity, logits = call(rig.engine, size, face_mask=mask, return_face_mask=True)
    expected_velocity, expected_logits = call(rig.dit, size, face_mask=mask, return_face_mask=True)
    assert torch.equal(velocity, expected_velocity)
    assert torch.equal(logits, expected_logits)


def loop_arguments(seed: int = 1) -> tuple[Conditions, torch.Tensor]:
    """Conditions with everything of one video, and its noise."""
    dit = tiny_pipeline("frames").config.dit
    generator = torch.Generator().manual_seed(seed)
    conditions = Conditions(
        text_embeds=[torch.randn(5, dit.text_dim, generator=generator)],
        negative_embeds=torch.randn(2, dit.text_dim, generator=generator),
        audio=torch.randn(1, 2, dit.audio_window, dit.audio_bands, dit.audio_dim, generator=generator),
        reference_latents=torch.randn(1, 16, 1, 4, 6, generator=generator),
    )
    return conditions, torch.randn(1, 16, 3, 4, 6, generator=generator)


@pytest.mark.parametrize("reuse", [None, GuidanceReuse(every=2)], ids=["every branch", "reuse"])
@pytest.mark.parametrize("branch_batch_size", [None, 1, 2])
def test_the_denoise_loop_cannot_tell_an_engine_from_the_model(rig, branch_batch_size, reuse):
    config = tiny_pipeline("frames").config
    conditions, noise = loop_arguments()
    results = [
        denoise(
            model,
            conditions,
            noise,
            guidance=guidance_table(config, conditions.mode),
            scheduler=make_scheduler(3, config.flow_shift, device=CPU),
            branch_batch_size=branch_batch_size,
            reuse=reuse,
        )
        for model in (rig.dit, rig.engine)
    ]
    assert torch.equal(*results)


def test_faces_are_predicted_alike_whatever_runs_together(tmp_path):
    rig = make_rig(tmp_path, face_mask=True, mask_predictor=True)
    conditions, noise = loop_arguments()
    conditions = dataclasses.replace(conditions, predict_faces=0.5)
    names = ("TIA", "TA", "T")
    for size in (None, 1, 2):
        models = [GuidedModel(model, conditions, noise, branch_batch_size=size) for model in (rig.dit, rig.engine)]
        with torch.no_grad():
            for timestep in (900, 500):
                expected, found = (guided.branches(noise, timestep, names) for guided in models)
                assert torch.equal(found, expected)
                assert not torch.equal(found[0], found[2])


def test_a_second_call_of_one_size_only_hands_over_what_moved(rig):
    call(rig.engine, SMALL.typical)
    rig.context.calls.clear()
    call(rig.engine, SMALL.typical, seed=1)
    assert set(rig.context.calls) <= {"address", "execute"}
    assert rig.context.calls.count("execute") == 1
    assert "velocity" not in [name for name in rig.context.addresses if rig.context.addresses[name] == 0]


def test_inputs_are_read_where_they_are(rig):
    size = SMALL.typical
    x = torch.randn(size.branches, 16, size.frames, size.height, size.width)
    context = rig.engine.project_context(
        torch.zeros(size.branches, 4, rig.dit.config.text_dim),
        torch.zeros(size.branches, size.frames, 8, 5, rig.dit.config.audio_dim),
    )
    velocity = rig.engine(x, torch.zeros(size.branches), context=context)
    assert rig.context.addresses["latents"] == x.data_ptr()
    assert rig.context.addresses["text_keys"] == context.tensors["text_keys"].data_ptr()
    assert rig.context.addresses["velocity"] == velocity.data_ptr()


def test_the_profile_follows_the_size(rig):
    call(rig.engine, SMALL.typical)
    assert rig.context.profile == 0
    call(rig.engine, WIDE.typical)
    assert rig.context.profile == 1
    call(rig.engine, SMALL.largest)
    assert rig.context.profile == 0


def test_a_size_outside_names_the_options_that_fit(rig):
    size = Size(branches=5, frames=4, height=8, width=10)
    with pytest.raises(ValueError, match=r"5 branches, 4 frames, 8x10 fit no profile of dit\.engine") as error:
        call(rig.engine, size)
    options = "--size 48x48 --size 96x48 --size 80x64 --num-frames 9 --branches 5 --references 2"
    assert str(error.value).endswith(f"build an engine with {options}")


def test_engines_share_one_block_of_memory(tmp_path):
    scratch = ScratchMemory(CPU)
    first, second = make_rig(tmp_path, scratch=scratch), make_rig(tmp_path, scratch=scratch)
    call(first.engine, SMALL.smallest)
    call(second.engine, SMALL.largest)
    assert second.context.scratch == (scratch.address, scratch.nbytes)
    # The block has moved: the first engine must be told before it runs again.
    call(first.engine, SMALL.smallest)
    assert first.context.scratch == second.context.scratch


def test_a_failing_call_is_an_error(rig):
    call(rig.engine, SMALL.typical)
    rig.context.fails = True
    rig.engine._loaded.messages.errors.append("illegal memory access")
    with pytest.raises(RuntimeError, match=r"refused to run with dit\.engine: illegal memory access"):
        call(rig.engine, SMALL.typical)


def test_tensors_on_another_device_are_refused(rig):
    size = SMALL.typical
    with pytest.raises(ValueError, match="latents is on meta, dit.engine runs on cpu"):
        rig.engine.run({"latents": torch.empty(size.branches, 16, size.frames, size.height, size.width, device="meta")})


def test_a_plan_that_is_not_its_headers_is_refused(tmp_path):
    dit = tiny_pipeline("frames").dit
    spec = GraphSpec(config=dit.config, dtype=torch.float32)
    other = dataclasses.replace(spec, dtype=torch.float16)
    fake = fake_tensorrt.Engine(ExportableDiT(dit, mask_predictor=False), other, (SMALL,))
    with pytest.raises(ValueError, match=r"text_keys, text_values\): rebuild it with humo-rt"):
        Engine(
            dit,
            fake_tensorrt.header(spec, (SMALL,)),
            fake_tensorrt.loaded(fake),
            source="dit.engine",
            device=CPU,
            kernels=KernelCache(tmp_path / "dit.kernels"),
        )


def test_the_fake_has_nothing_that_tensorrt_lacks():
    pairs = {
        fake_tensorrt.Context: trt.IExecutionContext,
        fake_tensorrt.Engine: trt.ICudaEngine,
        fake_tensorrt.RuntimeConfig: trt.IRuntimeConfig,
        fake_tensorrt.RuntimeCache: trt.IRuntimeCache,
    }
    for fake, real in pairs.items():
        assert {name for name in vars(fake) if not name.startswith("_")} <= set(dir(real))
    assert hasattr(trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert hasattr(trt.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")


def test_kernels_compiled_at_a_new_size_are_kept_for_the_next_start(tmp_path):
    rig = make_rig(tmp_path, compiles_late=True)
    assert rig.fake.config.dynamic_shapes_kernel_specialization_strategy == "eager"
    call(rig.engine, SMALL.typical)
    assert (tmp_path / "dit.kernels").read_bytes() == b"k"
    call(rig.engine, SMALL.typical)
    assert (tmp_path / "dit.kernels").read_bytes() == b"k"
    again = make_rig(tmp_path, compiles_late=True)
    assert again.fake.config.cache.content == b"k"
    call(again.engine, SMALL.largest)
    assert (tmp_path / "dit.kernels").read_bytes() == b"kk"


def test_kernels_of_another_card_are_compiled_again(tmp_path, caplog):
    (tmp_path / "dit.kernels").write_bytes(b"foreign")
    make_rig(tmp_path, compiles_late=True)
    assert "belongs to another card or driver" in caplog.text
