#!/usr/bin/env bash
# Installs what the tests need (Debian packages) and runs all of them: gates, unit tests, race detector, e2e.
#
#   ./e2e/test.sh          everything, as root or in a user namespace
#   ./e2e/test.sh unit     gates and unit tests only, needs no rights
#   ./e2e/test.sh e2e      the tests in network namespaces only; further arguments go to go test
#
#   ./e2e/test.sh e2e -run Attack   attackers and a bystander, whose latency under attack is held to 50 ms. It takes ten
#                          minutes and wants both cores for itself, which is why "everything" leaves it out.
#
# E2E_REQUIRED=1 (the default here) turns every skip into a failure. Set it to 0 to run what this machine can.
set -euo pipefail
cd "$(dirname "$0")/.."
export E2E_REQUIRED=${E2E_REQUIRED:-1}

packages=(bind9 bind9-dnsutils bind9-utils ca-certificates chromium curl dnsmasq-base dnsperf haproxy iperf3 iproute2 isc-dhcp-client
	isc-dhcp-server kea-dhcp4-server kea-dhcp6-server knot-dnsutils ldnsutils libnss3-tools ndisc6 nftables nginx-light nsd openssl
	procps radvd socat tcpdump tshark udhcpc unbound)

# What is built is kept nowhere: the next run builds it again from the build cache.
bin=$(mktemp -d)
chmod 755 "$bin"
policy=/usr/sbin/policy-rc.d
as=()
policy_is_ours=
clean_up() {
	rm -rf "$bin"
	if [ -n "$policy_is_ours" ]; then "${as[@]}" rm -f "$policy"; fi
}
trap clean_up EXIT

say() { printf '\n== %s\n' "$*"; }

install_packages() {
	local missing=() p
	for p in "${packages[@]}"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return
	say "installing ${missing[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "These packages are missing, and installing them needs root:" >&2
			echo "  sudo apt-get install ${missing[*]}" >&2
			[ "$E2E_REQUIRED" = 1 ] && exit 1
			return
		fi
		as=(sudo -n)
	fi
	# The daemons are started by the tests, never by the installation.
	if [ ! -e "$policy" ]; then
		policy_is_ours=yes
		printf '#!/bin/sh\nexit 101\n' | "${as[@]}" install -m 755 /dev/stdin "$policy"
	fi
	"${as[@]}" apt-get update -qq
	"${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build_tools builds the programs that Debian does not have, of the versions in e2e/tools/go.mod, into $bin.
build_tools() {
	say "building the linters and pebble; the first time takes some minutes"
	(cd e2e/tools && go build -o "$bin/" tool)
}

# The platforms that everything builds for. Only Linux serves; elsewhere the commands say so.
platforms=(linux/amd64 linux/arm64 darwin/arm64 freebsd/amd64 windows/amd64)

gates() {
	say "gates: go mod tidy, go fix"
	go mod tidy -diff
	go fix -diff ./...
	local platform
	for platform in "${platforms[@]}"; do
		say "gates: go vet for $platform"
		CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} go vet ./...
	done
	say "gates: golangci-lint"
	"$bin/golangci-lint" run ./...
	say "gates: deadcode"
	local dead
	dead=$("$bin/deadcode" -test ./...)
	if [ -n "$dead" ]; then
		printf 'dead code:\n%s\n' "$dead" >&2
		return 1
	fi
}

# unit runs after gates, which have downloaded every module: a user namespace has no network to do that.
unit() {
	local pkgs
	pkgs=$(go list ./... | grep -vE '/e2e(/bench)?$')
	say "unit tests"
	# shellcheck disable=SC2086
	in_namespaces go test -shuffle=on -timeout 10m $pkgs
	say "unit tests, race detector"
	# shellcheck disable=SC2086
	in_namespaces go test -race -shuffle=on -timeout 15m $pkgs
}

# in_namespaces runs a command with the right to make network namespaces: as it is for root, else in a user
# namespace of its own.
in_namespaces() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		unshare --user --map-root-user --net --mount --pid --fork --mount-proc -- \
			bash -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' bash "$@"
	fi
}

# e2e builds first, because a user namespace has no network to download modules with.
e2e() {
	say "e2e: programs of Debian trixie"
	./e2e/trixie.sh || [ "$E2E_REQUIRED" != 1 ]
	say "e2e: the built binary among real programs"
	go build -o "$bin/cfrd" ./cmd/cfrd
	[ -x "$bin/pebble" ] || (cd e2e/tools && go build -o "$bin/pebble" github.com/letsencrypt/pebble/v2/cmd/pebble)
	go test -c -o "$bin/e2e.test" ./e2e
	(cd e2e && E2E_CFRD="$bin/cfrd" E2E_PEBBLE="$bin/pebble" in_namespaces "$bin/e2e.test" -test.count=1 -test.timeout 30m "${@/#-/-test.}")
}

case ${1:-all} in
all)
	install_packages
	build_tools
	gates
	unit
	e2e -skip '^TestAttack'
	say "all passed"
	;;
unit)
	build_tools
	gates
	unit
	;;
e2e)
	shift
	install_packages
	e2e "$@"
	;;
*)
	sed -n '2,11p' "$0" >&2
	exit 2
	;;
esac
