"""The app: drop a picture or type a text, and see what the prediction rests on. One page in the browser, made with Gradio.

Everything but `blocks` and `serving` is plain Python that knows nothing of Gradio, which is imported when the app is started.
"""
