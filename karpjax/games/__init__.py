"""Games of two players: who plays them, matches between them, ratings."""
