"""The leaderboard: entries, how they are trained and verified, and the page that shows them."""
