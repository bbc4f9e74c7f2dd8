"""The playground: sliders beside a picture."""
