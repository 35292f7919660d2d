"""Photos, films and documents, changed in place on the mount by the programs people use."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

PHOTOS = Path("/usr/share/backgrounds/mate/nature")  # of Debian's mate-backgrounds
LINES = 2000


def test_photos_are_changed_in_place(place: Path, cold: Callable[[], None]):
    for photo in PHOTOS.glob("*.jpg"):
        shutil.copy2(photo, place)
    photos = sorted(place.glob("*.jpg"))
    assert len(photos) > 10

    def signatures() -> str:
        return run("identify", "-format", "%f %m %w %h %#\n", *photos, at=place, seconds=600)

    before = signatures()
    run("mogrify", "-resize", "50%", "-strip", *photos, at=place, seconds=600)
    run("montage", *photos, "-geometry", "160x120", "sheet.png", at=place, seconds=600)
    after = signatures()
    assert before != after
    cold()
    assert signatures() == after
    assert "PNG" in run("identify", "sheet.png", at=place)


def test_a_film_is_written_probed_and_cut(place: Path, cold: Callable[[], None]):
    def ffmpeg(*arguments: str) -> str:
        return run("ffmpeg", "-nostdin", "-v", "error", *arguments, at=place, seconds=600)

    def frames(film: str) -> str:
        return ffmpeg("-i", film, "-an", "-f", "framemd5", "-")

    source = ("-f", "lavfi", "-i", "testsrc=size=640x360:rate=25:duration=20")
    sound = ("-f", "lavfi", "-i", "sine=duration=20")
    # faststart: written once, then moved to make room for the index at the front
    ffmpeg(*source, *sound, "-movflags", "+faststart", "film.mp4")
    ffmpeg("-ss", "5", "-i", "film.mp4", "-t", "10", "-c", "copy", "cut.mkv")
    seen = [frames(film) for film in ("film.mp4", "cut.mkv")]
    cold()
    assert [frames(film) for film in ("film.mp4", "cut.mkv")] == seen
    asked = ("-v", "error", "-show_format", "-show_streams", "-of", "json")
    told = json.loads(run("ffprobe", *asked, "film.mp4", at=place))
    assert float(told["format"]["duration"]) == 20
    assert {stream["codec_type"] for stream in told["streams"]} == {"video", "audio"}


def test_a_document_is_converted_in_place(place: Path, cold: Callable[[], None]):
    text = "".join(f"Line {number} of a letter.\n" for number in range(LINES))
    (place / "letter.txt").write_text(text)

    def convert(kind: str, name: str) -> Path:
        profile = f"-env:UserInstallation={(place / 'profile').as_uri()}"
        headless = ("--headless", "--convert-to", kind, "--outdir", place, place / name)
        run("soffice", profile, *headless, at=place, seconds=600)
        return place / f"{Path(name).stem}.{kind.partition(':')[0]}"

    convert("odt", "letter.txt")
    convert("docx", "letter.odt")
    assert convert("pdf", "letter.docx").read_bytes().startswith(b"%PDF-")
    cold()
    assert zipfile.ZipFile(place / "letter.docx").testzip() is None
    (place / "letter.txt").unlink()
    assert convert("txt:Text", "letter.docx").read_text("utf-8-sig").split() == text.split()
