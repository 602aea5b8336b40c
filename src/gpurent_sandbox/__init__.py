"""A marketplace on loopback: real API, real SSH hosts, play money, faults to order. Needs the extra ``sandbox``."""
