# A server for outgoing mail: whoever logs in, over TLS only, sends anywhere under
# addresses of his own. Nobody else sends beyond our domains.
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

    # smtpd_sasl_auth_enable = yes. smtpd_tls_auth_only = yes is our default.
    auth = "optional"
  }

  mynetworks = ["127.0.0.0/8"]

  # smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
  policy "relay" {
    permit_mynetworks {}
    permit_sasl_authenticated {}
    defer_unauth_destination {}
  }

  # smtpd_sender_restrictions = reject_sender_login_mismatch
  policy "sender" {
    reject_sender_login_mismatch {}
  }

  # smtpd_client_connection_rate_limit, smtpd_client_message_rate_limit,
  # smtpd_client_event_limit_exceptions, anvil_rate_time_unit
  limits {
    client_connection_rate_limit  = 60
    client_message_rate_limit     = 100
    client_event_limit_exceptions = ["192.0.2.0/24"]
    rate_time_unit                = "60s"
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
