"""Commands around cost, hardware and export."""

COMMANDS = ()
