"""StreamDiffusion 0.1.1 on the CPU, over models given as they are."""

import types

import numpy as np
import PIL.Image
import torch

import synthetic


class Clock:
    """What the pipeline uses of torch.cuda.Event."""

    def __init__(self, enable_timing):
        pass

    def record(self):
        pass

    def elapsed_time(self, _):
        return 0.0


torch.cuda.Event = Clock
torch.cuda.synchronize = lambda: None

from diffusers import LCMScheduler  # noqa: E402
from streamdiffusion import StreamDiffusion  # noqa: E402

SIZE = 64


def embedding(name):
    return synthetic.noise(f"prompt/{name}", 1, 77, 32)


class Unet:
    """A UNet with SDXL's further conditioning and with ControlNets, where there are any."""

    def __init__(self, unet, controls=(), scales=(), added=False):
        self.unet, self.controls, self.scales, self.added, self.picture = unet, controls, list(scales), added, None

    def __call__(self, sample, timestep, encoder_hidden_states, return_dict):
        rows = sample.shape[0]
        more = {}
        if self.added:
            more["added_cond_kwargs"] = dict(text_embeds=synthetic.noise("pooled", 1, 16).repeat(rows, 1),
                                             time_ids=torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * rows, dtype=torch.float32))
        total = None
        for control, scale in zip(self.controls, self.scales):
            down, mid = control(sample, timestep, encoder_hidden_states, controlnet_cond=self.picture.repeat(rows, 1, 1, 1),
                                conditioning_scale=scale, return_dict=False, **more)
            new = [*down, mid]
            total = new if total is None else [a + b for a, b in zip(total, new)]
        if total is not None:
            more.update(down_block_additional_residuals=total[:-1], mid_block_additional_residual=total[-1])
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=return_dict, **more)


def stream(unet, vae, t_index, cfg, add_noise, gamma=1.4, delta=0.7, frames=1, prompt="a", negative="b", seed=2,
           encode=lambda prompt, negative_prompt="", **_: (embedding(prompt), embedding(negative_prompt))):
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    pipe = types.SimpleNamespace(
        device=torch.device("cpu"), vae_scale_factor=8, scheduler=scheduler, text_encoder=None, unet=unet, vae=vae,
        encode_prompt=encode)
    made = StreamDiffusion(pipe, t_index, torch_dtype=torch.float32, width=SIZE, height=SIZE, do_add_noise=add_noise,
                           frame_buffer_size=frames, cfg_type=cfg)
    made.prepare(prompt, negative, num_inference_steps=50, guidance_scale=gamma, delta=delta,
                 generator=torch.Generator(), seed=seed)
    inner = made.predict_x0_batch

    def noting(x):
        made.x0 = inner(x)
        return made.x0

    made.predict_x0_batch = noting
    return made


def tables(made):
    names = dict(timestep="sub_timesteps_tensor", alpha_sqrt="alpha_prod_t_sqrt", beta_sqrt="beta_prod_t_sqrt",
                 c_skip="c_skip", c_out="c_out")
    return {name: getattr(made, attribute).float().flatten().clone() for name, attribute in names.items()}


def call(made, index):
    """Runs the frame and gives the latent, the picture of floats and the picture of bytes."""
    picture = synthetic.frame(index, SIZE)
    if isinstance(made.unet, Unet):
        made.unet.picture = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    out = made(PIL.Image.fromarray(picture))
    return made.x0.clone(), finish(out)


def finish(out):
    from streamdiffusion.image_utils import postprocess_image

    pil = postprocess_image(out, output_type="pil")[0]
    return postprocess_image(out, output_type="pt")[0].clone(), torch.from_numpy(np.array(pil))
