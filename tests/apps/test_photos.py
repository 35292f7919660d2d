"""Pillow: a folder of photos is turned, thumbnailed and tagged in place."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.support.mounting import needs_fuse

pytestmark = needs_fuse

PHOTOS = 12
SIZE = (640, 480)
TITLE = 0x010E  # the tag ImageDescription of EXIF


def take_photo(path: Path, number: int) -> None:
    """A picture of its own, with its title in its EXIF data."""
    bands = [
        Image.linear_gradient("L").rotate(30 * number),
        Image.radial_gradient("L"),
        Image.effect_noise((256, 256), 8 * number + 1),
    ]
    exif = Image.Exif()
    exif[TITLE] = f"photo {number}"
    Image.merge("RGB", bands).resize(SIZE).save(path, quality=90, exif=exif)


def test_a_folder_of_photos_is_worked_on_in_place(place: Path, cold: Callable[[], None]):
    for number in range(PHOTOS):
        path = place / f"photo{number}.jpg"
        take_photo(path, number)
        with Image.open(path) as photo:
            exif = photo.getexif()
            turned = photo.transpose(Image.Transpose.ROTATE_90)
        turned.save(path, exif=exif)
        turned.thumbnail((120, 120))
        turned.save(place / f"small{number}.png")

    def look() -> dict[str, tuple[object, ...]]:
        found = {}
        for path in sorted(place.iterdir()):
            with Image.open(path) as photo:
                title = photo.getexif().get(TITLE)
                found[path.name] = (photo.format, photo.size, title, photo.tobytes())
        return found

    seen = look()
    assert len(seen) == 2 * PHOTOS
    assert seen["photo3.jpg"][:3] == ("JPEG", SIZE[::-1], "photo 3")
    assert seen["small3.png"][:2] == ("PNG", (90, 120))
    cold()
    assert look() == seen
