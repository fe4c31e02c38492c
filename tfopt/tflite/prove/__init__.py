"""What a file holds, compared with what the stages promised."""
