"""How the reference cases of each code base are run: a file a code base; importing one registers its handlers."""

from handlers import aicsd, akd, akd_attention, akd_overhaul, cirkd, cwd, dist, ifvd, kd, mmrazor, mmrazor_logits, skd
