# One machine that does everything for example.com: people and passwords from
# OpenLDAP, mail in by SMTP and submission, mailboxes read by IMAP. The ports
# are high ones on loopback, to try it beside a mail server that is in use; the
# usual ones stand in the comments.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldap" "corp" {
  preset             = "openldap"
  uris               = ["ldap://127.0.0.1:3389"] # elsewhere: ldaps://ldap1.example.com, ldaps://ldap2.example.com
  base               = "dc=example,dc=com"
  bind_dn            = "cn=mail,ou=services,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
}

authn "ldap" { directory = directory.corp }

gateway {
  listener "mx" { bind = ["127.0.0.1:2525"] }         # :25
  listener "submission" { bind = ["127.0.0.1:2587"] } # :587

  domains "local" {
    names      = ["example.com", "example.net"]
    recipients = directory.corp
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imap" { bind = ["127.0.0.1:2143"] }  # :143
  listener "imaps" { bind = ["127.0.0.1:2993"] } # :993
}
