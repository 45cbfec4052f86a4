"""What a network costs on hardware, counted on its trained weights."""
