#!/bin/sh
# Installs Postern: PREFIX=/usr/local DESTDIR= SENDMAIL= deploy/install.sh BINARY
#
# The commands sendmail, mailq and newaliases are links below
# PREFIX/libexec/postern. With SENDMAIL=/usr/sbin they are also made there,
# sendmail, and in bin beside it, mailq and newaliases, where nobody else's
# commands are: those of another mail system are never touched.
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
commands=$prefix/libexec/postern

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

# link TARGET makes TARGET lead to the program, unless it is somebody else's.
link() {
	mkdir -p "$(dirname "$destdir$1")"
	if [ -e "$destdir$1" ] || [ -L "$destdir$1" ]; then
		if [ "$(readlink "$destdir$1")" != "$bindir/postern" ]; then
			echo "install: $1 is another mail system's and is left alone"
		fi
		return
	fi
	ln -s "$bindir/postern" "$destdir$1"
}

for command in sendmail mailq newaliases; do
	link "$commands/$command"
done
if [ -n "${SENDMAIL:-}" ]; then
	link "$SENDMAIL/sendmail"
	link "$(dirname "$SENDMAIL")/bin/mailq"
	link "$(dirname "$SENDMAIL")/bin/newaliases"
fi

put 0644 "$here/man/postern.8" "$share/man/man8/postern.8"
put 0644 "$here/man/postern.hcl.5" "$share/man/man5/postern.hcl.5"
for unit in postern.service postern-pam.socket postern-pam.service postern-gssapi.socket postern-gssapi.service; do
	put 0644 "$here/systemd/$unit" "$libdir/systemd/system/$unit"
done
put 0644 "$here/sysusers.d/postern.conf" "$libdir/sysusers.d/postern.conf"
for example in "$here"/examples/*.hcl; do
	put 0644 "$example" "$share/doc/postern/examples/$(basename "$example")"
done
for folder in . adr formats; do
	for document in "$here/../docs/$folder"/*.md; do
		put 0644 "$document" "$share/doc/postern/$folder/$(basename "$document")"
	done
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
and, where Kerberos tickets log in, with a keytab in /etc/postern/postern.keytab:
  systemctl enable --now postern-gssapi.socket
and, for programs of this machine that call sendmail, with a listener of mode local:
  SENDMAIL=/usr/sbin make install                 # where no other mail system is installed
END
