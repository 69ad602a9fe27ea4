"""How the models of the zoo were trained: one script each, run from the root of the repository, and what they share.

    python -m training.vit_scenes --data FOLDER --out src/regard/zoo/vit-scenes

No part of the installed package. A script writes a whole folder of `regard.zoo`, its card among it.
"""
