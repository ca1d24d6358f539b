# The aliases file of the system: names without a mailbox, and mail that goes on to
# somebody elsewhere. The table: tables/aliases. No newaliases.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"

  # alias_maps = hash:/etc/aliases
  alias_files = ["/etc/postern/aliases"]
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" {
    bind = [":25"]
  }

  # mydestination = $myhostname, localhost.$mydomain, localhost, $mydomain
  domains "local" {
    names      = ["example.com", "mail.example.com", "localhost.example.com"]
    recipients = directory.people
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imaps" { bind = [":993"] }
}
