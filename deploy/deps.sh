#!/bin/sh
# Installs what the tests drive Postern against: slapd, Dovecot, Cyrus, PAM headers
# and modules, swaks, curl, Python. Does nothing where all of it is there.
# Where it cannot, it says what is missing and goes on: the tests that need it
# are then skipped on a workstation, and fail where CI=true.
set -eu

packages="build-essential ca-certificates curl cyrus-common dovecot-core dovecot-imapd dovecot-lmtpd ldap-utils
libnet-ssleay-perl libpam0g-dev libpam-wrapper libpam-modules python3 sasl2-bin slapd swaks"

missing=""
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
		missing="$missing $package"
done
[ -n "$missing" ] || exit 0
# Cyrus wants a mail transport agent beside it. Where there is none, this one has
# no daemon, unlike the one apt would choose.
dpkg-query -W -f '${Status} ${Provides}\n' | grep -q '^install ok installed.*mail-transport-agent' || missing="$missing msmtp-mta"

# go_on WHY ends here: what is missing is for the tests to say.
go_on() {
	echo "deps: $1; to run every test, install:$missing" >&2
	exit 0
}

if [ "$(id -u)" = 0 ]; then
	as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root="sudo"
else
	go_on "neither root nor a sudo that asks for no password"
fi
command -v apt-get >/dev/null || go_on "no apt-get here (below are Debian's names)"

echo "deps: installing$missing"
# Tests start their own private servers: keep the packages from starting theirs.
policy=/usr/sbin/policy-rc.d
made_policy=""
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
	$as_root chmod 755 "$policy"
	made_policy=yes
fi
trap '[ -z "$made_policy" ] || $as_root rm -f "$policy"' EXIT
echo 'slapd slapd/no_configuration boolean true' | $as_root debconf-set-selections
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq"
# shellcheck disable=SC2086 # the lists are meant to be split
$apt update && $apt -y --no-install-recommends install $missing >/dev/null ||
	go_on "apt-get failed"
