"""What names directions: labelers read named scores off images."""
