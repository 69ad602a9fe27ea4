"""From a name or a folder and a raw picture or sentence to tensors and labels.

Importing this package is light: Transformers and Pillow are imported when a model is loaded or a picture is read.
"""
