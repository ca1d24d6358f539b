#!/bin/sh
# Installs what the tests drive Postern against: slapd, 389 Directory Server, Samba's
# domain controller, MIT Kerberos, Dovecot, Cyrus, Postfix, fail2ban, mbsync, mutt, offlineimap, pflogsumm, OpenDKIM, ClamAV, rspamd, HAProxy, PAM headers and modules, swaks, curl, fetchmail, Python, Thunderbird, Node.js
# with the npm packages of cmd/gateway/testdata/clients. Does nothing where all of it is there.
# Where it cannot, it says what is missing and goes on: the tests that need it
# are then skipped on a workstation, and fail where CI=true.
set -eu

packages="389-ds-base build-essential ca-certificates clamav-daemon clamav-milter curl cyrus-clients cyrus-common dovecot-core dovecot-imapd dovecot-lmtpd dovecot-pop3d fetchmail gsasl haproxy
krb5-admin-server krb5-kdc krb5-user ldap-utils ldb-tools mariadb-client mariadb-server libkrb5-dev libnet-ssleay-perl libnss3-tools libpam0g-dev libpam-wrapper
libpam-modules libsasl2-modules-gssapi-mit libxml2-utils opendkim openssl fail2ban isync mutt offlineimap3 pflogsumm postfix postfix-ldap postfix-pcre postgresql python3 rspamd
postfix-policyd-spf-python postgrey
samba samba-ad-provision samba-dsdb-modules samba-vfs-modules sasl2-bin slapd swaks thunderbird"
# Node.js often comes from elsewhere than from the distribution, with npm in it.
command -v node >/dev/null || packages="$packages nodejs"
command -v npm >/dev/null || packages="$packages npm"

# npm_packages installs what package-lock.json says, each by its checksum and without running anything of it, into the
# user's cache. The copy of the file is the last to come: it says that all is there.
npm_packages() {
	from="$(dirname "$0")/../cmd/gateway/testdata/clients"
	to="${XDG_CACHE_HOME:-$HOME/.cache}/postern-tests/npm"
	cmp -s "$from/package-lock.json" "$to/package-lock.json" && return 0
	command -v npm >/dev/null || return 0
	echo "deps: installing npm packages"
	new="$to.new.$$"
	mkdir -p "$new" && cp "$from/package.json" "$from/package-lock.json" "$new" &&
		npm ci --prefix "$new" --ignore-scripts --no-audit --no-fund --silent && rm -rf "$to" && mv "$new" "$to" ||
		echo "deps: npm ci failed; the tests that need its packages are left out" >&2
	rm -rf "$new"
}
trap npm_packages EXIT

missing=""
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
		missing="$missing $package"
done
[ -n "$missing" ] || exit 0
# Another mail transport agent than Postfix stays, unless these scripts once chose it: the tests that ask Postfix's
# tables are then left out.
if dpkg-query -W -f '${Package} ${Status} ${Provides}\n' | grep -Ev '^(postfix|msmtp-mta) ' | grep -q 'install ok installed.*mail-transport-agent'; then
	missing=$(echo " $missing " | sed 's/ postfix / /; s/ postfix-ldap / /')
	[ -n "$(echo "$missing" | tr -d ' ')" ] || exit 0
fi

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
trap '[ -z "$made_policy" ] || $as_root rm -f "$policy"; npm_packages' EXIT
echo 'slapd slapd/no_configuration boolean true' | $as_root debconf-set-selections
echo 'postfix postfix/main_mailer_type select No configuration' | $as_root debconf-set-selections
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq"
# shellcheck disable=SC2086 # the lists are meant to be split
$apt update && $apt -y --no-install-recommends install $missing >/dev/null ||
	go_on "apt-get failed"
