"""From noise to latents: which branches run at a timestep, how they are combined, how the sampler advances."""
