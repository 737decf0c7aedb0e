"""What a request gives (text, images, sound, faces), turned into the tensors the diffusion transformer reads."""
