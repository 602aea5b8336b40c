"""What ``Broker`` does, a verb or two in each module. They share ``Resources`` and know ports only."""
