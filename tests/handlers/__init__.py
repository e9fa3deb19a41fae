"""How the reference cases of each code base are run: a file a code base; importing one registers its handlers."""

from handlers import akd_attention, cirkd, cwd, skd

__all__ = ["akd_attention", "cirkd", "cwd", "skd"]
