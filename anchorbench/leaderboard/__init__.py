"""The board: entries, how they are trained and checked, and the page that shows them."""
