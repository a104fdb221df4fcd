_base_ = ['./_base_/models/cdnv2_b.py', './_base_/recipes/in1k_original.py']

model = dict(head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss')))
