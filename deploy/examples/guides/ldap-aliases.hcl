# Aliases from LDAP by the very file that Postfix reads: tables/ldap-aliases.cf.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"

  # virtual_alias_maps = ldap:/etc/postfix/ldap-aliases.cf
  table "aliases" { postfix_file = "/etc/postern/ldap-aliases.cf" }
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" {
    bind = [":25"]
  }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.people
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imaps" { bind = [":993"] }
}
