#!/usr/bin/env bash
# Unpacks programs of Debian trixie into e2e/.cache/trixie, whatever Debian this machine runs: Kea 2.6, which knows the
# Encrypted DNS options by name, and systemd 257, the first client to take them. Nothing is installed and no right is
# needed. The folder is kept, and made again only when what is in it would change.
#
#   ./e2e/trixie.sh        prints the folder's path when all is there
#
# The packages come from the mirror that apt is configured with here, or from E2E_TRIXIE_MIRROR.
set -euo pipefail
cd "$(dirname "$0")"

suite=trixie
packages=(kea-dhcp4-server kea-dhcp6-server openssl systemd systemd-resolved)
tree=$PWD/.cache/$suite
wanted="$suite ${packages[*]}"

say() { printf '%s: %s\n' "$suite" "$*" >&2; }

complete() { [ "$(cat "$tree/.complete" 2>/dev/null)" = "$wanted" ]; }

# mirror prints where this machine gets its Debian packages.
mirror() {
	local uri
	if [ -n "${E2E_TRIXIE_MIRROR:-}" ]; then
		echo "$E2E_TRIXIE_MIRROR"
		return
	fi
	# shellcheck disable=SC1091,SC2016
	uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
		awk -v release="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$1 == release {print $2; exit}')
	if [ -z "$uri" ]; then
		say "apt names no mirror of Debian here; set E2E_TRIXIE_MIRROR"
		return 1
	fi
	echo "$uri"
}

# fetch downloads the packages and all that they depend on into $1, with an apt that knows of no other.
fetch() {
	local apt=$1 uri
	uri=$(mirror)
	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	: >"$apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$apt/sources.list"
	cat >"$apt/apt.conf" <<-END
		Dir::State "$apt";
		Dir::State::lists "$apt/lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt";
		Dir::Cache::archives "$apt/archives";
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Log "$apt";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::http::Timeout "30";
		APT::Update::Error-Mode "any";
		#clear APT::Update::Post-Invoke;
		#clear DPkg::Post-Invoke;
		APT::Install-Recommends "false";
		APT::Keep-Downloaded-Packages "true";
		APT::Sandbox::User "";
	END
	export APT_CONFIG=$apt/apt.conf
	say "reading the list of packages"
	apt-get update -qq
	say "downloading ${packages[*]} and what they need"
	apt-get install -y -qq --download-only "${packages[@]}" >/dev/null
}

# unpack fills the folder $2 from the packages in $1.
unpack() {
	local from=$1 to=$2 deb
	mkdir -p "$to"
	# Its links from /bin to /usr/bin and the like come before what other packages put there.
	dpkg-deb -x "$from"/base-files_*.deb "$to"
	for deb in "$from"/*.deb; do
		dpkg-deb -x "$deb" "$to"
	done
	rm -rf "$to"/usr/share/{doc,i18n,info,locale,man,lintian,zoneinfo} "$to"/usr/lib/*/perl*
}

make_tree() {
	local work
	mkdir -p .cache
	# What runs left behind that were ended.
	find .cache -maxdepth 1 -name "$suite.*" -mmin +60 -exec rm -rf {} +
	work=$(mktemp -d "$PWD/.cache/$suite.XXXXXX")
	chmod 755 "$work"
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	fetch "$work/apt"
	say "unpacking $(find "$work/apt/archives" -name '*.deb' | wc -l) packages"
	unpack "$work/apt/archives" "$work/tree"
	echo "$wanted" >"$work/tree/.complete"
	rm -rf "$tree"
	mv "$work/tree" "$tree"
	say "ready, $(du -sh "$tree" | cut -f1)"
}

if ! complete; then
	# Not "make_tree ||": a function in a condition runs without set -e.
	(make_tree) &
	wait $! || {
		say "not complete; once more"
		(make_tree)
	}
fi
echo "$tree"
