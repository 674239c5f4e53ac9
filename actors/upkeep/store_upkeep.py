"""Upkeep of a store that no service uses, in one place: check, move, expire. See the modules for what each does."""

from actors.memory.retention import expire
from actors.upkeep.doctor import doctor
from actors.upkeep.move import Moved, migrate, reshard

__all__ = ["Moved", "doctor", "expire", "migrate", "reshard"]
