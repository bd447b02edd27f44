"""Files: read with distrust (`reading`, `npz`), written whole (`writing`, `tensors`).

`locks` holds a folder for one process, `hub` has folders of the Hugging Face hub.
"""
