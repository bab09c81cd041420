"""What stands in for the folders and servers that a page names: small, made on the spot, without network."""

from pathlib import Path

import numpy as np


class Placeholders:
    """Each method makes what its name says and returns the text to put in a page's code."""

    def __init__(self, folder: Path, tiny_pipeline):
        self.folder, self.tiny_pipeline = folder, tiny_pipeline
        self.closing = []

    def tiny_sounds(self) -> str:
        """A folder with six sound files and their `metadata.csv`."""
        import soundfile

        folder = self.folder / "sounds"
        folder.mkdir(exist_ok=True)
        rng, rows = np.random.default_rng(0), ["file_name,caption"]
        for i in range(6):
            name = f"{i}.wav"
            soundfile.write(folder / name, 0.1 * rng.standard_normal(16000), 16000)
            rows.append(f"{name},{'a dog barks' if i % 2 else 'rain on a tin roof'}")
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
        return str(folder)

    def captions(self) -> str:
        """A text file with three captions."""
        path = self.folder / "captions.txt"
        path.write_text("a dog barks\nrain on a tin roof\na train\n")
        return str(path)

    def prompt_table(self) -> str:
        """A table with two prompts, one of them named."""
        path = self.folder / "prompts.csv"
        path.write_text("name,prompt,seed,duration\n# the yard\ndog,a dog barks,7,\n,a police siren,3,4\n")
        return str(path)

    def tiny_teacher(self) -> str:
        """An AudioLDM pipeline with random weights."""
        from tiny_teachers import make_teacher

        make_teacher("audioldm", self.folder / "teacher", self.tiny_pipeline)
        return str(self.folder / "teacher")

    def recording(self) -> str:
        """Three seconds of noise that swells and fades, at 44.1 kHz."""
        import soundfile

        path = self.folder / "recording.wav"
        swell = np.hanning(3 * 44100)
        soundfile.write(path, 0.3 * swell * np.random.default_rng(0).standard_normal(len(swell)), 44100)
        return str(path)

    def app_server(self) -> str:
        """The address of a running app with the embedded model."""
        from diffusers_soundctm import SoundCTMPipeline
        from diffusers_soundctm.app import build_app, launch

        pipe = SoundCTMPipeline.from_embedded()
        pipe.set_progress_bar_config(disable=True)
        app = build_app(pipe)
        _, url, _ = launch(app, server_port=None, prevent_thread_lock=True, quiet=True)
        self.closing.append(app.close)
        return url.rstrip("/")
