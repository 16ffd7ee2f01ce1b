#!/bin/sh
# Prints the three Secrets of the control plane, made anew, for `kubectl apply -f -`. Needs openssl.
#
#   deploy/secrets.sh | kubectl apply -f -         once: to run it again is to make another mesh
#
# DAYS: how long the certificates are valid. NAMESPACE: where the control plane runs. TRUST_DOMAIN, CLUSTER_DOMAIN: as in the chart.
set -eu
umask 077
namespace=${NAMESPACE:-outrider-system}
domain=${CLUSTER_DOMAIN:-cluster.local}
trust=${TRUST_DOMAIN:-cluster.local}
days=${DAYS:-3650}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM
cd "$dir"

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# NAME SUBJECT: an authority, which signs others but no further authorities.
authority() {
  key "$1.key"
  openssl req -x509 -new -key "$1.key" -sha256 -days "$days" -subj "/CN=$2" -out "$1.crt" -config - <<CONFIG
[req]
distinguished_name = subject
x509_extensions = authority
[subject]
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONFIG
}

secret() {
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\n' "$1" "$namespace"
  # A type that the control plane does not ask Kubernetes for: no Gateway can serve it.
  printf 'type: outrider.dev/private\ndata:\n'
  shift
  for entry; do
    printf '  %s: %s\n' "${entry%%=*}" "$(openssl base64 -A <"${entry#*=}")"
  done
}

authority server-ca "outrider control plane"
key server.key
openssl req -new -key server.key -subj /CN=outrider-control -out server.csr
cat >server.cnf <<CONFIG
subjectAltName = DNS:outrider-control.$namespace.svc, DNS:outrider-control.$namespace.svc.$domain, DNS:outrider-control.$namespace, DNS:outrider-control, DNS:localhost, IP:127.0.0.1
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
CONFIG
openssl x509 -req -in server.csr -CA server-ca.crt -CAkey server-ca.key -CAcreateserial -sha256 -days "$days" \
  -extfile server.cnf -out server.crt 2>openssl.log || { cat openssl.log >&2; exit 1; }

authority mesh "outrider mesh $trust"

printf 'outrider_%s' "$(openssl rand -hex 32)" >admin.token
printf '# NAME ROLE sha256:HEX\nadmin admin sha256:%s\n' "$(openssl dgst -sha256 -r admin.token | cut -d ' ' -f 1)" >tokens

secret outrider-control-tls tls.crt=server.crt tls.key=server.key ca.crt=server-ca.crt
secret outrider-control-authority ca.crt=mesh.crt ca.key=mesh.key root.crt=mesh.crt
secret outrider-control-tokens tokens=tokens admin.token=admin.token
