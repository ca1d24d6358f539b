# A gateway before Dovecot, which keeps the mailboxes and takes mail by LMTP.
# Dovecot's side:
#
#   service lmtp {
#     unix_listener lmtp {
#       mode  = 0660
#       group = postern
#     }
#   }
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldap" "corp" {
  preset             = "openldap"
  uris               = ["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]
  base               = "dc=example,dc=com"
  bind_dn            = "cn=mail,ou=services,dc=example,dc=com"
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
    deliver    = target.dovecot
  }

  target "lmtp" "dovecot" { address = ["unix:/run/dovecot/lmtp"] }
}
