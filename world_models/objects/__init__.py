"""Objects: what models of scenes made of things share, and the models themselves.

attention       reading and writing windows of a frame
"""
