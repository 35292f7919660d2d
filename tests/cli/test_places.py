"""Which volume a user means."""

import pytest

from aggfs.cli.client import NotRunning
from aggfs.cli.places import (
    Target,
    accounts_directory,
    all_places,
    place_meant,
    place_of,
    target_meant,
)
from aggfs.errors import NoEntry


def make_known(name: str):
    place = place_of(name)
    place.config_path.parent.mkdir(parents=True)
    place.config_path.write_text("")
    return place


def test_volumes_are_where_the_desktop_wants_them(home):
    place = place_of("photos")
    assert place.config_path == home / "config/aggfs/photos/config.toml"
    assert place.state_directory == home / "state/aggfs/photos"
    assert accounts_directory("photos") == home / "data/aggfs/photos/accounts"
    assert not place.exists


def test_the_only_volume_needs_no_name(home):
    photos = make_known("photos")
    assert place_meant(None) == photos
    assert all_places() == [photos]


def test_a_directory_without_a_configuration_is_no_volume(home):
    (home / "config/aggfs/empty").mkdir(parents=True)
    assert all_places() == []
    with pytest.raises(NoEntry):
        place_meant("empty")


def test_a_path_may_name_the_volume_it_is_in(home):
    photos = make_known("photos")
    assert target_meant("photos:/a/../b//c") == Target(photos, "/b/c")
    assert target_meant("photos:/") == Target(photos, "/")


@pytest.mark.parametrize("text", ["music:/a", "photos:a", "/photos:/a", "a"])
def test_a_path_outside_of_any_folder_is_told_so(home, text):
    make_known("photos")
    with pytest.raises(NotRunning, match="is in no mounted folder"):
        target_meant(text)
