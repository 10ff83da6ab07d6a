#!/bin/sh
# A second implementation of `touchstone verify`, with openssl, jq and sha256sum alone.
#
#     sh verify-bundle.sh BUNDLE ROOT.pem
#
# It checks signatures, threshold, chain, file set, digests, validity and the log's proof. It does
# not compute the verdict again, ask for the status or replay the golden vectors. Needs OpenSSL 3.
# Exit status: 0 all of it holds; 1 not, and the last line says why.
set -eu
LC_ALL=C
export LC_ALL

fail() {
    echo "FAIL  $*" >&2
    exit 1
}
ok() { echo "ok    $*"; }

[ $# -eq 2 ] || fail "usage: sh verify-bundle.sh BUNDLE ROOT.pem"
bundle=$1 root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

sha256() { sha256sum "$1" | cut -d' ' -f1; }
# A leaf of `root`, valid at the second $2, for one usage ($3) and nothing else.
check_leaf() {
    openssl verify -x509_strict -attime "$2" -CAfile "$root" "$1" >/dev/null 2>&1 ||
        fail "a certificate was not issued by this root, or was not valid when it was logged"
    openssl x509 -in "$1" -noout -text >"$work/text"
    sed -n '/Extended Key Usage/{n;p;}' "$work/text" | tr -d ' ' >"$work/usage"
    [ "$(cat "$work/usage")" = "$3" ] || fail "a certificate is for another usage than $3 alone"
    grep -q 'CA:FALSE' "$work/text" || fail "a signing certificate is an authority"
}
field() { openssl x509 -in "$1" -noout -subject -nameopt multiline,utf8,-esc_msb | sed -n "s/^ *$2 *= //p"; }

# 1. The statement, and when the log took it in.
for name in certificate.json signers.pem enrolments.json log.json; do
    [ -f "$bundle/$name" ] && [ ! -L "$bundle/$name" ] || fail "$name is missing or a link"
done
jq -je .payload "$bundle/certificate.json" | base64 -d >"$work/statement" || fail "no statement"
[ "$(jq -r .payloadType "$bundle/certificate.json")" = application/vnd.in-toto+json ] ||
    fail "certificate.json holds another kind of document"
[ "$(jq -r .predicateType "$work/statement")" = urn:touchstone:validation-certificate:v1 ] ||
    fail "the statement is no validation certificate (v1)"
statement=sha256:$(sha256 "$work/statement")
jq -e '.entries | length == 1' "$bundle/log.json" >/dev/null || fail "log.json proves no one event"
[ "$(jq -r '.entries[0].event.kind' "$bundle/log.json")" = certificate-issued ] &&
    [ "$(jq -r '.entries[0].event.detail | fromjson | .statement' "$bundle/log.json")" = "$statement" ] ||
    fail "log.json is about another certificate"
at=$(jq -r '.entries[0].event.at' "$bundle/log.json")
logged=$(jq -r '.entries[0].event.at[0:19] + "Z" | fromdate' "$bundle/log.json")
[ "$logged" -le $(($(date +%s) + 600)) ] || fail "this machine's clock is behind the log's"
openssl x509 -in "$root" -noout -checkend 0 >/dev/null || fail "the root is not valid today"

# 2. Signatures over "DSSEv1 <length> <type> <length> <statement>".
type=application/vnd.in-toto+json
{
    printf 'DSSEv1 %d %s %d ' ${#type} $type "$(wc -c <"$work/statement")"
    cat "$work/statement"
} >"$work/signed"
awk -v at="$work/leaf" '/BEGIN CERT/ { n++ } { print > (at n ".pem") }' "$bundle/signers.pem"
owner=$(jq -r .predicate.model.organisation "$work/statement")
: >"$work/people"
for leaf in "$work"/leaf*.pem; do
    check_leaf "$leaf" "$logged" CodeSigning
    openssl x509 -in "$leaf" -noout -pubkey >"$work/key.pem"
    openssl pkey -pubin -in "$work/key.pem" -outform DER >"$work/key.der"
    id=sha256:$(sha256 "$work/key.der")
    jq -je --arg id "$id" '[.signatures[] | select(.keyid == $id)] | if length == 1 then .[0].sig
        else empty end' "$bundle/certificate.json" | base64 -d >"$work/signature"
    openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/signed" \
        >/dev/null 2>&1 || fail "the signature of $(field "$leaf" commonName) does not fit"
    person=$(field "$leaf" commonName) organisation=$(field "$leaf" organizationName)
    [ -n "$person" ] && [ "$(printf '%s\n' "$person" "$organisation" | wc -l)" -eq 2 ] ||
        fail "a certificate does not name one person of one organisation"
    [ "$organisation" != "$owner" ] || fail "a signer belongs to $owner"
    printf '%s\n' "$person ($organisation)" >>"$work/people"
done
[ "$(jq '.signatures | length' "$bundle/certificate.json")" = "$(wc -l <"$work/people")" ] ||
    fail "a signature is of nobody in signers.pem"
[ "$(sort -u "$work/people" | wc -l)" -ge 2 ] || fail "fewer than two people signed"
ok "signed by $(sort -u "$work/people" | paste -sd, - | sed 's/,/ and /g'), logged $at"

# 3. Exactly the files that were signed over, and every digest.
find "$bundle" ! -type d ! -type f | grep . >&2 && fail "a link, or something that is no file"
find "$bundle" -type f -links +1 | grep . >&2 && fail "a file with two names"
(cd "$bundle" && find . -mindepth 1 -type f) | sed 's|^\./||' | sort >"$work/found"
{
    jq -r '.subject[].name' "$work/statement"
    printf '%s\n' certificate.json enrolments.json log.json signers.pem
} | sort >"$work/named"
cmp -s "$work/found" "$work/named" || {
    diff "$work/named" "$work/found" >&2 || true
    fail "the files are not exactly those that were signed over"
}
jq -r '.subject[] | .digest.sha256 + "  " + .name' "$work/statement" >"$work/sums"
grep -Ev '^[0-9a-f]{64}  [A-Za-z0-9_][A-Za-z0-9_./-]*$' "$work/sums" >&2 && fail "an unsafe name"
(cd "$bundle" && sha256sum --check --strict --quiet "$work/sums" >&2) || fail "a file was changed"
ok "$(wc -l <"$work/sums") files, as they were signed over"

# 4. In force.
after=$(jq -r '.predicate.not_after[0:19] + "Z" | fromdate' "$work/statement")
[ "$(date +%s)" -lt "$after" ] || fail "the certificate expired"
ok "in force until $(jq -r '.predicate.not_after[0:10]' "$work/statement")"

# 5. The log's key under the root, its signature over the state, and the event in that state.
jq -jr .certificate "$bundle/log.json" >"$work/log.pem"
check_leaf "$work/log.pem" "$logged" 2.25.164976030997063541390901020250705141089
jq -jr .checkpoint "$bundle/log.json" >"$work/note"
sed '/^$/,$d' "$work/note" >"$work/state"
origin=$(sed -n 1p "$work/state") size=$(sed -n 2p "$work/state")
[ "$(field "$work/log.pem" commonName)" = "$origin" ] || fail "the state is of another log"
case $size in "" | 0* | *[!0-9]*) fail "the log's size is no number" ;; esac # before it is counted with
openssl x509 -in "$work/log.pem" -noout -pubkey >"$work/log.key"
sed '1,/^$/d' "$work/note" | while read -r dash name line; do
    [ "$dash $name" = "— $origin" ] || continue
    printf %s "$line" | base64 -d | tail -c +5 >"$work/signature"
    openssl pkeyutl -verify -pubin -inkey "$work/log.key" -rawin -in "$work/state" \
        -sigfile "$work/signature" >/dev/null 2>&1 && : >"$work/signed-by-log"
done || true
[ -e "$work/signed-by-log" ] || fail "the log did not sign this state"
{
    printf '\000'
    jq -jcS '.entries[0].event' "$bundle/log.json"
} | openssl dgst -sha256 -binary >"$work/hash"
seq=$(jq '.entries[0].event.seq' "$bundle/log.json")
case $seq in "" | 0* | *[!0-9]*) fail "the event's number is none" ;; esac
index=$((seq - 1)) last=$((size - 1))
[ "$index" -ge 0 ] && [ "$index" -le "$last" ] || fail "the event lies outside of the log"
jq -r '.entries[0].path[]' "$bundle/log.json" >"$work/path"
while read -r step; do # RFC 9162, 2.1.3.2
    [ "$last" -gt 0 ] || fail "the proof is longer than the log"
    printf %s "$step" | base64 -d >"$work/step"
    if [ $((index & 1)) -eq 1 ] || [ "$index" -eq "$last" ]; then
        set -- "$work/step" "$work/hash"
        while [ $((index & 1)) -eq 0 ] && [ "$index" -gt 0 ]; do
            index=$((index >> 1)) last=$((last >> 1))
        done
    else
        set -- "$work/hash" "$work/step"
    fi
    {
        printf '\001'
        cat "$1" "$2"
    } | openssl dgst -sha256 -binary >"$work/next"
    mv "$work/next" "$work/hash"
    index=$((index >> 1)) last=$((last >> 1))
done <"$work/path"
[ "$last" -eq 0 ] && [ "$(base64 -w0 "$work/hash")" = "$(sed -n 3p "$work/state")" ] ||
    fail "the log does not hold this certificate"
ok "in the log $origin of $size events"
