"""Floor 7: the main job, `python -m rmsprop_optax`.

A recurrent network learns English prose character by character, which is what RMSprop is
known for. Needs the extra `rmsprop_optax[demo]`.
"""
