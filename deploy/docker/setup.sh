#!/bin/sh
# Makes the secrets of compose.yaml: a CA, a certificate for each log service, tokens, and the secret of the three log services.
#
#   setup.sh DIRECTORY USER:GROUP
#
# Writes DIRECTORY/log (for the log services), DIRECTORY/node (for the nodes) and DIRECTORY/operator (for people), with files of mode 0600
# that belong to that user. What is there already is left as it is, so it may run at every start.
set -eu
umask 077

directory=${1:?usage: setup.sh DIRECTORY USER:GROUP}
owner=${2:?usage: setup.sh DIRECTORY USER:GROUP}
log=$directory/log node=$directory/node operator=$directory/operator
if [ -e "$operator/complete" ]; then
    echo "setup: the secrets are there"
    exit 0
fi
mkdir -p "$log" "$node" "$operator"

days=3650
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $days -subj "/CN=log services of durable Valkey" \
    -keyout "$operator/ca.key" -out "$operator/ca.crt" 2>/dev/null
for name in log-a log-b log-c; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
        -keyout "$log/$name.key" -out "$operator/request" 2>/dev/null
    # The services show their certificate to each other as clients, too.
    printf 'subjectAltName = DNS:%s, DNS:localhost, IP:127.0.0.1\nextendedKeyUsage = serverAuth, clientAuth\n' "$name" >"$operator/extensions"
    openssl x509 -req -in "$operator/request" -CA "$operator/ca.crt" -CAkey "$operator/ca.key" -CAcreateserial -days $days \
        -extfile "$operator/extensions" -out "$log/$name.crt" 2>/dev/null
done
rm "$operator/request" "$operator/extensions"
cp "$operator/ca.crt" "$log/ca.crt"
cp "$operator/ca.crt" "$node/ca.crt"

token() { openssl rand -hex 32; }
for role in node discover observe operate; do token >"$operator/token-$role"; done
cp "$operator/token-node" "$node/token"
{
    echo "main $(cat "$operator/token-node") node"
    echo "main $(cat "$operator/token-discover") discover"
    echo "* $(cat "$operator/token-observe") observe"
    echo "* $(cat "$operator/token-operate") operate"
} >"$log/tokens"
token >"$log/peers"

chown -R "$owner" "$log" "$node" "$operator"
touch "$operator/complete"
echo "setup: made a CA, three certificates and tokens in $directory"
