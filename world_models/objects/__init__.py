"""Objects: what models of scenes made of things share, and the models themselves.

attention       reading and writing windows of a frame
presence        how many objects there are, as a chain of yes and no
scene           the state: slots whose order means nothing, numbers that objects keep
rendering       a picture composed of objects that hide each other, or whose light adds up
propagation     what becomes of objects, and discovery: which are new
apdr            the model: attend, propagate, discover, repeat
air             of single frames: attend, infer, repeat
"""
