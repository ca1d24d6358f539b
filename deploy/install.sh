#!/bin/sh
# Installs Postern: PREFIX=/usr/local DESTDIR= deploy/install.sh BINARY
#
# Programs, manuals, units and examples go below PREFIX and are replaced. What
# an administrator edits (/etc/postern/postern.hcl, /etc/pam.d/postern,
# /etc/logrotate.d/postern) is written only where it does not exist. Nothing is
# started, enabled or created beside files; the end tells what is left to do.
set -eu
umask 022

binary=${1:?usage: PREFIX=/usr/local DESTDIR= $0 BINARY}
prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
here=$(dirname "$0")
bindir=$prefix/bin
libdir=$prefix/lib
share=$prefix/share

# put MODE SOURCE TARGET replaces TARGET, with the places of PREFIX filled in.
put() {
	mkdir -p "$(dirname "$destdir$3")"
	sed "s#@BINDIR@#$bindir#g; s#@SHAREDIR@#$share#g" "$2" >"$destdir$3.new"
	chmod "$1" "$destdir$3.new"
	mv -f "$destdir$3.new" "$destdir$3"
}

# keep MODE SOURCE TARGET is put where TARGET does not exist yet.
keep() {
	if [ -e "$destdir$3" ]; then
		echo "install: $3 exists and is left alone"
		return
	fi
	put "$@"
}

mkdir -p "$destdir$bindir"
install -m 0755 "$binary" "$destdir$bindir/postern.new"
mv -f "$destdir$bindir/postern.new" "$destdir$bindir/postern" # a running one keeps its file

put 0644 "$here/man/postern.8" "$share/man/man8/postern.8"
put 0644 "$here/man/postern.hcl.5" "$share/man/man5/postern.hcl.5"
for unit in postern.service postern-pam.socket postern-pam.service; do
	put 0644 "$here/systemd/$unit" "$libdir/systemd/system/$unit"
done
put 0644 "$here/sysusers.d/postern.conf" "$libdir/sysusers.d/postern.conf"
for example in "$here"/examples/*.hcl; do
	put 0644 "$example" "$share/doc/postern/examples/$(basename "$example")"
done
for document in "$here"/../docs/*.md; do
	put 0644 "$document" "$share/doc/postern/$(basename "$document")"
done

keep 0644 "$here/examples/minimal.hcl" /etc/postern/postern.hcl
keep 0644 "$here/pam.d/postern" /etc/pam.d/postern
keep 0644 "$here/logrotate/postern" /etc/logrotate.d/postern

[ -z "$destdir" ] || exit 0
cat <<END
Postern is installed. As root, to run it:
  systemd-sysusers && systemctl daemon-reload     # once: makes the user postern
  \$EDITOR /etc/postern/postern.hcl                # examples: $share/doc/postern/examples
  runuser -u postern -- postern config check      # as the user that must read its files
  systemctl enable --now postern
and, where passwords are verified by PAM:
  systemctl enable --now postern-pam.socket
END
