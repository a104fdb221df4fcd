_base_ = ['./_base_/models/cdnv2_a.py', './_base_/recipes/in1k_augmented.py']
