"""What failures look like, what class they are of, and what is done about them."""
