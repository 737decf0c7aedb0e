"""HuMo as a runtime: text, reference images and audio in, a video of a person speaking out."""
