#!/usr/bin/env bash
# Snapshots in an object store: the log service against a server that speaks S3 (moto). See s3_test.py; arguments name tests.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

# The server and the client libraries, fetched once. What moto's server needs for S3, without all that it needs for the rest.
REQUIREMENTS=('moto[s3]==5.2.5' boto3==1.44.5 botocore==1.44.5 flask==3.1.3 flask-cors==6.0.5 werkzeug==3.1.9 valkey==6.1.1)
LIBRARY=${XDG_CACHE_HOME:-$HOME/.cache}/valkey-durability/python/s3-$(printf '%s\n' "${REQUIREMENTS[@]}" | sha256sum | cut -c1-16)
if [ ! -d "$LIBRARY" ]; then
    mkdir -p "$(dirname "$LIBRARY")"
    fresh=$(mktemp -d "$LIBRARY.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-conflicts \
        --target "$fresh" "${REQUIREMENTS[@]}"
    mv -T "$fresh" "$LIBRARY" 2>/dev/null || rm -rf "$fresh" # another run was faster
fi

PYTHONPATH=$LIBRARY PYTHONDONTWRITEBYTECODE=1 exec python3 "$HERE/s3_test.py" "$@"
