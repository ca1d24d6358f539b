# Postern on a 389 Directory Server, or Red Hat Directory Server, with the mail
# classes it comes with: mailRecipient and mailGroup. docs/directory-389ds.md
# tells how to make the service account.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldap" "corp" {
  preset             = "389ds"
  uris               = ["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]
  ca_file            = "/etc/postern/ldap-ca.pem"
  bind_dn            = "uid=mail,ou=services,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
}

authn "ldap" { directory = directory.corp }

gateway {
  listener "mx" { bind = [":25"] }
  listener "submission" { bind = [":587"] }
  listener "submissions" { bind = [":465"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.corp
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }

  policy "sender" {
    reject_non_fqdn_sender {}
    reject_unauthenticated_sender_login_mismatch {}
  }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }
}
