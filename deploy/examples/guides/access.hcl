# Access tables: one client, the senders of a domain, the recipients of a domain
# and a user's name at any domain are refused. The tables, in Postfix's notation:
# tables/access, tables/denydstdomains, tables/mailhostdeny. No postmap, no reload.
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
  }

  mynetworks = ["127.0.0.0/8"]

  # smtpd_client_restrictions = check_client_access hash:/etc/postfix/access
  policy "client" {
    check_client_access { table = "/etc/postern/access" }
  }

  # smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/access
  policy "sender" {
    check_sender_access { table = "/etc/postern/access" }
  }

  # smtpd_recipient_restrictions = check_recipient_access hash:/etc/postfix/denydstdomains,
  #   check_recipient_access hash:/etc/postfix/mailhostdeny, permit_mynetworks, reject_unauth_destination
  policy "recipient" {
    check_recipient_access { table = "/etc/postern/denydstdomains" }
    check_recipient_access { table = "/etc/postern/mailhostdeny" }
    permit_mynetworks {}
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
