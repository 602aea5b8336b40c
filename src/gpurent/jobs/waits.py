"""The longest waits for what others do, in seconds. What is not done by then is left behind, and asked again.

Each covers everything that one call does: all attempts, all pages. What single requests and host operations may take
is said where they are made: ``http.Policy``, ``gpurent_remote.host``, ``budget.ledger``.
"""

LIST_S = 90.0
"""For everything that one provider lists."""
PRESSING_S = 8.0
"""The same while a machine waits for its order to be destroyed: the order needs no listing."""
LOOK_UP_S = 60.0
"""For what a provider says of one instance, or does for it."""
EXISTS_S = 15.0
"""The same while a training goes on behind a link that is lost."""
CREATE_S = 240.0
"""For the answer to create, and a look at what came of it. Create is never repeated."""
DESTROY_S = 60.0
"""For a provider to accept an order to destroy, asked several times."""
CHARGES_S = 10.0
"""For a bill; it can be asked for later."""
STATEMENT_S = 120.0
"""For everything that was billed in a month, over all pages."""
OFFERS_S = 240.0
"""For a provider's offers: a search of many pages, at the pace that a service allows, is slow."""
NOTE_S = 5.0
"""For a line of the ledger about an order to destroy. The order does not wait for longer than that."""
GLANCE_S = 2.0
"""For a look at the ledger that is taken again soon."""
CALLED_S = 1.5
"""For what is asked of a host by the way, while there is something to tell it."""
WISH_S = 120.0
"""For a host that does not answer, after the user's wish to save and stop."""
