"""Games of two players: the players, searches, matches between them, ratings."""
