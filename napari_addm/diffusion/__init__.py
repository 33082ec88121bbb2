"""The mathematics of denoising diffusion: schedules, noises and samplers.

Pure functions of tensors. Nothing here knows about files, brains or networks.
"""
