"""Golden files: NAME.weights.safetensors and NAME.expected.safetensors (tests/golden/README.md has their names)."""
import pathlib
import re

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import Config, DENOISER_SCALE, Flow, Guidance, Rope, patchify, rope_angles, unpatchify

# Tensors of at most so many elements are stored in double precision.
SMALL = 64
# Official buffers that follow from the configuration.
BUFFERS = re.compile(r"attn_mask$|^feat_rope\.")
INPUTS = ("input.x", "input.y", "input.text", "sample.noise", "sample.text_with_null")


def load(path):
    """Tensors and metadata."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def save(path, tensors, metadata, narrow=True):
    """narrow: large tensors become single precision."""
    stored = lambda t: t.float() if narrow and t.is_floating_point() and t.numel() > SMALL else t
    save_file({name: stored(t.detach()).clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}, path, metadata)


def load_flow(path):
    """The model of a weights file in double precision."""
    tensors, metadata = load(path)
    flow = Flow(Config.from_json(metadata["config"]))
    flow.load_state_dict({name: t for name, t in tensors.items() if not BUFFERS.search(name)})
    return flow.double()


def buffers(flow):
    """The official state_dict's buffers that load_flow() leaves out."""
    config, out = flow.config, {}
    if not config.starflow:
        N = (config.img_size // config.patch_size) ** 2
        return {f"blocks.{i}.attn_mask": torch.ones(N, N).tril() for i in range(config.num_blocks)}
    if config.rope:
        side = config.side
        rope = Rope(rope_angles(config, config.txt_size, (0, side, side)), config.hf_style_rope, torch.float32)
        out["feat_rope.freqs_cos"], out["feat_rope.freqs_sin"] = rope.buffers()
    return out


SAMPLE = re.compile(
    r"^sample\.(?:(?P<plain>plain|sequential)|temp(?P<temperature>[\d.]+)_guid(?P<weight>[\d.]+)_(?P<what>ab?|b)"
    r"|(?P<star>sequential_)?cfg(?P<cfg>[\d.]+?)(?:_(?P<cfg_what>ab?|b))?)(?P<annealed>_annealed)?$"
)


class Expected:
    """Computes what a golden file expects, by name, from its inputs."""

    def __init__(self, flow, tensors, noise_std=0.05):
        """tensors: those of INPUTS that there are, others are left alone; noise_std: TARFlow's score denoiser's."""
        self.flow, self.config, self.noise_std = flow, flow.config, noise_std
        inputs = {name: tensors[name] for name in INPUTS if name in tensors}
        get = lambda name: inputs[name].double() if name in inputs else None
        self.x, self.text, self.noise, self.with_null = (
            get(name) for name in ("input.x", "input.text", "sample.noise", "sample.text_with_null")
        )
        self.y = inputs.get("input.y")

    def layout(self, tokens):
        """Latents as files have them."""
        return unpatchify(self.config, tokens) if self.config.starflow else tokens.flatten(1, 2)

    def forward(self):
        """forward.* and grad.*"""
        flow, out = self.flow, {}
        flow.zero_grad()
        x = self.x.clone().requires_grad_()
        outputs, logdets = flow(x, self.text, self.y)
        loss = flow.loss(outputs, logdets)
        loss.backward()
        out["forward.z"] = self.layout(outputs[-1])
        if self.config.starflow:
            out |= {f"forward.output{i}": t for i, t in enumerate(outputs)}
            for i, logdet in enumerate(logdets):
                # A frame-local block's has its frames apart.
                apart = logdet.shape[0] != x.shape[0]
                out[f"forward.logdet{i}"] = logdet.unflatten(0, (x.shape[0], -1)) if apart else logdet
            out["forward.loss_z"] = 0.5 * outputs[-1].square().mean()
            out["forward.loss_logdet"] = -sum(logdet.mean() for logdet in logdets)
        else:
            out |= {f"forward.block{i}": t.flatten(1, 2) for i, t in enumerate(outputs[1:])}
            out["forward.logdet_mean"] = sum(logdet.mean((1, 2)) for logdet in logdets)
        out["forward.loss"] = loss
        out["grad.x"] = x.grad
        out |= {f"grad.{name}": p.grad for name, p in flow.named_parameters() if p.grad is not None}
        return out

    def sample(self, name):
        match = SAMPLE.match(name)
        if not match:
            raise ValueError(f"{name}: not a sample's name")
        flow, config = self.flow, self.config
        how = {"text": self.text, "y": self.y}
        if config.starflow:
            tokens = patchify(config, self.noise)
            if self.with_null is not None:
                how["text"], how["null_text"] = self.with_null.chunk(2)
        else:
            side = config.img_size // config.patch_size
            tokens = (self.noise * flow.var.sqrt()).unflatten(1, (side, side))
        weight = match["cfg"] or match["weight"]
        if weight:
            what = match["cfg_what"] or match["what"] or "ab"
            how["guidance"] = Guidance(float(weight), what, bool(match["annealed"]))
            how["temperature"] = float(match["temperature"] or 1)
        with torch.no_grad():
            return flow.inverse(tokens, **how)

    def continuation(self):
        with torch.no_grad():
            return self.flow.inverse(patchify(self.config, self.noise), self.text, first_frames=self.x[:, :1])

    def score_denoised(self, sigma):
        return self.x + sigma**2 * self.flow.score(self.x, self.text, self.y)

    def denoiser(self, sigmas):
        """denoise.learned.*"""
        with torch.no_grad():
            o = self.flow.denoiser_output(self.x, self.text)
        denoised = {f"denoise.learned.x_sigma{sigma}_to0": self.x - DENOISER_SCALE * o for sigma in sigmas}
        return {"denoise.learned.output": o} | denoised

    def denoiser_training(self, sigma):
        """denoise.train.*: flow-score matching."""
        flow, prefix = self.flow, f"denoise.train.sigma{sigma}"
        target = -flow.score(self.x, self.text, self.y) * float(sigma) ** 2 / DENOISER_SCALE
        flow.zero_grad()
        loss = (flow.denoiser_output(self.x, self.text) - target).square().mean()
        loss.backward()
        gradients = {
            f"{prefix}.grad.learnable_self_denoiser.{name}": p.grad
            for name, p in flow.learnable_self_denoiser.named_parameters()
        }
        return {f"{prefix}.target": target, f"{prefix}.loss": loss} | gradients

    def compute(self, names):
        """Everything whose names are among NAMES, and what is computed with it."""
        numbers = lambda pattern: sorted({m[1] for name in names if (m := re.match(pattern, name))})
        out = self.forward()
        for sigma in numbers(r"denoise\.score\.sigma([\d.]+)$"):
            out[f"denoise.score.sigma{sigma}"] = self.score_denoised(float(sigma))
        if "denoise.score.x" in names:
            out["denoise.score.x"] = self.score_denoised(self.noise_std)
        if self.config.learnable_self_denoiser:
            out |= self.denoiser(numbers(r"denoise\.learned\.x_sigma([\d.]+)_to0$"))
        for sigma in numbers(r"denoise\.train\.sigma([\d.]+?)\.(?:target|loss|grad)"):
            out |= self.denoiser_training(sigma)
        out |= {name: self.sample(name) for name in names if name.startswith("sample.") and name not in INPUTS}
        if "continue.from_first_frame" in names:
            out["continue.from_first_frame"] = self.continuation()
        return out


def cases(folder):
    """Names of the folder's golden files."""
    return sorted(path.name.split(".")[0] for path in pathlib.Path(folder).glob("*.expected.safetensors"))
