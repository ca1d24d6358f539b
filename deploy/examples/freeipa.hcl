# Postern on FreeIPA: two replicas, a system account that searches, logins by
# uid or by address. Groups get mail once they have a mail attribute.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldap" "ipa" {
  preset             = "freeipa"
  uris               = ["ldaps://ipa1.example.com", "ldaps://ipa2.example.com"] # or those the DNS names: ["ldaps:///dc=example,dc=com"]
  ca_file            = "/etc/postern/ipa-ca.crt"
  bind_dn            = "uid=mail,cn=sysaccounts,cn=etc,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
}

authn "ldap" { directory = directory.ipa }

gateway {
  listener "mx" { bind = [":25"] }
  listener "submission" { bind = [":587"] }
  listener "submissions" { bind = [":465"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.ipa
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }

  policy "helo" {
    reject_invalid_helo_hostname {}
  }

  policy "sender" {
    reject_non_fqdn_sender {}
    reject_unknown_sender_domain {}
    reject_unauthenticated_sender_login_mismatch {}
  }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imap" { bind = [":143"] }
  listener "imaps" { bind = [":993"] }
}
