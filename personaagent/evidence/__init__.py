"""What memory alone says about the options of a closed request, learned from what users chose and rated."""
