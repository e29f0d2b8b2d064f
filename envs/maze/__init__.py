"""First-person mazes: layouts, textures, motion, the ray caster, the MiniWorld renderer and scripted walkers."""
