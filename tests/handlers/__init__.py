"""How the reference cases of each code base are run: a file a code base; importing one registers its handlers."""

from handlers import aicsd, akd, cwd, dist, ifvd, kd, mmrazor_logits, skd

__all__ = ["aicsd", "akd", "cwd", "dist", "ifvd", "kd", "mmrazor_logits", "skd"]
