"""The playground: sliders beside a picture. `app.py` is the page, `playground.py` what it can do; only the former knows Gradio."""
