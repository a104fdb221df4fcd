_base_ = ['./_base_/models/condensenet_74.py', './_base_/recipes/in1k_original.py']

model = dict(backbone=dict(arch='v1-74-g8'))
# CondenseNet's group lasso; here it includes the classifier.
custom_hooks = [dict(type='SparsificationHook', group_lasso=1e-5)]
