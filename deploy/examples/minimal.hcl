# Nothing but Postern: people, aliases, groups and password hashes in a file.
# Make the hashes with "postern password".
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" { bind = [":25"] }
  listener "submission" { bind = [":587"] }
  listener "submissions" { bind = [":465"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.people
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }
  # For programs that fetch by POP3, too:
  # listener "pop3s" { bind = [":995"] }
}
