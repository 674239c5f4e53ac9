"""What is said of a user: personas, what their claims are counted from, and the profile of facts."""
