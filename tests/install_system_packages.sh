#!/bin/sh
# The browser for tests of the report, and fortunes for the suite knghtbrd, where this system lets us.
# Elsewhere those tests skip and say so.
if command -v chromium >/dev/null && [ -f /usr/share/games/fortunes/knghtbrd ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium and fortunes are not installed here, so tests that need them are skipped" >&2
    exit 0
fi
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes chromium fortunes fortunes-min \
    fonts-dejavu-core >/dev/null
