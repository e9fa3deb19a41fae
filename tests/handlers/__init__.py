"""How the reference cases of each code base are run: a file a code base; importing one registers its handlers."""

from handlers import aicsd, cwd, dist, ifvd, kd, mmrazor_logits, skd

__all__ = ["aicsd", "cwd", "dist", "ifvd", "kd", "mmrazor_logits", "skd"]
