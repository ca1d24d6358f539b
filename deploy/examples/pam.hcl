# Addresses from the directory, passwords by PAM: for SSSD, Kerberos or local
# accounts. PAM runs in a helper of its own (postern-pam.socket); its service
# is /etc/pam.d/postern.
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

authn "pam" {
  directory = directory.corp # alice@example.com is asked as alice
  service   = "postern"
  socket    = "/run/postern-pam.sock"
}

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
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }
}
