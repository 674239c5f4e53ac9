"""Upkeep of a store that no service uses, in one place: check, move, expire. See the modules for what each does."""

from actors.doctor import doctor
from actors.moving import Moved, migrate, reshard
from actors.retention import expire

__all__ = ["Moved", "doctor", "expire", "migrate", "reshard"]
