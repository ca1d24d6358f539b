# Logins on port 25, and the list of restrictions that the guides put after them.
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
  listener "mx" {
    bind = [":25"]

    # smtpd_sasl_auth_enable = yes
    auth = "optional"

    # smtpd_tls_auth_only = no: logins are offered in the clear. Take it out.
    allow_plaintext_auth = true

    # mech_list: PLAIN LOGIN. There is no anonymous login (noanonymous).
    sasl { mechanisms = ["PLAIN", "LOGIN"] }
  }

  # So that everybody has to log in, only this machine is trusted.
  mynetworks = ["127.0.0.0/8"]

  # smtpd_recipient_restrictions = permit_mynetworks, permit_sasl_authenticated,
  #   reject_invalid_hostname, reject_non_fqdn_hostname, reject_unknown_sender_domain,
  #   reject_non_fqdn_sender, reject_non_fqdn_recipient, reject_unknown_recipient_domain,
  #   reject_unauth_pipelining, reject_unauth_destination
  policy "recipient" {
    permit_mynetworks {}
    permit_sasl_authenticated {}
    reject_invalid_hostname {}
    reject_non_fqdn_hostname {}
    reject_unknown_sender_domain {}
    reject_non_fqdn_sender {}
    reject_non_fqdn_recipient {}
    reject_unknown_recipient_domain {}
    reject_unauth_pipelining {}
    reject_unauth_destination {}
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
