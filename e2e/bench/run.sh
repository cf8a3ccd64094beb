#!/usr/bin/env bash
# Measures cfrd beside Debian's Unbound and HAProxy, alternating in one run, and prints the table of the README.
# Needs two cores, root (or a user namespace) and the packages that e2e/test.sh installs. Takes about four minutes.
#
#   ./e2e/bench/run.sh [-rounds 5] [-seconds 3] [-only dns|tcp] [-against PATH]   PATH: another cfrd to compare with
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/cfrd" ./cmd/cfrd
go build -o "$bin/bench" ./e2e/bench
run=("$bin/bench" -cfrd "$bin/cfrd" "$@")
if [ "$(id -u)" -eq 0 ]; then
	"${run[@]}"
else
	unshare --user --map-root-user --net --mount --pid --fork --mount-proc -- \
		bash -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' bash "${run[@]}"
fi
