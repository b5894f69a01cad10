"""What is in the latents?"""
