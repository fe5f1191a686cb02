#!/usr/bin/env bash
# Snapshots in an object store: the log service against a server that speaks S3 (moto). See s3_test.py; arguments name tests.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

# The server and the client libraries, fetched once. What moto's server needs for S3, without all that it needs for the rest.
REQUIREMENTS=('moto[s3]==5.2.5' boto3==1.44.5 botocore==1.44.5 flask==3.1.3 flask-cors==6.0.5 werkzeug==3.1.9 valkey==6.1.1)
python_packages "s3-$(printf '%s\n' "${REQUIREMENTS[@]}" | sha256sum | cut -c1-16)" "${REQUIREMENTS[@]}"

exec python3 "$HERE/s3_test.py" "$@"
